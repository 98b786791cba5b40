// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events: whole frames, in order, however short the ring is and however slowly a guest takes them.

use std::time::{Duration, Instant};

use vu_testkit::chains::{Framing, Placement};
use vu_testkit::devices::input::EVENTQ;
use vu_testkit::frontend::wire::feature;
use vu_testkit::guest::Options;

use crate::support::{Client, Ev, QEMU_RING, REPORT, Reader, connect, daemon, options};

/// Ten fingers: 41 events and the end.
fn ten_fingers() -> (String, Vec<Ev>) {
    let mut events = Vec::new();
    for slot in 0..10 {
        events.extend([
            (3, 0x2f, slot),
            (3, 0x39, 100 + slot),
            (3, 0x35, 1000 * slot),
            (3, 0x36, 7),
        ]);
    }
    events.push((1, 0x14a, 1));
    let words: Vec<String> = events
        .iter()
        .map(|(kind, code, value)| format!("{kind} {code} {value}"))
        .collect();
    events.push(REPORT);
    (format!("frame {}", words.join(" ")), events)
}

#[test]
fn a_frame_of_forty_events_goes_whole_through_a_ring_of_four() {
    let daemon = daemon("touch");
    let (mut reader, mut client) = (Reader::of(&daemon), Client::of(&daemon));
    let (command, events) = ten_fingers();
    client.act("wait");
    client.act(&command);
    // Another frame does not come in between, even while the first waits.
    client.act("touch 0 1 2");
    assert_eq!(reader.events(events.len()), events);
    assert_eq!(
        reader.frame(),
        [(3, 0x2f, 0), (3, 0x35, 1), (3, 0x36, 2), (3, 0, 1), (3, 1, 2)]
    );
}

#[test]
fn a_frame_waits_for_buffers_one_at_a_time() {
    let daemon = daemon("touch");
    let mut reader = Reader::boot(connect(&daemon.socket()), &options(QEMU_RING));
    let mut client = Client::of(&daemon);
    let (command, events) = ten_fingers();
    client.act("wait");
    client.act(&command);
    for event in events {
        reader.offer();
        reader.lane().queue.submit();
        assert_eq!(reader.take(), event);
    }
}

#[test]
fn events_come_without_event_indices_too() {
    let daemon = daemon("keyboard");
    let options = Options {
        features: feature::VERSION_1 | feature::PROTOCOL_FEATURES,
        ..options(QEMU_RING)
    };
    let mut reader = Reader::boot(connect(&daemon.socket()), &options);
    assert_eq!(reader.guest.features & feature::EVENT_IDX, 0);
    reader.fill();
    let mut client = Client::of(&daemon);
    client.act("wait");
    for _ in 0..20 {
        client.act("key A");
        assert_eq!(reader.events(4), [(1, 30, 1), REPORT, (1, 30, 0), REPORT]);
    }
}

#[test]
fn a_buffer_in_pieces_takes_an_event() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::boot(connect(&daemon.socket()), &options(32));
    let lane = &mut reader.guest.lanes[usize::from(EVENTQ)];
    let buffer = vu_testkit::devices::input::buffer();
    let pending: Vec<_> = (0..2)
        .map(|_| lane.place(buffer.clone(), Framing::Pieces(1), Placement::Direct))
        .collect();
    lane.queue.submit();
    let mut client = Client::of(&daemon);
    client.act("wait");
    client.act("down B");
    let lane = &mut reader.guest.lanes[usize::from(EVENTQ)];
    let used = lane.queue.wait_all(lane.end()).unwrap();
    assert!(used.iter().all(|used| used.len == 8));
    assert_eq!(lane.answer(&pending[0]), [1, 0, 48, 0, 1, 0, 0, 0]);
    assert_eq!(lane.answer(&pending[1]), [0; 8]);
}

#[test]
fn no_keystroke_is_lost_to_a_guest_that_takes_nothing_for_a_while() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::boot(connect(&daemon.socket()), &options(QEMU_RING));
    let mut client = Client::of(&daemon);
    client.act("wait");
    // More than the device keeps for a guest: the client is made to wait.
    let text = "The quick brown fox. ".repeat(300);
    let sender = std::thread::spawn(move || {
        for chunk in text.as_bytes().chunks(1000) {
            client.act(&format!("type {}", quoted(chunk)));
        }
    });
    reader.fill();
    let (mut typed, mut shift) = (0, 0);
    while typed < 300 * 21 {
        match reader.frame()[..] {
            [(1, 42, down)] => shift += down,
            [(1, _, 1)] => typed += 1,
            [(1, _, 0)] => {}
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(shift, 300);
    sender.join().unwrap();
}

/// The device is fed at a steady pace, as a person cannot; the driver does not read for a third of the time.
#[test]
fn no_edge_is_lost_at_1_khz_to_a_guest_that_stops_reading_for_a_while() {
    const EDGES: u16 = 3000;
    let edge = |number: u16| (1, 2 + number / 2 % 60, i32::from(number.is_multiple_of(2)));
    let daemon = daemon("keyboard");
    let mut reader = Reader::of(&daemon);
    let mut client = Client::of(&daemon);
    client.act("wait");
    let sender = std::thread::spawn(move || {
        let begun = Instant::now();
        for number in 0..EDGES {
            let due = Duration::from_millis(number.into());
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            let (kind, code, value) = edge(number);
            client.send(&format!("frame {kind} {code} {value}\n"));
        }
        (0..EDGES).for_each(|_| assert_eq!(client.line(), "ok"));
    });
    for number in 0..EDGES {
        assert_eq!(reader.frame(), [edge(number)], "edge {number}");
        if number == EDGES / 3 {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    sender.join().unwrap();
}

/// Text as a string of JSON.
fn quoted(text: &[u8]) -> String {
    format!("{:?}", std::str::from_utf8(text).unwrap())
}

#[test]
fn distances_are_summed_for_a_guest_that_takes_nothing() {
    let daemon = daemon("mouse");
    let mut reader = Reader::boot(connect(&daemon.socket()), &options(QEMU_RING));
    let mut client = Client::of(&daemon);
    client.act("wait");
    for _ in 0..50_000 / 1000 {
        client.send(&"move 1 -2\n".repeat(1000));
        (0..1000).for_each(|_| assert_eq!(client.line(), "ok"));
    }
    client.act("down BTN_LEFT");
    reader.fill();
    let (mut moved, mut frames) = ((0, 0), 0);
    loop {
        let frame = reader.frame();
        frames += 1;
        if frame == [(1, 0x110, 1)] {
            break;
        }
        for (_, code, distance) in frame {
            if code == 0 {
                moved.0 += distance;
            } else {
                moved.1 += distance;
            }
        }
    }
    assert_eq!(moved, (50_000, -100_000));
    assert!(frames < 10, "{frames} frames");
}

#[test]
fn a_guest_that_starts_gets_what_is_held_and_where_axes_are() {
    let daemon = daemon("gamepad");
    let mut client = Client::of(&daemon);
    client.act("key BTN_EAST");
    client.act("down BTN_SOUTH");
    client.act("axis RX -7");
    let mut reader = Reader::of(&daemon);
    assert_eq!(reader.frame(), [(3, 3, -7), (1, 0x130, 1)]);
}
