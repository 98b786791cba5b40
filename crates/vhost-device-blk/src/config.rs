// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Feature bits, configuration space and the bounds of requests, all from one [`Config`].
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use vu_storage::{Limits, Range};
use zerocopy::little_endian::{U16, U32, U64};

use crate::request::{Bounds, MAX_SEGMENTS};
use crate::spec::{ConfigSpace, Geometry, SECTOR, Topology, feature};

/// Longest chain that a driver is told to build. Its table is one page then, which a driver always gets, and it is
/// served in the smaller rings of a front end, too.
const MAX_CHAIN: u16 = 256;
/// Heads and sectors per track of disks that have none: what systems agreed on that boot by them.
const HEADS: u8 = 16;
const SECTORS_PER_TRACK: u8 = 63;
const SECTORS_PER_CYLINDER: u64 = 16 * 63;
/// Most cylinders that such systems can name.
const MAX_CYLINDERS: u16 = 16383;

/// When writes become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// When the driver flushes; it may switch to [`Writethrough`](Self::Writethrough).
    #[default]
    Writeback,
    /// Before they complete; the driver may switch to [`Writeback`](Self::Writeback).
    Writethrough,
    /// Whenever the host likes: no flush is offered.
    Unsafe,
}

/// The facts of one disk that do not change while it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the storage says, and what of it is to be offered.
    pub limits: Limits,
    /// When writes become durable.
    pub cache: Cache,
    /// Virtqueues.
    pub queues: u16,
    /// Largest virtqueue.
    pub queue_size: u16,
    /// Whether the storage tells of its wear.
    pub lifetime: bool,
}

impl Config {
    /// The device-specific feature bits to offer (section 5.2.3).
    pub fn features(&self) -> u64 {
        let always =
            feature::SEG_MAX | feature::GEOMETRY | feature::BLK_SIZE | feature::TOPOLOGY | feature::MQ;
        let rest = [
            (self.limits.read_only, feature::RO),
            (self.flushes(), feature::FLUSH | feature::CONFIG_WCE),
            (self.discard().is_some(), feature::DISCARD),
            (self.write_zeroes().is_some(), feature::WRITE_ZEROES),
            (self.secure_erase().is_some(), feature::SECURE_ERASE),
            (self.lifetime, feature::LIFETIME),
        ];
        let offered = rest.into_iter().filter(|(offered, _)| *offered);
        offered.fold(always, |bits, (_, bit)| bits | bit)
    }

    /// The configuration space of a disk of `capacity` bytes (section 5.2.4).
    pub fn space(&self, capacity: u64, writeback: bool) -> ConfigSpace {
        let mut space = ConfigSpace {
            capacity: U64::new(capacity / SECTOR),
            seg_max: U32::new(self.queue_size.min(MAX_CHAIN).saturating_sub(2).max(1).into()),
            geometry: geometry(capacity),
            blk_size: U32::new(self.limits.logical_block),
            topology: topology(&self.limits),
            writeback: writeback.into(),
            num_queues: U16::new(self.queues),
            ..ConfigSpace::default()
        };
        let segments = U32::new(MAX_SEGMENTS as u32);
        if let Some(range) = self.discard() {
            space.max_discard_sectors = U32::new(self.max_sectors(&range));
            space.max_discard_seg = segments;
            space.discard_sector_alignment = U32::new(sectors(range.alignment.into()));
        }
        if let Some(range) = self.write_zeroes() {
            space.max_write_zeroes_sectors = U32::new(self.max_sectors(&range));
            space.max_write_zeroes_seg = segments;
            space.write_zeroes_may_unmap = self.discard().is_some().into();
        }
        if let Some(range) = self.secure_erase() {
            space.max_secure_erase_sectors = U32::new(self.max_sectors(&range));
            space.max_secure_erase_seg = segments;
            space.secure_erase_sector_alignment = U32::new(sectors(range.alignment.into()));
        }
        space
    }

    /// What requests are held against while the disk has `capacity` bytes.
    pub fn bounds(&self, capacity: u64) -> Bounds {
        let sectors = |range: Option<Range>| range.map(|range| self.max_sectors(&range));
        Bounds {
            capacity,
            block: self.limits.logical_block,
            read_only: self.limits.read_only,
            discard: sectors(self.discard()),
            write_zeroes: sectors(self.write_zeroes()),
            secure_erase: sectors(self.secure_erase()),
            lifetime: self.lifetime,
        }
    }

