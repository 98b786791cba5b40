// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The status queue: LEDs and sounds from the guest.

use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::input::{EVENTQ, STATUSQ, buffer, ev, status};

use crate::support::{Client, Reader, daemon};

#[test]
fn leds_sounds_and_repeats_reach_the_host() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::of(&daemon);
    let mut client = Client::of(&daemon);
    client.act("wait");
    client.act("watch");
    for (kind, code, value, news) in [
        (ev::LED, 1, 1, "LED_CAPSL 1"),
        (ev::LED, 0, 1, "LED_NUML 1"),
        (ev::SND, 2, 440, "SND_TONE 440"),
        (ev::REP, 1, 33, "REP_PERIOD 33"),
        (ev::LED, 1, 0, "LED_CAPSL 0"),
    ] {
        reader.say(kind, code, value);
        assert_eq!(client.line(), news);
    }
    assert_eq!(client.ask("leds"), "LED_NUML 1");
    assert_eq!([client.line(), client.line()], ["LED_CAPSL 0", "ok"]);
}

#[test]
fn the_status_queue_is_never_full() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::of(&daemon);
    for round in 0..1000 {
        let lane = &mut reader.guest.lanes[usize::from(STATUSQ)];
        while lane.queue.free() > 0 {
            lane.place(status(ev::LED, 0, round & 1), Framing::Whole, Placement::Direct);
        }
        lane.queue.submit();
        assert_eq!(lane.queue.wait_all(lane.end()).unwrap().len(), 4);
    }
}

/// Linux returns each event of this type that it got; passed on, they would multiply.
#[test]
fn msc_events_of_the_guest_come_to_nothing() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::of(&daemon);
    let mut client = Client::of(&daemon);
    client.act("wait");
    client.act("watch");
    for kind in [ev::MSC, ev::SYN, ev::KEY, ev::REL, 0x15, 0xffff] {
        reader.say(kind, 5, 1);
    }
    client.act("key A");
    assert_eq!(reader.events(4), [(1, 30, 1), (0, 0, 0), (1, 30, 0), (0, 0, 0)]);
    reader.say(ev::LED, 2, 1);
    assert_eq!(client.line(), "LED_SCROLLL 1", "nothing came before it");
}

#[test]
fn malformed_buffers_come_back_empty_and_do_no_harm() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::of(&daemon);
    let lane = &mut reader.guest.lanes[usize::from(STATUSQ)];
    let writable = buffer();
    let short = Request {
        readable: vec![0x11; 7],
        writable: 0,
    };
    for request in [writable, short] {
        lane.place(request, Framing::Whole, Placement::Direct);
        lane.queue.submit();
        assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 0);
    }
    reader.say(ev::LED, 0, 1);
}

/// The event that found no room takes the next buffer.
#[test]
fn short_buffers_of_the_event_queue_come_back_empty_and_lose_no_event() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::boot(
        crate::support::connect(&daemon.socket()),
        &crate::support::options(8),
    );
    let lane = &mut reader.guest.lanes[usize::from(EVENTQ)];
    let readable = status(1, 30, 1);
    let short = Request {
        readable: Vec::new(),
        writable: 7,
    };
    for request in [readable, short] {
        lane.place(request, Framing::Whole, Placement::Direct);
    }
    lane.queue.submit();
    let mut client = Client::of(&daemon);
    client.act("wait");
    client.act("down A");
    let lane = &mut reader.guest.lanes[usize::from(EVENTQ)];
    let used = lane.queue.wait_all(lane.end()).unwrap();
    assert_eq!(used.iter().map(|used| used.len).collect::<Vec<_>>(), [0, 0]);
    reader.fill();
    assert_eq!(reader.events(2), [(1, 30, 1), (0, 0, 0)]);
}
