// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the bytes of a request to a checked [`Request`]. Pure: it sees no chain, no storage and no status.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io::Read;

use zerocopy::IntoBytes;

use crate::spec::{DiscardWriteZeroes, FLAG_UNMAP, Header, SECTOR, kind};

/// Length of a request's header in bytes.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Length of a segment in bytes.
const SEGMENT_LEN: usize = size_of::<DiscardWriteZeroes>();
/// Most segments of a discard, write-zeroes or secure-erase request: one page of them, and as many as Linux
/// puts into one.
pub const MAX_SEGMENTS: usize = 256;

/// What the driver asks for. It lies within the disk, and the disk can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read these bytes into the device-writable part.
    Read(Extent),
    /// Write the device-readable part, after the header, to these bytes.
    Write(Extent),
    /// Make durable what was written.
    Flush,
    /// Tell the serial number.
    GetId,
    /// Tell the wear.
    GetLifetime,
    /// Do this to each of the segments.
    Segments(Effect),
}

/// What happens to segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They are needed no longer.
    Discard,
    /// They become zero.
    WriteZeroes,
    /// All copies of them are destroyed.
    SecureErase,
}

/// A part of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// An extent as a request of segments names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which bytes.
    pub extent: Extent,
    /// The storage may deallocate them; only in write-zeroes requests.
    pub unmap: bool,
}

/// What a request is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the disk.
    pub capacity: u64,
    /// Bytes of a logical block; every extent is made of whole ones.
    pub block: u32,
    /// Nothing may be written.
    pub read_only: bool,
    /// Most sectors of a segment to discard; `None` if that cannot be done.
    pub discard: Option<u32>,
    /// Most sectors of a segment to zero; `None` if that cannot be done.
    pub write_zeroes: Option<u32>,
    /// Most sectors of a segment to erase; `None` if that cannot be done.
    pub secure_erase: Option<u32>,
    /// Whether the wear is known.
    pub lifetime: bool,
}

/// What is wrong with a request. Its status says so, and nothing else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Fewer bytes than a header has.
    #[error("a header of {0} bytes")]
    Header(usize),
    /// No such type, or one for which the bit was not offered.
    #[error("type {0} is not supported")]
    Kind(u32),
    /// Bits of `flags` that mean nothing to us.
    #[error("flags {flags:#x} in a segment of type {kind}")]
    Flags {
        /// Type of the request.
        kind: u32,
        /// The flags.
        flags: u32,
    },
    /// Changes a disk that cannot be written.
    #[error("type {0} on a read-only disk")]
    ReadOnly(u32),
    /// Data that is not made of whole blocks, or too short for the answer.
    #[error("{len} bytes of data in a request of type {kind}")]
    Length {
        /// Type of the request.
        kind: u32,
        /// Bytes of data.
        len: usize,
    },
    /// Outside of the disk, or not at the boundaries of blocks.
    #[error("{sectors} sectors at {sector}: not whole blocks within the disk")]
    Extent {
        /// First sector.
        sector: u64,
        /// Sectors.
        sectors: u64,
    },
    /// More sectors than a segment may have.
    #[error("a segment of {0} sectors")]
    Segment(u32),
}

/// Reads a request: `readable_len` bytes come from `readable`, `writable_len` is what the driver left room for,
/// the status included. The segments of a [`Request::Segments`] replace what is in `segments`.
///
/// Each byte is read once, since the driver may change it meanwhile.
///
/// # Errors
/// See [`Fault`].
pub fn parse(
    readable: &mut impl Read,
    readable_len: usize,
    writable_len: usize,
    bounds: &Bounds,
    segments: &mut Vec<Segment>,
) -> Result<Request, Fault> {
    let mut header = Header::default();
    if readable.read_exact(header.as_mut_bytes()).is_err() {
        return Err(Fault::Header(readable_len));
    }
    let (kind, sector) = (header.kind.get(), header.sector.get());
    let data_out = readable_len.saturating_sub(HEADER_LEN);
    let data_in = writable_len.saturating_sub(1);
    if bounds.read_only
        && matches!(
            kind,
            kind::OUT | kind::DISCARD | kind::WRITE_ZEROES | kind::SECURE_ERASE
        )
    {
        return Err(Fault::ReadOnly(kind));
    }
    let segments_of = |effect, limit: Option<u32>| (effect, limit.ok_or(Fault::Kind(kind)));
    let (effect, limit) = match kind {
        kind::IN => return data(kind, sector, data_in, bounds).map(Request::Read),
        kind::OUT => return data(kind, sector, data_out, bounds).map(Request::Write),
        kind::FLUSH => return Ok(Request::Flush),
        kind::GET_ID => return Ok(Request::GetId),
        kind::GET_LIFETIME if bounds.lifetime => return lifetime(data_in),
        kind::DISCARD => segments_of(Effect::Discard, bounds.discard),
        kind::WRITE_ZEROES => segments_of(Effect::WriteZeroes, bounds.write_zeroes),
        kind::SECURE_ERASE => segments_of(Effect::SecureErase, bounds.secure_erase),
        _ => return Err(Fault::Kind(kind)),
    };
    let list = List {
        kind,
        effect,
        limit: limit?,
    };
    list.parse(readable, data_out, bounds, segments)?;
    Ok(Request::Segments(effect))
}

