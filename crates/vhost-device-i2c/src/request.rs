// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests of the driver: the header and the lengths of a chain to a checked request. Pure.

use crate::backend::{Address, Direction};
use crate::spec::{IN_HDR_LEN, OUT_HDR_LEN, VIRTIO_I2C_FLAGS_FAIL_NEXT, VIRTIO_I2C_FLAGS_M_RD};

/// `struct virtio_i2c_out_hdr` (section 5.15.6.1) as the driver wrote it. Its padding means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    addr: u16,
    flags: u32,
}

/// What a request asks of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whom it is for.
    pub address: Address,
    /// Which way its bytes go.
    pub direction: Direction,
    /// How many bytes; none in a zero-length request.
    pub len: usize,
}

/// What is wrong with a request. The driver gets `VIRTIO_I2C_MSG_ERR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither of the two formats of an address.
    #[error("{0:#06x} is neither a 7-bit nor a 10-bit address")]
    Address(u16),
    /// Flags that the specification reserves: what they will ask for one day is not known.
    #[error("reserved flags {0:#x}")]
    Flags(u32),
    /// A read whose buffer is device-readable.
    #[error("a read with {0} device-readable bytes")]
    ReadableRead(usize),
    /// A write whose buffer is device-writable.
    #[error("a write with {0} device-writable bytes")]
    WritableWrite(usize),
    /// No room for `struct virtio_i2c_in_hdr`.
    #[error("no room for the status")]
    NoStatus,
}

impl Header {
    /// Reads it.
    pub fn parse(bytes: [u8; OUT_HDR_LEN]) -> Self {
        let [a0, a1, _, _, f0, f1, f2, f3] = bytes;
        Self {
            addr: u16::from_le_bytes([a0, a1]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
        }
    }

    /// Whether the next request belongs to the same group, and fails if this one does; also of a malformed one.
    pub fn fail_next(self) -> bool {
        self.flags & VIRTIO_I2C_FLAGS_FAIL_NEXT != 0
    }

    /// The request that it heads, in a chain with so many bytes in all, this header and the status among them.
    ///
    /// # Errors
    /// [`Malformed`] for whatever the specification does not allow.
    pub fn request(self, readable: usize, writable: usize) -> Result<Request, Malformed> {
        let reserved = self.flags & !(VIRTIO_I2C_FLAGS_FAIL_NEXT | VIRTIO_I2C_FLAGS_M_RD);
        if reserved != 0 {
            return Err(Malformed::Flags(reserved));
        }
        let written = readable.saturating_sub(OUT_HDR_LEN);
        let read = writable.checked_sub(IN_HDR_LEN).ok_or(Malformed::NoStatus)?;
        let (direction, len) = match (self.flags & VIRTIO_I2C_FLAGS_M_RD != 0, written, read) {
            (true, 0, len) => (Direction::Read, len),
            (false, len, 0) => (Direction::Write, len),
            (true, wrong, _) => return Err(Malformed::ReadableRead(wrong)),
            (false, _, wrong) => return Err(Malformed::WritableWrite(wrong)),
        };
        Ok(Request {
            address: address(self.addr).ok_or(Malformed::Address(self.addr))?,
            direction,
            len,
        })
    }
}

/// Reads the field `addr`: A6 to A0 and a zero, or A7 to A0, the bits 11110, A9, A8 and a zero.
///
/// The two formats do not overlap: no device has a 7-bit address that starts with 11110, since that announces
/// one of 10 bits on the wire, too.
fn address(addr: u16) -> Option<Address> {
    let [low, high] = addr.to_le_bytes();
    match (low & 1, low & 0xf8, high) {
        (0, 0xf0, _) => Some(Address::Ten(u16::from(low & 0x06) << 7 | u16::from(high))),
        (0, _, 0) => Some(Address::Seven(low >> 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, Malformed, Request};
    use crate::backend::{Address, Direction};

    fn header(addr: u16, flags: u32) -> Header {
        let mut bytes = [0xee; 8];
        bytes[..2].copy_from_slice(&addr.to_le_bytes());
        bytes[4..].copy_from_slice(&flags.to_le_bytes());
        Header::parse(bytes)
    }

    fn address(addr: u16) -> Result<Address, Malformed> {
        header(addr, 0).request(8, 1).map(|request| request.address)
    }

    #[test]
    fn every_address_has_exactly_one_notation() {
        let mut seven = Vec::new();
        let mut ten = Vec::new();
        for addr in 0..=u16::MAX {
            match address(addr) {
                Ok(Address::Seven(a)) => seven.push((a, addr)),
                Ok(Address::Ten(a)) => ten.push((a, addr)),
                Err(e) => assert_eq!(e, Malformed::Address(addr)),
            }
        }
        ten.sort_unstable();
        let all_seven: Vec<_> = (0..0x80)
            .filter(|a| !(0x78..0x7c).contains(a))
            .map(|a| (a, u16::from(a) << 1))
            .collect();
        // The table of section 5.15.6.1, bit by bit.
        let all_ten: Vec<_> = (0..0x400_u16)
            .map(|a| {
                (
                    a,
                    (a & 0xff) << 8 | 0b1111_0000 | (a >> 9 & 1) << 2 | (a >> 8 & 1) << 1,
                )
            })
            .collect();
        assert_eq!((seven, ten), (all_seven, all_ten));
    }

    #[test]
    fn the_flag_says_which_way_and_the_chain_how_many() {
        for (flags, readable, writable, direction, len) in [
            (0, 8, 1, Direction::Write, 0),
            (0, 9, 1, Direction::Write, 1),
            (1, 8200, 1, Direction::Write, 8192),
            (2, 8, 1, Direction::Read, 0),
            (2, 8, 2, Direction::Read, 1),
            (3, 8, 1 << 32, Direction::Read, (1 << 32) - 1),
        ] {
            let header = header(0xa0, flags);
            let address = Address::Seven(0x50);
            assert_eq!(
                header.request(readable, writable),
                Ok(Request {
                    address,
                    direction,
                    len
                })
            );
            assert_eq!(header.fail_next(), flags & 1 != 0);
        }
    }

    #[test]
    fn a_buffer_on_the_wrong_side_is_an_error() {
        assert_eq!(header(0xa0, 2).request(9, 1), Err(Malformed::ReadableRead(1)));
        assert_eq!(header(0xa0, 2).request(12, 5), Err(Malformed::ReadableRead(4)));
        assert_eq!(header(0xa0, 0).request(8, 2), Err(Malformed::WritableWrite(1)));
        assert_eq!(header(0xa0, 0).request(12, 5), Err(Malformed::WritableWrite(4)));
    }

    #[test]
    fn a_request_without_room_for_its_status_is_an_error() {
        for flags in 0..4 {
            assert_eq!(header(0xa0, flags).request(8, 0), Err(Malformed::NoStatus));
        }
    }

    #[test]
    fn reserved_flags_are_an_error_that_still_fails_the_next() {
        for bit in 2..32 {
            let header = header(0xa0, 1 << bit | 1);
            assert_eq!(header.request(8, 1), Err(Malformed::Flags(1 << bit)));
            assert!(header.fail_next());
        }
    }
}
