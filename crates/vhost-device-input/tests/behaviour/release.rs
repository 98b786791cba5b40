// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is held when a device leaves its guest: it is lifted there, by the buffers that the ring still has.

use std::net::Shutdown;

use vu_testkit::devices::input::{EVENTQ, ev};
use vu_testkit::spawn::Daemon;

use crate::support::{Client, DEADLINE, REPORT, Reader, connect, daemon, options};

/// A guest that was told of two keys that are held.
fn holding(daemon: &Daemon) -> (Reader, Client) {
    let (mut reader, mut client) = (Reader::of(daemon), Client::of(daemon));
    client.act("wait");
    client.act("watch");
    client.act("down LEFTCTRL+C");
    assert_eq!(reader.events(4), [(1, 29, 1), REPORT, (1, 46, 1), REPORT]);
    settle(&mut reader);
    (reader, client)
}

/// Returns when the device has seen all buffers: it looks at what comes first first.
fn settle(reader: &mut Reader) {
    reader.say(ev::MSC, 5, 1);
}

#[test]
fn an_ending_daemon_lifts_what_is_held() {
    let mut daemon = daemon("keyboard");
    let (mut reader, _client) = holding(&daemon);
    daemon.process().terminate();
    assert_eq!(reader.frame(), [(1, 29, 0), (1, 46, 0)]);
    assert!(daemon.process().wait(DEADLINE).unwrap().success());
}

#[test]
fn a_front_end_that_leaves_finds_nothing_held() {
    let daemon = daemon("keyboard");
    let (mut reader, mut client) = holding(&daemon);
    reader.guest.front.stream().shutdown(Shutdown::Both).unwrap();
    assert_eq!(reader.frame(), [(1, 29, 0), (1, 46, 0)]);
    assert_eq!(client.line(), "guest 0");
}

/// Stops the event queue, which `resume` starts again.
fn pause(reader: &Reader, client: &mut Client) -> u16 {
    let base = reader.guest.front.get_vring_base(EVENTQ.into()).unwrap();
    assert_eq!(client.line(), "guest 0");
    base as u16
}

fn resume(reader: &mut Reader, client: &mut Client, base: u16) {
    reader.guest.start_ring(EVENTQ.into(), base).unwrap();
    reader.guest.enable(EVENTQ.into(), true).unwrap();
    assert_eq!(client.line(), "guest 1");
}

#[test]
fn a_paused_guest_has_nothing_held_and_gets_what_is_when_it_goes_on() {
    let daemon = daemon("keyboard");
    let (mut reader, mut client) = holding(&daemon);
    let base = pause(&reader, &mut client);
    assert_eq!(reader.frame(), [(1, 29, 0), (1, 46, 0)]);
    client.act("up C");
    client.act("key B");
    client.act("down D");
    resume(&mut reader, &mut client, base);
    assert_eq!(reader.frame(), [(1, 29, 1), (1, 32, 1)]);
    client.act("up LEFTCTRL");
    assert_eq!(reader.frame(), [(1, 29, 0)]);
}

/// All buffers are used up by the presses.
#[test]
fn a_paused_guest_without_buffers_gets_the_release_that_it_missed() {
    let daemon = daemon("keyboard");
    let mut reader = Reader::boot(connect(&daemon.socket()), &options(4));
    let mut client = Client::of(&daemon);
    client.act("wait");
    client.act("watch");
    (0..2).for_each(|_| reader.offer());
    reader.lane().queue.submit();
    client.act("down A");
    assert_eq!([reader.take(), reader.take()], [(1, 30, 1), REPORT]);
    let base = pause(&reader, &mut client);
    client.act("up A");
    client.act("down C");
    resume(&mut reader, &mut client, base);
    reader.fill();
    assert_eq!(reader.frame(), [(1, 30, 0), (1, 46, 1)]);
}

/// Four buffers lift three keys; the fourth key is lifted when the guest goes on.
#[test]
fn as_much_is_lifted_as_there_are_buffers_for() {
    let daemon = daemon("keyboard");
    let (mut reader, mut client) = (Reader::of(&daemon), Client::of(&daemon));
    client.act("wait");
    client.act("watch");
    for key in ["1", "2", "3", "4"] {
        client.act(&format!("down {key}"));
        assert_eq!(reader.events(2)[1], REPORT);
    }
    settle(&mut reader);
    let base = pause(&reader, &mut client);
    assert_eq!(reader.frame(), [(1, 2, 0), (1, 3, 0), (1, 4, 0)]);
    client.act("up 1+2+3+4");
    resume(&mut reader, &mut client, base);
    assert_eq!(reader.frame(), [(1, 5, 0)]);
}

/// A finger is lifted by fewer events than the device keeps buffers for.
#[test]
fn buffers_that_no_release_needs_any_more_are_given_back() {
    let daemon = daemon("touch");
    let (mut reader, mut client) = (Reader::of(&daemon), Client::of(&daemon));
    client.act("wait");
    client.act("watch");
    let mut used = 0;
    for (command, events) in [
        ("frame 3 47 0 3 57 1", 3),
        // From here its release takes four: to its slot, up, back, the end.
        ("frame 3 47 1", 2),
        ("frame 3 47 0 3 57 -1", 3),
    ] {
        client.act(command);
        assert_eq!(reader.events(events).last(), Some(&REPORT), "{command}");
        settle(&mut reader);
        used += events as u16;
    }
    assert_eq!(pause(&reader, &mut client), used);
}
