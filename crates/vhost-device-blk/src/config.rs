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
            capacity: U64::new(capacity / u64::from(SECTOR)),
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
            space.discard_sector_alignment = U32::new(range.alignment / SECTOR);
        }
        if let Some(range) = self.write_zeroes() {
            space.max_write_zeroes_sectors = U32::new(self.max_sectors(&range));
            space.max_write_zeroes_seg = segments;
            space.write_zeroes_may_unmap = self.discard().is_some().into();
        }
        if let Some(range) = self.secure_erase() {
            space.max_secure_erase_sectors = U32::new(self.max_sectors(&range));
            space.max_secure_erase_seg = segments;
            space.secure_erase_sector_alignment = U32::new(range.alignment / SECTOR);
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
        let block = (self.limits.logical_block / SECTOR).max(1);
        let sectors = u32::try_from(range.max_len / u64::from(SECTOR)).unwrap_or(u32::MAX);
        sectors.saturating_sub(sectors.checked_rem(block).unwrap_or(0))
    }
}

/// The geometry that others compute, too, so that an image boots here and there.
fn geometry(capacity: u64) -> Geometry {
    let cylinder = u64::from(SECTOR)
        .saturating_mul(HEADS.into())
        .saturating_mul(SECTORS_PER_TRACK.into());
    let cylinders = capacity.checked_div(cylinder).unwrap_or(0);
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
