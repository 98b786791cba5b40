// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One message at a time: addresses, lengths, and how the driver cuts its buffers.

use serde_json::{Value, json};
use vhost_device_i2c::backend::{Address, Direction};
use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::control;
use vu_testkit::devices::i2c::{read, write};
use vu_testkit::devices::rng;
use vu_testkit::guest::{Guest, Lane};

use crate::support::{
    ERR, LIMITS, OK, Recorder, Seen, ask, connect, daemon, device, got, guest, guest_on, options, statuses,
    ten_bits, wrote,
};

#[test]
fn zero_length_requests_reach_the_bus() {
    let bus = Recorder::default();
    let mut lanes = guest_on(&bus, "");
    let requests = [
        write(0x20, 0, &[]),
        read(0x20, 0, 0),
        write(0x30, 0, &[]),
        read(0x30, 0, 0),
    ];
    assert_eq!(statuses(lanes.lane(), &requests), [OK, OK, ERR, ERR]);
    let transfers = [wrote(0x20, &[]), got(0x20, 0), wrote(0x30, &[]), got(0x30, 0)];
    assert_eq!(bus.take(), transfers.map(|message| vec![message]));
}

#[test]
fn zero_length_requests_find_the_devices_of_a_bus() {
    let daemon = daemon(&["--bus", "sim:regs@0x20,lm75@0x48,nak@0x30"]);
    let mut guest = guest(&daemon.socket());
    let found: Vec<u8> = (0x08..0x78)
        .filter(|address| statuses(guest.lane(), &[write(*address, 0, &[])]) == [OK])
        .collect();
    assert_eq!(found, [0x20, 0x48]);
}

#[test]
fn addresses_of_ten_bits_are_not_those_of_seven() {
    let bus = Recorder::default();
    let mut guest = guest_on(&bus, "0x50,t0x150-t0x151,t0x3ff");
    let ten = |address| ten_bits(write(0, 0, &[1]), address);
    let requests = [
        ten(0x150),
        ten(0x151),
        ten(0x3ff),
        ten(0x50),
        ten(0x152),
        write(0x50, 0, &[2]),
    ];
    assert_eq!(statuses(guest.lane(), &requests), [OK, OK, OK, ERR, ERR, OK]);
    let seen = |address, byte| Seen {
        address,
        direction: Direction::Write,
        len: 1,
        written: vec![byte],
    };
    let transfers = [
        seen(Address::Ten(0x150), 1),
        seen(Address::Ten(0x151), 1),
        seen(Address::Ten(0x3ff), 1),
        seen(Address::Seven(0x50), 2),
    ];
    assert_eq!(bus.take(), transfers.map(|message| vec![message]));
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let daemon = daemon(&["--bus", "sim:regs@0x20"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    let mut framings = vec![
        Framing::Whole,
        Framing::Pieces(1),
        Framing::Pieces(3),
        Framing::Fields(8, 1),
    ];
    framings.extend((1..16).map(Framing::SplitAt));
    for (round, framing) in (0..).zip(framings) {
        for placement in [Placement::Direct, Placement::Indirect, Placement::IndirectTail] {
            let mut ask = |request: Request| {
                let pending = lane.place(request, framing, placement);
                lane.queue.submit();
                let used = lane.queue.wait(lane.end()).unwrap();
                let answer = lane.answer(&pending);
                assert_eq!(used.len as usize, answer.len(), "{framing:?} {placement:?}");
                answer
            };
            assert_eq!(ask(write(0x20, 0, &[5, round, 2, 3, 4])), [OK]);
            assert_eq!(ask(write(0x20, 0, &[5])), [OK]);
            assert_eq!(
                ask(read(0x20, 0, 4)),
                [round, 2, 3, 4, OK],
                "{framing:?} {placement:?}"
            );
        }
    }
}

/// A request that is as it should be, which shows that the queue goes on.
fn still_serves(lane: &mut Lane) {
    assert_eq!(ask(lane, &[read(0x20, 0, 1)])[0].0, OK);
}

#[test]
fn a_malformed_request_is_an_error_and_nothing_reaches_the_bus() {
    let bus = Recorder::default();
    let mut guest = guest_on(&bus, "");
    let lane = guest.lane();
    let with = |mut request: Request, at: usize, byte: u8| {
        request.readable[at] = byte;
        request
    };
    let sized = |readable: usize, writable: usize, flags: u32| Request {
        writable,
        ..write(0x20, flags, &vec![0; readable])
    };
    for request in [
        // The lowest bit of the address, or the bits above one of seven.
        with(write(0x20, 0, &[1]), 0, 0x41),
        with(write(0x20, 0, &[1]), 1, 0x01),
        // Reserved flags.
        with(write(0x20, 0, &[1]), 4, 0x04),
        with(write(0x20, 0, &[1]), 7, 0x80),
        // A buffer on the wrong side, or one on each.
        sized(4, 1, 2),
        sized(0, 5, 0),
        sized(4, 5, 0),
        sized(4, 5, 2),
        // A header that is cut off.
        Request {
            readable: vec![0x40, 0, 0, 0, 2, 0, 0],
            writable: 1,
        },
    ] {
        let text = format!("{request:x?}");
        let answers = ask(lane, &[request]);
        assert_eq!(answers[0].0, ERR, "{text}");
        assert!(bus.take().is_empty(), "{text}");
        still_serves(lane);
        bus.take();
    }
    // The padding means nothing.
    assert_eq!(statuses(lane, &[with(write(0x20, 0, &[1]), 2, 0xff)]), [OK]);
}

#[test]
fn a_request_without_room_for_a_status_comes_back_empty_and_undone() {
    let bus = Recorder::default();
    let mut guest = guest_on(&bus, "");
    let lane = guest.lane();
    let request = Request {
        writable: 0,
        ..write(0x20, 0, &[1])
    };
    lane.place(request, Framing::Whole, Placement::Direct);
    lane.queue.submit();
    assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 0);
    assert!(bus.take().is_empty());
    still_serves(lane);
}

#[test]
fn a_driver_that_does_not_take_the_mandatory_feature_gets_errors() {
    let bus = Recorder::default();
    let device = device(&bus, "", LIMITS);
    // The profile of a device without features, and with a virtqueue as ours.
    let mut guest = Guest::boot(connect(&device), &rng(), &options()).unwrap();
    assert_eq!((guest.offered & 1, guest.features & 1), (1, 0));
    let requests = [write(0x20, 0, &[1]), read(0x20, 0, 1)];
    assert_eq!(statuses(guest.lane(), &requests), [ERR, ERR]);
    assert!(bus.take().is_empty());
}

#[test]
fn another_host_of_a_simulated_bus_speaks_at_the_control_socket() {
    let daemon = daemon(&[&["--bus", "sim:24c02@0x50,slow@0x31=0us"], &control::OPTION[..]].concat());
    let error = control::error(
        &daemon,
        &json!({"command": "transfer", "address": 0x50, "read": 1}),
    )
    .unwrap();
    assert_eq!(error, "the bus is not a simulated one that never waits");
    let daemon = crate::support::daemon(&[&["--bus", "sim:24c02@0x50"], &control::OPTION[..]].concat());
    let mut guest = guest(&daemon.socket());
    let request = json!({"command": "transfer", "address": "0x50", "write": "00a5"});
    assert_eq!(control::result(&daemon, &request).unwrap(), Value::Null);
    let answers = ask(guest.lane(), &[write(0x50, 0, &[0]), read(0x50, 0, 1)]);
    assert_eq!(answers[1], (OK, vec![0xa5]));
}