    /// Whether flushes are offered and have an effect.
    pub fn flushes(&self) -> bool {
        self.cache != Cache::Unsafe
    }

    /// Whether a write that is submitted now has to be durable when it completes: when it "becomes stable"
    /// (section 5.2.6.2), for a driver with these negotiated `features`.
    pub fn writes_through(&self, features: u64, writeback: bool) -> bool {
        let negotiated = features & (feature::FLUSH | feature::CONFIG_WCE) != 0;
        self.flushes() && !(negotiated && writeback)
    }

    fn discard(&self) -> Option<Range> {
        self.limits.discard.filter(|_| !self.limits.read_only)
    }

    fn write_zeroes(&self) -> Option<Range> {
        self.limits.write_zeroes.filter(|_| !self.limits.read_only)
    }

    fn secure_erase(&self) -> Option<Range> {
        self.limits.secure_erase.filter(|_| !self.limits.read_only)
    }

    /// Most sectors of one segment, whole blocks.
    fn max_sectors(&self, range: &Range) -> u32 {
        let block = sectors(self.limits.logical_block.into());
        let most = sectors(range.max_len);
        most.saturating_sub(most.checked_rem(block).unwrap_or(0))
    }
}

/// Whole sectors in so many bytes, as many as a field holds.
fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX)
}

/// The geometry that others compute, too, so that an image boots here and there.
fn geometry(capacity: u64) -> Geometry {
    let cylinders = capacity / SECTOR / SECTORS_PER_CYLINDER;
    let cylinders = u16::try_from(cylinders).map_or(MAX_CYLINDERS, |c| c.clamp(2, MAX_CYLINDERS));
    Geometry {
        cylinders: U16::new(cylinders),
        heads: HEADS,
        sectors: SECTORS_PER_TRACK,
    }
}

