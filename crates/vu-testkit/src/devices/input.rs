// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The input device (virtio, "Input Device"): LEDs and sounds on the status queue, and the names of its wire format for
//! tests of its own. Nothing that a driver can do makes an event, so the event queue is left to those tests.

use super::Profile;
use crate::chains::Request;

/// Number of the queue of events.
pub const EVENTQ: u16 = 0;
/// Number of the queue of LEDs and sounds.
pub const STATUSQ: u16 = 1;
/// Bytes of an event.
pub const EVENT_LEN: usize = 8;

/// Types of events.
#[allow(missing_docs, reason = "the names are those of Linux")]
pub mod ev {
    pub const SYN: u16 = 0x00;
    pub const KEY: u16 = 0x01;
    pub const REL: u16 = 0x02;
    pub const ABS: u16 = 0x03;
    pub const MSC: u16 = 0x04;
    pub const LED: u16 = 0x11;
    pub const SND: u16 = 0x12;
    pub const REP: u16 = 0x14;
}

/// Values of `select`.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod select {
    pub const UNSET: u8 = 0x00;
    pub const ID_NAME: u8 = 0x01;
    pub const ID_SERIAL: u8 = 0x02;
    pub const ID_DEVIDS: u8 = 0x03;
    pub const PROP_BITS: u8 = 0x10;
    pub const EV_BITS: u8 = 0x11;
    pub const ABS_INFO: u8 = 0x12;
}

/// How our own daemon is started for the table.
pub const ARGS: &[&str] = &["--sim", "keyboard"];

/// An event as it lies in memory.
#[must_use]
pub fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(code.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes
}

/// A buffer of the event queue.
#[must_use]
pub fn buffer() -> Request {
    Request {
        readable: Vec::new(),
        writable: EVENT_LEN,
    }
}

/// A status of the guest.
#[must_use]
pub fn status(kind: u16, code: u16, value: i32) -> Request {
    Request {
        readable: event(kind, code, value),
        writable: 0,
    }
}

/// The profile of the input device.
#[derive(Debug)]
pub struct Input;

/// The profile of the input device.
#[must_use]
pub fn input() -> Input {
    Input
}

impl Profile for Input {
    fn name(&self) -> &'static str {
        "input"
    }

    fn virtio_id(&self) -> u32 {
        18
    }

    fn queues(&self) -> u16 {
        2
    }

    fn request_queue(&self) -> u16 {
        STATUSQ
    }

    fn config_len(&self) -> u32 {
        136
    }

    fn request(&self, number: u64, _size: usize) -> Request {
        let on = i32::from(number.is_multiple_of(2));
        match number % 7 {
            code @ 0..=2 => status(ev::LED, code as u16, on),
            3 => status(ev::SND, 1, on),
            4 => status(ev::REP, 0, 250),
            5 => status(ev::MSC, 5, 1),
            _ => status(ev::SYN, 0, 0),
        }
    }

    fn check(&self, _request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        if used == 0 && answer.is_empty() {
            Ok(())
        } else {
            Err(format!("used length {used}, where nothing can be written"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Profile, ev, input, status};

    #[test]
    fn a_status_on_the_wire_is_little_endian() {
        let request = status(ev::LED, 0x102, -1);
        assert_eq!(request.readable, [0x11, 0, 2, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(request.writable, 0);
    }

    #[test]
    fn a_length_where_nothing_was_written_is_found() {
        let request = input().request(1, 0);
        assert!(input().check(&request, 0, &[]).is_ok());
        assert!(input().check(&request, 8, &[]).is_err());
    }
}