/// The extent of a read or write.
fn data(kind: u32, sector: u64, len: usize, bounds: &Bounds) -> Result<Extent, Fault> {
    let bytes = len as u64;
    if !bytes.is_multiple_of(SECTOR) {
        return Err(Fault::Length { kind, len });
    }
    extent(sector, bytes / SECTOR, bounds)
}

fn lifetime(data_in: usize) -> Result<Request, Fault> {
    if data_in < size_of::<crate::spec::Lifetime>() {
        return Err(Fault::Length {
            kind: kind::GET_LIFETIME,
            len: data_in,
        });
    }
    Ok(Request::GetLifetime)
}

/// `sectors` from `sector` on, if they are whole blocks within the disk.
fn extent(sector: u64, sectors: u64, bounds: &Bounds) -> Result<Extent, Fault> {
    let within = || {
        let offset = sector.checked_mul(SECTOR)?;
        let len = sectors.checked_mul(SECTOR)?;
        let block = u64::from(bounds.block);
        let fits = offset.checked_add(len)? <= bounds.capacity;
        let whole = offset.is_multiple_of(block) && len.is_multiple_of(block);
        (fits && whole).then_some(Extent { offset, len })
    };
    within().ok_or(Fault::Extent { sector, sectors })
}

/// How the segments of one request are to be read.
struct List {
    kind: u32,
    effect: Effect,
    limit: u32,
}

impl List {
    fn parse(
        &self,
        readable: &mut impl Read,
        len: usize,
        bounds: &Bounds,
        segments: &mut Vec<Segment>,
    ) -> Result<(), Fault> {
        segments.clear();
        let fault = Fault::Length { kind: self.kind, len };
        let count = len / SEGMENT_LEN;
        if !len.is_multiple_of(SEGMENT_LEN) || !(1..=MAX_SEGMENTS).contains(&count) {
            return Err(fault);
        }
        for _ in 0..count {
            let mut raw = DiscardWriteZeroes::default();
            if readable.read_exact(raw.as_mut_bytes()).is_err() {
                return Err(fault);
            }
            segments.push(self.segment(&raw, bounds)?);
        }
        Ok(())
    }

    fn segment(&self, raw: &DiscardWriteZeroes, bounds: &Bounds) -> Result<Segment, Fault> {
        let (flags, sectors) = (raw.flags.get(), raw.num_sectors.get());
        let known = if self.effect == Effect::WriteZeroes {
            FLAG_UNMAP
        } else {
            0
        };
        if flags & !known != 0 {
            return Err(Fault::Flags {
                kind: self.kind,
                flags,
            });
        }
        if sectors > self.limit {
            return Err(Fault::Segment(sectors));
        }
        Ok(Segment {
            extent: extent(raw.sector.get(), sectors.into(), bounds)?,
            unmap: flags & FLAG_UNMAP != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::feature;

    const BOUNDS: Bounds = Bounds {
        capacity: 1 << 20,
        block: 512,
        read_only: false,
        discard: Some(100),
        write_zeroes: Some(200),
        secure_erase: None,
        lifetime: true,
    };
    /// One past the last sector.
    const END: u64 = 2048;

    fn header(kind: u32, sector: u64) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0xff; 4]);
        bytes.extend(sector.to_le_bytes());
        bytes
    }

