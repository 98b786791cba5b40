// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parser of I2C requests, beside a second opinion on what is a good one.
//!
//! An input is one or more of: readable bytes (4), writable bytes (4), and the header (8).

use vhost_device_i2c::backend::{Address, Direction};
use vhost_device_i2c::{Header, Request};

/// The address, bit by bit as the specification draws it.
fn address(low: u8, high: u8) -> Option<Address> {
    let bit = |byte: u8, at: u32| u16::from(byte >> at & 1);
    if bit(low, 0) == 1 {
        return None;
    }
    if low >> 3 == 0b11110 {
        let lower: u16 = (0..8).map(|at| bit(high, at) << at).sum();
        return Some(Address::Ten(lower + (bit(low, 1) << 8) + (bit(low, 2) << 9)));
    }
    (high == 0).then_some(Address::Seven(low / 2))
}

/// The request, if it is a good one.
fn expected(header: &[u8; 8], readable: usize, writable: usize) -> Option<Request> {
    let [low, high, _, _, flags, 0, 0, 0] = *header else {
        return None;
    };
    let (data, room) = (readable - 8, writable.checked_sub(1)?);
    let (direction, len) = match flags {
        0 | 1 if room == 0 => (Direction::Write, data),
        2 | 3 if data == 0 => (Direction::Read, room),
        _ => return None,
    };
    Some(Request {
        address: address(low, high)?,
        direction,
        len,
    })
}

/// The target.
///
/// # Panics
/// When the parser lets something else pass than the specification does.
pub(crate) fn run(input: &[u8]) {
    for piece in input.chunks(16) {
        let Ok(piece) = <&[u8; 16]>::try_from(piece) else {
            return;
        };
        let word =
            |at: usize| u32::from_le_bytes([piece[at], piece[at + 1], piece[at + 2], piece[at + 3]]) as usize;
        let header = <&[u8; 8]>::try_from(&piece[8..]).expect("eight of sixteen");
        // A request without a whole header is not for this parser.
        let (readable, writable) = (word(0).max(8), word(4));
        let parsed = Header::parse(*header);
        assert_eq!(parsed.fail_next(), header[4] % 2 == 1);
        let found = parsed.request(readable, writable);
        assert_eq!(
            found.ok(),
            expected(header, readable, writable),
            "{header:x?} with {readable} and {writable} bytes"
        );
        if let Err(error) = found {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 80, "{text}");
        }
    }
}