/// In logical blocks. A size that the field cannot hold is not told, since part of it would be wrong.
fn topology(limits: &Limits) -> Topology {
    let blocks = |bytes: u32| bytes.checked_div(limits.logical_block).unwrap_or(0);
    let physical = blocks(limits.physical_block).max(1);
    let smallest = blocks(limits.minimum_io).max(physical);
    Topology {
        physical_block_exp: physical.ilog2() as u8,
        // The host's blocks are counted from the start of what it gives us.
        alignment_offset: 0,
        min_io_size: U16::new(u16::try_from(smallest).unwrap_or(0)),
        opt_io_size: U32::new(blocks(limits.optimal_io)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    const RANGE: Range = Range {
        max_len: (1 << 30) + 512,
        alignment: 65536,
    };

    fn config() -> Config {
        Config {
            limits: Limits {
                read_only: false,
                logical_block: 4096,
                physical_block: 16384,
                minimum_io: 65536,
                optimal_io: 1 << 20,
                rotational: None,
                discard: None,
                write_zeroes: None,
                secure_erase: None,
            },
            cache: Cache::Writeback,
            queues: 0x1234,
            queue_size: 1024,
            lifetime: false,
        }
    }

    fn bytes(config: &Config, capacity: u64) -> Vec<u8> {
        config.space(capacity, true).as_bytes().to_vec()
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn each_field_lies_where_the_specification_says() {
        let mut config = config();
        config.limits.discard = Some(RANGE);
        config.limits.write_zeroes = Some(Range {
            max_len: u64::MAX,
            alignment: 512,
        });
        config.limits.secure_erase = Some(Range {
            max_len: 8192,
            alignment: 4096,
        });
        let bytes = bytes(&config, 0x1122_3344_5000);
        assert_eq!(bytes.len(), 96);
        assert_eq!(bytes[..8], (0x1122_3344_5000_u64 / 512).to_le_bytes());
        assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 12)), (0, 254));
        assert_eq!(bytes[16..20], [0xff, 0x3f, 16, 63]);
        assert_eq!(u32_at(&bytes, 20), 4096);
        assert_eq!(bytes[24..28], [2, 0, 16, 0]);
        assert_eq!(u32_at(&bytes, 28), 256);
        assert_eq!(bytes[32..36], [1, 0, 0x34, 0x12]);
        let numbers: Vec<_> = (36..56).step_by(4).map(|at| u32_at(&bytes, at)).collect();
        // The last sector of the longest discard is no whole block, and 2^32 sectors are cut to whole blocks.
        assert_eq!(numbers, [1 << 21, 256, 128, u32::MAX - 7, 256]);
        assert_eq!(bytes[56..60], [1, 0, 0, 0]);
        let numbers: Vec<_> = (60..72).step_by(4).map(|at| u32_at(&bytes, at)).collect();
        assert_eq!(numbers, [16, 256, 8]);
        assert_eq!(bytes[72..], [0; 24]);
        assert_eq!(crate::spec::WRITEBACK_OFFSET, 32);
    }

    #[test]
    fn bits_and_fields_come_and_go_together() {
        type Change = fn(&mut Config);
        let cases: [(u64, std::ops::Range<usize>, Change); 3] = [
            (feature::DISCARD, 36..48, |c| c.limits.discard = Some(RANGE)),
            (feature::WRITE_ZEROES, 48..56, |c| {
                c.limits.write_zeroes = Some(RANGE);
            }),
            (feature::SECURE_ERASE, 60..72, |c| {
                c.limits.secure_erase = Some(RANGE);
            }),
        ];
        for (bit, fields, change) in cases {
            let without = config();
            let mut with = config();
            change(&mut with);
            assert_eq!(with.features(), without.features() | bit);
            assert_eq!(without.features() & bit, 0);
            assert!(bytes(&without, 0)[fields.clone()].iter().all(|byte| *byte == 0));
            for field in bytes(&with, 0)[fields].chunks(4) {
                assert_ne!(field, [0; 4]);
            }
            with.limits.read_only = true;
            assert_eq!(with.features(), without.features() | feature::RO);
        }
        let mut lifetime = config();
        lifetime.lifetime = true;
        assert_eq!(lifetime.features(), config().features() | feature::LIFETIME);
    }

    #[test]
    fn zeroes_unmap_only_what_can_be_discarded() {
        let mut config = config();
        config.limits.write_zeroes = Some(RANGE);
        assert_eq!(bytes(&config, 0)[56], 0);
        config.limits.discard = Some(RANGE);
        assert_eq!(bytes(&config, 0)[56], 1);
    }

    #[test]
    fn the_bits_that_are_always_there() {
        let always = [2, 4, 6, 9, 10, 11, 12]
            .iter()
            .fold(0, |bits, bit| bits | 1_u64 << bit);
        assert_eq!(config().features(), always);
        let mut config = config();
        config.cache = Cache::Unsafe;
        assert_eq!(config.features(), always & !(1 << 9) & !(1 << 11));
    }

    #[test]
    fn chains_fit_the_ring_and_one_page() {
        for (size, most) in [(1024, 254), (256, 254), (128, 126), (4, 2), (2, 1)] {
            let mut config = config();
            config.queue_size = size;
            assert_eq!(u32_at(&bytes(&config, 0), 12), most);
        }
    }

    #[test]
    fn small_disks_have_two_cylinders_and_large_ones_the_most_there_are() {
        let cylinders = |capacity| geometry(capacity).cylinders.get();
        assert_eq!(cylinders(0), 2);
        assert_eq!(cylinders(100 * 16 * 63 * 512), 100);
        assert_eq!(cylinders(1 << 40), 16383);
        assert_eq!(cylinders(u64::MAX), 16383);
    }

    #[test]
    fn sizes_that_are_unknown_or_too_large_are_not_made_up() {
        let mut limits = config().limits;
        (limits.minimum_io, limits.optimal_io) = (0, 0);
        let told = topology(&limits);
        assert_eq!((told.min_io_size.get(), told.opt_io_size.get()), (4, 0));
        limits.minimum_io = 1 << 30;
        assert_eq!(topology(&limits).min_io_size.get(), 0);
    }

    #[test]
    fn a_write_is_stable_as_the_specification_says() {
        let (flush, wce) = (feature::FLUSH, feature::CONFIG_WCE);
        let mut config = config();
        for (features, writeback, through) in [
            // Case 1: neither was negotiated.
            (0, true, true),
            (0, false, true),
            // Case 2, and its contrary.
            (flush | wce, false, true),
            (flush | wce, true, false),
            (wce, false, true),
            (wce, true, false),
            // Only case 3 is left, unless --cache writethrough set the byte.
            (flush, true, false),
            (flush, false, true),
        ] {
            assert_eq!(
                config.writes_through(features | feature::MQ, writeback),
                through,
                "{features:#x} {writeback}"
            );
        }
        config.cache = Cache::Unsafe;
        assert!(!config.writes_through(0, false));
    }
}