    fn with_segments(kind: u32, segments: &[(u64, u32, u32)]) -> Vec<u8> {
        let mut bytes = header(kind, u64::MAX);
        for (sector, sectors, flags) in segments {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        bytes
    }

    fn parsed(bytes: &[u8], writable: usize, bounds: &Bounds) -> Result<(Request, Vec<Segment>), Fault> {
        // What was there before must not count.
        let extent = Extent { offset: 7, len: 7 };
        let mut segments = vec![Segment { extent, unmap: true }];
        let request = parse(&mut &bytes[..], bytes.len(), writable, bounds, &mut segments)?;
        Ok((request, segments))
    }

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn reads_and_writes_lie_within_the_disk() {
        let read = |sector, len: usize| parsed(&header(kind::IN, sector), len + 1, &BOUNDS).map(|(r, _)| r);
        let write = |sector, len: usize| {
            let bytes = [header(kind::OUT, sector), vec![0; len]].concat();
            parsed(&bytes, 1, &BOUNDS).map(|(r, _)| r)
        };
        for (sector, len) in [
            (0, 512),
            (3, 4096),
            (END - 1, 512),
            (0, 1 << 20),
            (END, 0),
            (9, 0),
        ] {
            let expected = extent(sector * 512, len as u64);
            assert_eq!(read(sector, len), Ok(Request::Read(expected)));
            assert_eq!(write(sector, len), Ok(Request::Write(expected)));
        }
        for (sector, len) in [
            (END, 512),
            (END - 1, 1024),
            (END + 1, 0),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (1 << 55, 512),
            (0, (1 << 20) + 512),
        ] {
            let sectors = len as u64 / 512;
            assert_eq!(read(sector, len), Err(Fault::Extent { sector, sectors }));
            assert_eq!(write(sector, len), Err(Fault::Extent { sector, sectors }));
        }
        for len in [1, 511, 513] {
            assert_eq!(read(0, len), Err(Fault::Length { kind: kind::IN, len }));
            assert_eq!(write(0, len), Err(Fault::Length { kind: kind::OUT, len }));
        }
    }

    #[test]
    fn large_blocks_are_whole() {
        let bounds = Bounds {
            block: 4096,
            ..BOUNDS
        };
        let read = |sector, len: usize| parsed(&header(kind::IN, sector), len + 1, &bounds).is_ok();
        assert!(read(8, 4096) && read(0, 8192));
        assert!(!read(1, 4096) && !read(8, 512) && !read(4, 2048));
        let discard = |sector, sectors| {
            let bytes = with_segments(kind::DISCARD, &[(sector, sectors, 0)]);
            parsed(&bytes, 1, &bounds).is_ok()
        };
        assert!(discard(8, 8) && !discard(8, 7) && !discard(4, 8));
    }

    #[test]
    fn a_short_header_is_no_request() {
        for len in 0..HEADER_LEN {
            let bytes = &header(kind::FLUSH, 0)[..len];
            assert_eq!(parsed(bytes, 1, &BOUNDS), Err(Fault::Header(len)));
        }
        assert_eq!(
            parsed(&header(kind::FLUSH, 0), 1, &BOUNDS).unwrap().0,
            Request::Flush
        );
    }

    #[test]
    fn types_that_are_unknown_or_not_offered_are_told_apart_from_bad_ones() {
        for kind in [
            2,
            3,
            5,
            7,
            9,
            12,
            15,
            16,
            26,
            kind::SECURE_ERASE,
            0x8000_0000,
            u32::MAX,
        ] {
            assert_eq!(
                parsed(&header(kind, 0), 513, &BOUNDS),
                Err(Fault::Kind(kind)),
                "{kind}"
            );
        }
        let nothing = Bounds {
            discard: None,
            write_zeroes: None,
            lifetime: false,
            ..BOUNDS
        };
        for kind in [kind::DISCARD, kind::WRITE_ZEROES, kind::GET_LIFETIME] {
            let bytes = with_segments(kind, &[(0, 1, 0)]);
            assert_eq!(parsed(&bytes, 7, &nothing), Err(Fault::Kind(kind)));
        }
    }

    #[test]
    fn a_read_only_disk_takes_nothing_that_changes_it() {
        let bounds = Bounds {
            read_only: true,
            ..BOUNDS
        };
        for kind in [kind::OUT, kind::DISCARD, kind::WRITE_ZEROES, kind::SECURE_ERASE] {
            let bytes = with_segments(kind, &[(0, 1, 0)]);
            assert_eq!(parsed(&bytes, 1, &bounds), Err(Fault::ReadOnly(kind)));
        }
        for kind in [kind::IN, kind::FLUSH, kind::GET_ID, kind::GET_LIFETIME] {
            assert!(parsed(&header(kind, 0), 513, &bounds).is_ok(), "{kind}");
        }
    }

    #[test]
    fn segments_replace_what_was_there() {
        let bytes = with_segments(kind::WRITE_ZEROES, &[(0, 200, 1), (END - 1, 1, 0), (5, 0, 0)]);
        let (request, segments) = parsed(&bytes, 1, &BOUNDS).unwrap();
        assert_eq!(request, Request::Segments(Effect::WriteZeroes));
        let of = |offset, len, unmap| Segment {
            extent: extent(offset, len),
            unmap,
        };
        assert_eq!(
            segments,
            [
                of(0, 200 * 512, true),
                of((END - 1) * 512, 512, false),
                of(5 * 512, 0, false)
            ]
        );
        let most = vec![(0, 1, 0); MAX_SEGMENTS];
        let (_, segments) = parsed(&with_segments(kind::DISCARD, &most), 1, &BOUNDS).unwrap();
        assert_eq!(segments.len(), MAX_SEGMENTS);
    }

    #[test]
    fn segments_are_held_against_their_limits() {
        let flags = |kind, flags| Fault::Flags { kind, flags };
        let at = |sector, sectors| Fault::Extent { sector, sectors };
        for (kind, segment, fault) in [
            (kind::DISCARD, (0, 1, 1), flags(kind::DISCARD, 1)),
            (kind::DISCARD, (0, 1, 2), flags(kind::DISCARD, 2)),
            (kind::WRITE_ZEROES, (0, 1, 3), flags(kind::WRITE_ZEROES, 3)),
            (
                kind::WRITE_ZEROES,
                (0, 1, 0x8000_0000),
                flags(kind::WRITE_ZEROES, 0x8000_0000),
            ),
            (kind::DISCARD, (0, 101, 0), Fault::Segment(101)),
            (kind::WRITE_ZEROES, (0, u32::MAX, 0), Fault::Segment(u32::MAX)),
            (kind::DISCARD, (END, 1, 0), at(END, 1)),
            (kind::DISCARD, (END - 99, 100, 0), at(END - 99, 100)),
            (kind::DISCARD, (u64::MAX, 1, 0), at(u64::MAX, 1)),
        ] {
            let bytes = with_segments(kind, &[(0, 1, 0), segment]);
            assert_eq!(parsed(&bytes, 1, &BOUNDS), Err(fault), "{segment:?}");
        }
        for len in [0, 1, 15, 17, 16 * (MAX_SEGMENTS + 1)] {
            let bytes = [header(kind::DISCARD, 0), vec![0; len]].concat();
            let kind = kind::DISCARD;
            assert_eq!(parsed(&bytes, 1, &BOUNDS), Err(Fault::Length { kind, len }));
        }
    }

    #[test]
    fn the_answer_about_the_wear_needs_room() {
        let ask = |room: usize| parsed(&header(kind::GET_LIFETIME, 0), room + 1, &BOUNDS).map(|(r, _)| r);
        assert_eq!(ask(6), Ok(Request::GetLifetime));
        let (kind, len) = (kind::GET_LIFETIME, 5);
        assert_eq!(ask(5), Err(Fault::Length { kind, len }));
    }

    #[test]
    fn every_offered_bit_has_its_requests() {
        let limits = vu_storage::null::open(1 << 20, 512).limits();
        let mut config = crate::config::Config {
            limits,
            cache: crate::config::Cache::Writeback,
            queues: 1,
            queue_size: 128,
            lifetime: true,
        };
        for (kind, bit) in [
            (kind::DISCARD, feature::DISCARD),
            (kind::WRITE_ZEROES, feature::WRITE_ZEROES),
            (kind::SECURE_ERASE, feature::SECURE_ERASE),
        ] {
            for read_only in [false, true] {
                config.limits.read_only = read_only;
                let taken = parsed(&with_segments(kind, &[(0, 1, 0)]), 1, &config.bounds(1 << 20));
                assert_eq!(taken.is_ok(), config.features() & bit != 0);
                assert_eq!(taken.is_ok(), !read_only);
            }
        }
    }
}
