// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The GPIO device (virtio, "GPIO Device"): all six messages in turns, buffers on the event queue, and the names of its
//! wire format for tests of its own.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

use super::{Parking, Profile};
use crate::chains::Request;

/// Lines of the chip that this profile needs.
pub const LINES: u16 = 8;
/// Number of the queue of events.
pub const EVENTQ: u16 = 1;
/// The feature `VIRTIO_GPIO_F_IRQ`, as a mask.
pub const F_IRQ: u64 = 1;

/// Types of messages.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod kind {
    pub const GET_LINE_NAMES: u16 = 1;
    pub const GET_DIRECTION: u16 = 2;
    pub const SET_DIRECTION: u16 = 3;
    pub const GET_VALUE: u16 = 4;
    pub const SET_VALUE: u16 = 5;
    pub const SET_IRQ_TYPE: u16 = 6;
}

/// Directions of a line.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod direction {
    pub const NONE: u32 = 0;
    pub const OUT: u32 = 1;
    pub const IN: u32 = 2;
}

/// Triggers of an interrupt.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod irq {
    pub const NONE: u32 = 0;
    pub const EDGE_RISING: u32 = 1;
    pub const EDGE_FALLING: u32 = 2;
    pub const EDGE_BOTH: u32 = 3;
    pub const LEVEL_HIGH: u32 = 4;
    pub const LEVEL_LOW: u32 = 8;
}

/// Values of the status byte of a message.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod status {
    pub const OK: u8 = 0;
    pub const ERR: u8 = 1;
}

/// Values of the status byte of a buffer on the event queue.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod irq_status {
    pub const INVALID: u8 = 0;
    pub const VALID: u8 = 1;
}

/// How our own daemon is started for the table.
pub const ARGS: &[&str] = &["--chip", "sim:{storage}"];

/// The chip: every line has a name, each odd one follows the even one before it, and 2 and 4 are high while nobody
/// drives them.
const BOARD: &str = r#"
[line]
0 = { name = "line-0" }
1 = { name = "line-1", follows = 0 }
2 = { name = "line-2", initial = 1 }
3 = { name = "line-3", follows = 2 }
4 = { name = "line-4", initial = 1 }
5 = { name = "line-5", follows = 4 }
6 = { name = "line-6" }
7 = { name = "line-7", follows = 6 }
"#;

/// The names of the lines, as the device tells them.
#[must_use]
pub fn names() -> Vec<u8> {
    (0..LINES)
        .flat_map(|line| format!("line-{line}\0").into_bytes())
        .collect()
}

/// A message.
#[must_use]
pub fn message(kind: u16, line: u16, value: u32) -> Request {
    let mut readable = kind.to_le_bytes().to_vec();
    readable.extend(line.to_le_bytes());
    readable.extend(value.to_le_bytes());
    let writable = if kind == kind::GET_LINE_NAMES {
        1 + names().len()
    } else {
        2
    };
    Request { readable, writable }
}

/// A buffer for the event queue, which unmasks a line.
#[must_use]
pub fn event(line: u16) -> Request {
    Request {
        readable: line.to_le_bytes().to_vec(),
        writable: 1,
    }
}

/// The messages of this profile, over and over. Line 2 is read, 4 is driven high and 0 low, which they are without it,
/// too: the answers stay right when the daemon starts anew in between.
const TURN: [(u16, u16, u32); 16] = [
    (kind::SET_DIRECTION, 0, direction::NONE),
    (kind::GET_LINE_NAMES, 0, 0),
    (kind::SET_DIRECTION, 2, direction::IN),
    (kind::GET_VALUE, 2, 0),
    (kind::GET_DIRECTION, 2, 0),
    (kind::SET_VALUE, 4, 1),
    (kind::SET_DIRECTION, 4, direction::OUT),
    (kind::SET_VALUE, 4, 1),
    (kind::GET_VALUE, 4, 0),
    (kind::SET_IRQ_TYPE, 2, irq::EDGE_RISING),
    (kind::SET_IRQ_TYPE, 2, irq::NONE),
    (kind::SET_VALUE, 0, 0),
    (kind::SET_DIRECTION, 0, direction::OUT),
    (kind::SET_VALUE, 0, 0),
    (kind::GET_VALUE, 0, 0),
    (kind::GET_VALUE, 2, 0),
];

/// Lines whose interrupts are enabled while buffers are parked: none of them changes by [`TURN`].
const ARMED: [u16; 4] = [1, 3, 6, 7];

/// The profile of the GPIO device, with a board file that has no name, so that it goes when this goes.
#[derive(Debug)]
pub struct Gpio {
    board: File,
}

