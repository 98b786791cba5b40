// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The chain builder: descriptors, requests, and how a request is cut into descriptors.

/// The buffer continues in the descriptor that `next` names.
pub const NEXT: u16 = 1;
/// The buffer is device-writable.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// One entry of a descriptor table (virtio, "The Virtqueue Descriptor Table").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor, if flagged so.
    pub next: u16,
}

impl Descriptor {
    /// A device-readable buffer.
    #[must_use]
    pub fn readable(addr: u64, len: u32) -> Self {
        Self {
            addr,
            len,
            ..Self::default()
        }
    }

    /// A device-writable buffer.
    #[must_use]
    pub fn writable(addr: u64, len: u32) -> Self {
        Self {
            addr,
            len,
            flags: WRITE,
            next: 0,
        }
    }

    /// A table of `entries` descriptors at `addr`.
    #[must_use]
    pub fn indirect(addr: u64, entries: u32) -> Self {
        Self {
            addr,
            len: entries * 16,
            flags: INDIRECT,
            next: 0,
        }
    }

    /// The same, continued at `next`.
    #[must_use]
    pub fn then(self, next: u16) -> Self {
        Self {
            flags: self.flags | NEXT,
            next,
            ..self
        }
    }

    /// The sixteen bytes of a descriptor in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..].copy_from_slice(&self.word().to_le_bytes());
        bytes
    }

    /// Length, flags and next, as the second 64-bit word of a descriptor.
    #[must_use]
    pub fn word(self) -> u64 {
        u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48
    }
}

/// Links descriptors into a chain whose elements follow one another in the table, from index 0 on.
#[must_use]
pub fn link(descriptors: &[Descriptor]) -> Vec<Descriptor> {
    let last = descriptors.len().saturating_sub(1);
    let linked = |(index, descriptor): (usize, &Descriptor)| {
        let next = u16::try_from(index + 1).unwrap_or(u16::MAX);
        if index == last {
            *descriptor
        } else {
            descriptor.then(next)
        }
    };
    descriptors.iter().enumerate().map(linked).collect()
}

/// What one request gives to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Device-readable bytes.
    pub readable: Vec<u8>,
    /// Number of device-writable bytes.
    pub writable: usize,
}

/// How a request is cut into descriptors. A cut between readable and writable bytes is always made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One descriptor for the readable and one for the writable bytes.
    Whole,
    /// Descriptors of at most so many bytes.
    Pieces(usize),
    /// One more cut, after so many bytes of the whole request.
    SplitAt(usize),
    /// A header and a trailer in descriptors of their own: cuts after so many readable bytes, and before so many
    /// writable bytes at the end.
    Fields(usize, usize),
}

/// Where the descriptors of a chain stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All in the ring's own table.
    Direct,
    /// All in one indirect table.
    Indirect,
    /// The first in the ring's own table, the rest in an indirect table.
    IndirectTail,
}

impl Framing {
    /// Lengths of the descriptors, and whether each is device-writable.
    #[must_use]
    pub fn cut(self, request: &Request) -> Vec<(usize, bool)> {
        let readable = request.readable.len();
        let total = readable + request.writable;
        let mut cuts = vec![readable, total];
        match self {
            Self::Whole => {}
            Self::SplitAt(offset) => cuts.push(offset.min(total)),
            Self::Fields(header, trailer) => {
                cuts.extend([header.min(readable), total - trailer.min(request.writable)]);
            }
            Self::Pieces(size) => {
                cuts.extend((0..readable).step_by(size.max(1)));
                cuts.extend((readable..total).step_by(size.max(1)));
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut start = 0;
        let mut pieces = Vec::new();
        for end in cuts {
            if end > start {
                pieces.push((end - start, start >= readable));
            }
            start = end;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, Framing, NEXT, Request, WRITE, link};

    fn request() -> Request {
        Request {
            readable: vec![0; 3],
            writable: 4,
        }
    }

    #[test]
    fn framings_cover_each_byte_once() {
        let framings = [
            Framing::Whole,
            Framing::Pieces(1),
            Framing::Pieces(2),
            Framing::SplitAt(5),
            Framing::Fields(1, 1),
            Framing::Fields(9, 9),
        ];
        for framing in framings {
            let pieces = framing.cut(&request());
            let sum = |writable| {
                pieces
                    .iter()
                    .filter(|piece| piece.1 == writable)
                    .map(|piece| piece.0)
                    .sum::<usize>()
            };
            assert_eq!((sum(false), sum(true)), (3, 4), "{framing:?}: {pieces:?}");
        }
        assert_eq!(Framing::Whole.cut(&request()), [(3, false), (4, true)]);
        assert_eq!(
            Framing::SplitAt(5).cut(&request()),
            [(3, false), (2, true), (2, true)]
        );
        assert_eq!(Framing::Pieces(1).cut(&request()).len(), 7);
        assert_eq!(
            Framing::Fields(2, 1).cut(&request()),
            [(2, false), (1, false), (3, true), (1, true)]
        );
    }

    #[test]
    fn a_descriptor_in_memory_is_little_endian() {
        let bytes = Descriptor::writable(0x1122, 0x33).then(7).to_bytes();
        assert_eq!(bytes, [0x22, 0x11, 0, 0, 0, 0, 0, 0, 0x33, 0, 0, 0, 3, 0, 7, 0]);
    }

    #[test]
    fn the_last_of_a_chain_has_no_next() {
        let chain = link(&[Descriptor::readable(0, 1), Descriptor::writable(1, 1)]);
        assert_eq!((chain[0].flags, chain[0].next, chain[1].flags), (NEXT, 1, WRITE));
    }
}
