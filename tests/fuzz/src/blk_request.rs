// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parser of block requests, beside a second opinion on what is a good one.
//!
//! An input is 16 bytes about the disk and the request's lengths, see [`Disk`], and then what the driver wrote.

use vhost_device_blk::request::{Bounds, Effect, Extent, Request, Segment, parse};

const SECTOR: u128 = 512;
/// What the bytes before the request say.
const PREFIX: usize = 16;

/// The disk, and the room that the driver left for the answer.
struct Disk {
    bounds: Bounds,
    writable: usize,
    /// The driver's memory goes away before all of it is read.
    torn: bool,
}

impl Disk {
    /// Capacity in blocks (4 bytes), its scale, block size, limits in sectors (3 times 2 bytes), writable bytes (2), flags.
    fn new(prefix: &[u8; PREFIX]) -> Self {
        let word = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
        let block = 512_u32 << (prefix[5] % 8);
        let blocks = u64::from(word(0)) | u64::from(word(2)) << 16;
        let limit = |at: usize, bit: u8| {
            (prefix[14] >> bit & 1 == 0).then_some(u32::from(word(at)) << (prefix[15] % 17))
        };
        Self {
            bounds: Bounds {
                capacity: (blocks << (prefix[4] % 16)).saturating_mul(block.into()) & !(u64::from(block) - 1),
                block,
                read_only: prefix[14] >> 3 & 1 == 1,
                discard: limit(6, 0),
                write_zeroes: limit(8, 1),
                secure_erase: limit(10, 2),
                lifetime: prefix[14] >> 4 & 1 == 1,
            },
            writable: usize::from(word(12)),
            torn: prefix[14] >> 5 & 1 == 1,
        }
    }

    /// Whether so many sectors from `sector` on are whole blocks of the disk.
    fn holds(&self, sector: u64, sectors: u64) -> bool {
        let (start, len) = (u128::from(sector) * SECTOR, u128::from(sectors) * SECTOR);
        let block = u128::from(self.bounds.block);
        start % block == 0 && len % block == 0 && start + len <= u128::from(self.bounds.capacity)
    }

    fn extent(&self, sector: u64, bytes: u64) -> Option<Extent> {
        let whole = bytes.is_multiple_of(512) && self.holds(sector, bytes / 512);
        whole.then(|| Extent {
            offset: sector * 512,
            len: bytes,
        })
    }

    /// The request and its segments, if it is a good one.
    fn expected(&self, bytes: &[u8]) -> Option<(Request, Vec<Segment>)> {
        let le = |at: usize, len: usize| {
            bytes[at..at + len]
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        if bytes.len() < 16 {
            return None;
        }
        let (kind, sector, data) = (le(0, 4), le(8, 8), &bytes[16..]);
        if self.bounds.read_only && [1, 11, 13, 14].contains(&kind) {
            return None;
        }
        let room = self.writable.saturating_sub(1);
        let (effect, limit) = match kind {
            0 => return Some((Request::Read(self.extent(sector, room as u64)?), vec![])),
            1 => return Some((Request::Write(self.extent(sector, data.len() as u64)?), vec![])),
            4 => return Some((Request::Flush, vec![])),
            8 => return Some((Request::GetId, vec![])),
            10 => return (self.bounds.lifetime && room >= 6).then_some((Request::GetLifetime, vec![])),
            11 => (Effect::Discard, self.bounds.discard?),
            13 => (Effect::WriteZeroes, self.bounds.write_zeroes?),
            14 => (Effect::SecureErase, self.bounds.secure_erase?),
            _ => return None,
        };
        let count = data.len() / 16;
        if data.len() % 16 != 0 || count == 0 || count > 256 {
            return None;
        }
        let segment = |index: usize| {
            let at = 16 + 16 * index;
            let (sector, sectors, flags) = (le(at, 8), le(at + 8, 4), le(at + 12, 4));
            let known = u64::from(effect == Effect::WriteZeroes);
            let good = flags <= known && sectors <= u64::from(limit);
            let extent = self.extent(sector, sectors * 512).filter(|_| good)?;
            Some(Segment {
                extent,
                unmap: flags == 1,
            })
        };
        Some((
            Request::Segments(effect),
            (0..count).map(segment).collect::<Option<_>>()?,
        ))
    }
}

/// The target.
///
/// # Panics
/// When the parser lets something else pass than the specification and the disk allow, or refuses what they do allow.
pub(crate) fn run(input: &[u8]) {
    let Some((prefix, bytes)) = input.split_first_chunk() else {
        return;
    };
    let disk = Disk::new(prefix);
    let mut segments = vec![];
    if disk.torn && !bytes.is_empty() {
        let mut part = &bytes[..bytes.len() / 2];
        // Whatever it says of half a request, it must not take more from it than is there.
        let _ = parse(&mut part, bytes.len(), disk.writable, &disk.bounds, &mut segments);
        assert!(
            segments
                .iter()
                .all(|segment| segment.extent.len <= disk.bounds.capacity)
        );
        return;
    }
    let mut reader = bytes;
    let found = parse(
        &mut reader,
        bytes.len(),
        disk.writable,
        &disk.bounds,
        &mut segments,
    );
    match (found, disk.expected(bytes)) {
        (Ok(found), Some((expected, expected_segments))) => {
            assert_eq!(found, expected);
            if let Request::Segments(_) = found {
                assert_eq!(segments, expected_segments);
            }
        }
        (Err(_), None) => {}
        (found, expected) => panic!("{found:?} instead of {expected:?} with {:?}", disk.bounds),
    }
}
