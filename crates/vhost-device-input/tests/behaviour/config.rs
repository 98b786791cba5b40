// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration space, as QEMU reads it.

use vu_testkit::devices::input::{ev, select};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::frontend::wire::protocol;
use vu_testkit::spawn::Daemon;

use crate::support::{Reader, connect, daemon, options};

const LEN: u32 = 136;

fn negotiated(daemon: &Daemon) -> FrontEnd {
    let mut front = connect(&daemon.socket());
    front.get_features().unwrap();
    front.get_protocol_features().unwrap();
    front
        .set_protocol_features(protocol::CONFIG | protocol::REPLY_ACK)
        .unwrap();
    front
}

/// What QEMU does when the driver writes a field: it changes a copy of the whole space, and sends all of it.
fn write_field(front: &FrontEnd, copy: &mut [u8], at: usize, value: u8) {
    copy[at] = value;
    front.set_config(0, copy).unwrap();
}

/// Size and content, as the driver of Linux asks for them.
fn ask(front: &FrontEnd, selection: (u8, u8)) -> Vec<u8> {
    let mut copy = front.get_config(0, LEN).unwrap();
    write_field(front, &mut copy, 0, selection.0);
    let mut copy = front.get_config(0, LEN).unwrap();
    write_field(front, &mut copy, 1, selection.1);
    let config = front.get_config(0, LEN).unwrap();
    assert_eq!((config[0], config[1]), selection);
    let (answer, rest) = config[8..].split_at(config[2].into());
    assert!(config[3..8].iter().chain(rest).all(|byte| *byte == 0));
    answer.to_vec()
}

fn bits(front: &FrontEnd, kind: u16) -> Vec<u16> {
    let bytes = ask(front, (select::EV_BITS, kind as u8));
    assert_ne!(bytes.last(), Some(&0), "trailing zeroes");
    let bits = 0..bytes.len() as u16 * 8;
    bits.filter(|bit| bytes[usize::from(bit / 8)] & 1 << (bit % 8) != 0)
        .collect()
}

#[test]
fn id_name_has_the_size_of_the_name() {
    let daemon = daemon("keyboard");
    let front = negotiated(&daemon);
    assert_eq!(ask(&front, (select::ID_NAME, 0)), b"Simulated keyboard");
}

#[test]
fn id_devids_has_eight_bytes() {
    let daemon = daemon("mouse");
    let front = negotiated(&daemon);
    assert_eq!(ask(&front, (select::ID_DEVIDS, 0)), [6, 0, 0, 0, 2, 0, 1, 0]);
}

#[test]
fn serial_and_props_are_there() {
    let daemon = daemon("touch");
    let front = negotiated(&daemon);
    assert_eq!(ask(&front, (select::ID_SERIAL, 0)), b"sim-touch");
    assert_eq!(ask(&front, (select::PROP_BITS, 0)), [1 << 1], "INPUT_PROP_DIRECT");
}

#[test]
fn a_keyboard_has_keys_leds_sounds_and_repeats() {
    let daemon = daemon("keyboard");
    let front = negotiated(&daemon);
    let keys: Vec<u16> = (1..=127).chain(183..=194).collect();
    assert_eq!(bits(&front, ev::KEY), keys);
    assert_eq!(bits(&front, ev::LED), [0, 1, 2]);
    assert_eq!(bits(&front, ev::SND), [1, 2]);
    assert_eq!(bits(&front, ev::REP), [0, 1]);
    for absent in [ev::SYN, ev::REL, ev::ABS, ev::MSC, 0x15, 0xff] {
        assert!(
            ask(&front, (select::EV_BITS, absent as u8)).is_empty(),
            "{absent}"
        );
    }
}

#[test]
fn a_mouse_has_buttons_and_distances() {
    let daemon = daemon("mouse");
    let front = negotiated(&daemon);
    assert_eq!(bits(&front, ev::KEY), [0x110, 0x111, 0x112, 0x113, 0x114]);
    assert_eq!(bits(&front, ev::REL), [0, 1, 6, 8, 11, 12]);
}

#[test]
fn abs_info_has_the_range_and_the_resolution() {
    let daemon = daemon("touch");
    let front = negotiated(&daemon);
    assert_eq!(bits(&front, ev::ABS), [0, 1, 0x2f, 0x35, 0x36, 0x39]);
    let axis = |code| -> Vec<i32> {
        let bytes = ask(&front, (select::ABS_INFO, code));
        assert_eq!(bytes.len(), 20);
        bytes
            .chunks(4)
            .map(|field| i32::from_le_bytes(field.try_into().unwrap()))
            .collect()
    };
    assert_eq!(axis(0x35), [0, 32767, 0, 0, 120]);
    assert_eq!(axis(0x2f), [0, 9, 0, 0, 0]);
    assert!(ask(&front, (select::ABS_INFO, 2)).is_empty());
}

#[test]
fn single_fields_can_be_written_too() {
    let daemon = daemon("keyboard");
    let front = negotiated(&daemon);
    front.set_config(1, &[0x11]).unwrap();
    front.set_config(0, &[select::EV_BITS]).unwrap();
    assert_eq!(front.get_config(0, 3).unwrap(), [select::EV_BITS, 0x11, 1]);
    assert!(front.set_config(2, &[9]).is_err(), "size is not the driver's");
    assert_eq!(front.get_config(2, 1).unwrap(), [1]);
}

#[test]
fn a_connection_and_a_reset_begin_with_nothing_selected() {
    let daemon = daemon("keyboard");
    let front = negotiated(&daemon);
    front.set_config(0, &[select::ID_NAME, 0]).unwrap();
    drop(front);
    let reader = Reader::boot(connect(&daemon.socket()), &options(4));
    let front = &reader.guest.front;
    assert_eq!(front.get_config(0, LEN).unwrap(), [0; LEN as usize]);
    front.set_config(0, &[select::ID_NAME, 0]).unwrap();
    assert_ne!(front.get_config(2, 1).unwrap(), [0]);
    front.reset_device().unwrap();
    assert_eq!(front.get_config(0, LEN).unwrap(), [0; LEN as usize]);
}
