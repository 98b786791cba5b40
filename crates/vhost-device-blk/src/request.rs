// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the bytes of a request to a checked [`Request`]. Pure: it sees no chain, no storage and no status.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io::Read;

use zerocopy::IntoBytes;

use crate::spec::{DiscardWriteZeroes, FLAG_UNMAP, Header, SECTOR, kind};

/// Length of a request's header in bytes.
pub const HEADER_LEN: usize = size_of::<Header>();
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
    let len_in_bytes = len as u64;
    if !len_in_bytes.is_multiple_of(SECTOR.into()) {
        return Err(Fault::Length { kind, len });
    }
    extent(sector, len_in_bytes / u64::from(SECTOR), bounds)
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
        let offset = sector.checked_mul(SECTOR.into())?;
        let len = sectors.checked_mul(SECTOR.into())?;
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
        let size = size_of::<DiscardWriteZeroes>();
        let count = len / size;
        if !len.is_multiple_of(size) || !(1..=MAX_SEGMENTS).contains(&count) {
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