/// The profile of the GPIO device.
///
/// # Panics
/// When the kernel has no memory for its board file.
#[must_use]
pub fn gpio() -> Gpio {
    let board = memfd_create("board", MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map(File::from)
        .and_then(|mut file| file.write_all(BOARD.as_bytes()).map(|()| file));
    Gpio {
        board: board.expect("a small file of memory needs hardly any"),
    }
}

impl Profile for Gpio {
    fn name(&self) -> &'static str {
        "gpio"
    }

    fn virtio_id(&self) -> u32 {
        41
    }

    fn queues(&self) -> u16 {
        2
    }

    fn parking(&self) -> Option<Parking> {
        let each = |messages: &[(u16, u32)]| {
            let of = |line: &u16| {
                messages
                    .iter()
                    .map(|(kind, value)| message(*kind, *line, *value))
                    .collect()
            };
            ARMED.iter().flat_map(|line| -> Vec<_> { of(line) }).collect()
        };
        Some(Parking {
            queue: EVENTQ,
            prepare: each(&[
                (kind::SET_DIRECTION, direction::IN),
                (kind::SET_IRQ_TYPE, irq::EDGE_RISING),
            ]),
            buffers: ARMED.map(event).to_vec(),
            release: each(&[(kind::SET_IRQ_TYPE, irq::NONE)]),
        })
    }

    fn features(&self) -> u64 {
        F_IRQ
    }

    fn config_len(&self) -> u32 {
        8
    }

    fn storage(&self) -> Option<PathBuf> {
        let (pid, fd) = (std::process::id(), self.board.as_raw_fd());
        Some(format!("/proc/{pid}/fd/{fd}").into())
    }

    fn request(&self, number: u64, _size: usize) -> Request {
        let turn = usize::try_from(number % TURN.len() as u64).unwrap_or(0);
        let (kind, line, value) = TURN[turn];
        message(kind, line, value)
    }

    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        let (kind, line) = parse(&request.readable).ok_or("the message is too short")?;
        let (&status, value) = answer.split_first().ok_or("the message has no status")?;
        let what = format!("message {kind} of line {line}");
        if status != status::OK {
            return Err(format!("{what}: status {status}"));
        }
        if used as usize != answer.len() {
            let len = answer.len();
            return Err(format!("{what}: used length {used} of {len} writable bytes"));
        }
        let high = [u8::from(line == 2 || line == 4)];
        let expected = match kind {
            kind::GET_LINE_NAMES => &names()[..],
            kind::GET_DIRECTION => &[direction::IN as u8],
            kind::GET_VALUE => &high,
            _ => &[0],
        };
        if value == expected {
            Ok(())
        } else {
            Err(format!("{what}: {value:x?} instead of {expected:x?}"))
        }
    }
}

/// What a message says: type and line.
fn parse(readable: &[u8]) -> Option<(u16, u16)> {
    let (kind, rest) = readable.split_first_chunk()?;
    Some((
        u16::from_le_bytes(*kind),
        u16::from_le_bytes(*rest.first_chunk()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::{Profile, gpio, kind, message, names, status};

    #[test]
    fn a_message_on_the_wire_is_little_endian() {
        let request = message(kind::SET_DIRECTION, 0x102, 2);
        assert_eq!(request.readable, [3, 0, 2, 1, 2, 0, 0, 0]);
        assert_eq!(request.writable, 2);
    }

    #[test]
    fn a_level_a_name_and_a_length_that_are_wrong_are_found() {
        let gpio = gpio();
        for (line, level) in [(2, 1), (4, 1), (0, 0)] {
            let request = message(kind::GET_VALUE, line, 0);
            assert!(gpio.check(&request, 2, &[status::OK, level]).is_ok());
            assert!(gpio.check(&request, 1, &[status::OK, level]).is_err());
            assert!(gpio.check(&request, 2, &[status::ERR, level]).is_err());
            assert!(gpio.check(&request, 2, &[status::OK, 1 - level]).is_err());
        }
        let request = message(kind::GET_LINE_NAMES, 0, 0);
        let mut answer = vec![status::OK];
        answer.extend(names());
        assert!(gpio.check(&request, 57, &answer).is_ok());
        answer[8] = b'm';
        assert!(gpio.check(&request, 57, &answer).is_err());
    }

    #[test]
    fn every_message_has_its_turn() {
        let kinds: Vec<u8> = (0..16)
            .map(|number| gpio().request(number, 0).readable[0])
            .collect();
        assert!((1..=6).all(|kind| kinds.contains(&kind)));
    }
}
