// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration space of the input device and the events of its status queue, beside a second opinion on both.
//!
//! An input is accesses, one after the other: what to do, a place, a length, and the bytes to write.

use vhost_device_input::backend::sim::{Desk, Kind};
use vhost_device_input::{Event, Input};
use vu_common::Device;

/// What a simulated touch screen answers to a selection, after the specification and the manual: exact sizes, and nothing
/// for what is absent.
fn answer(select: u8, subsel: u8) -> Vec<u8> {
    let axis = |max: i32, res: i32| [0, max, 0, 0, res].map(i32::to_le_bytes).concat();
    let bits = |numbers: &[usize]| {
        let mut bytes = vec![0; numbers.iter().max().map_or(0, |most| most / 8 + 1)];
        numbers
            .iter()
            .for_each(|number| bytes[number / 8] |= 1 << (number % 8));
        bytes
    };
    match (select, subsel) {
        (1, 0) => b"Simulated touch".to_vec(),
        (2, 0) => b"sim-touch".to_vec(),
        (3, 0) => [6_u16, 0, 4, 1].map(u16::to_le_bytes).concat(),
        (0x10, 0) => bits(&[1]),
        (0x11, 1) => bits(&[0x14a]),
        (0x11, 3) => bits(&[0, 1, 0x2f, 0x35, 0x36, 0x39]),
        (0x12, 0 | 1 | 0x35 | 0x36) => axis(32767, 120),
        (0x12, 0x2f) => axis(9, 0),
        (0x12, 0x39) => axis(65535, 0),
        _ => Vec::new(),
    }
}

/// The whole structure for a selection.
fn expected([select, subsel]: [u8; 2]) -> [u8; 136] {
    let answer = answer(select, subsel);
    let mut config = [0; 136];
    config[..2].copy_from_slice(&[select, subsel]);
    config[2] = answer.len() as u8;
    config[8..8 + answer.len()].copy_from_slice(&answer);
    config
}

/// The target.
///
/// # Panics
/// When the device answers otherwise than the specification says.
pub(crate) fn run(input: &[u8]) {
    let device = Input::new(Desk::new(Kind::Touch).expect("an event").source());
    let mut selection = [0; 2];
    let mut rest = input;
    while let Some((&[what, place, len], bytes)) = rest.split_first_chunk() {
        let (place, len) = (usize::from(place), usize::from(len));
        let (bytes, next) = bytes.split_at(bytes.len().min(if what % 4 == 0 { len } else { 0 }));
        rest = next;
        match what % 4 {
            0 => {
                let written = device.write_config(place, bytes);
                for (at, byte) in (place..).zip(bytes).filter(|(at, _)| *at < 2) {
                    selection[at] = *byte;
                }
                assert_eq!(written.is_ok(), place < 2 && !bytes.is_empty());
            }
            1 => {
                device.reset();
                selection = [0; 2];
            }
            2 => event(rest),
            _ => {
                let mut found = vec![0xff; len];
                device.read_config(place, &mut found);
                let whole = expected(selection);
                let byte = |at| whole.get(at).copied().unwrap_or(0);
                let right: Vec<u8> = (place..place + len).map(byte).collect();
                assert_eq!(found, right, "{selection:x?} from {place}");
            }
        }
    }
}

/// Only LEDs, sounds and repeats are for the host.
fn event(bytes: &[u8]) {
    let Some(&bytes) = bytes.first_chunk::<8>() else {
        return;
    };
    let event = Event::from_bytes(bytes);
    assert_eq!(event.to_bytes(), bytes);
    assert_eq!(event.is_status(), matches!(bytes[..2], [0x11 | 0x12 | 0x14, 0]));
}
