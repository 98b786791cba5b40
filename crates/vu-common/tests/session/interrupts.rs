// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kicks and calls: none too few, and not more than the driver asked for.

use vu_testkit::event::Event;
use vu_testkit::frontend::wire::feature;
use vu_testkit::guest::{Lane, Options};

use crate::support::{Bench, ECHO, Echo, Rig};

fn options(event_idx: bool) -> Options {
    let mut options = Options::default();
    if !event_idx {
        options.features &= !feature::EVENT_IDX;
    }
    options
}

/// Serves `count` requests that are made available at once, without waiting for a call.
fn poll_batch(lane: &mut Lane, count: usize) {
    for _ in 0..count {
        lane.place_next(&Echo, 8);
    }
    lane.queue.submit();
    for _ in 0..count {
        lane.queue.poll(lane.end()).unwrap();
    }
}

/// Has the worker finish its turn, so that whatever it signals has been signalled.
fn settle(bench: &Bench) {
    bench.run(ECHO, |_, _| ());
}

/// Whoever served the ring before may have died after it showed an answer and before it interrupted the driver. QEMU sets
/// the call before the ring starts.
#[test]
fn a_ring_that_was_used_before_begins_with_an_interrupt() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    settle(&bench);
    let fresh = rig.guest.lanes[ECHO].queue.call.drain();
    assert_eq!(fresh, 0, "a fresh ring has nothing to tell");
    poll_batch(&mut rig.guest.lanes[ECHO], 1);
    settle(&bench);
    rig.guest.lanes[ECHO].queue.call.drain();
    rig.reconnect();
    settle(&bench);
    assert_eq!(rig.guest.lanes[ECHO].queue.call.drain(), 1);
}

#[test]
fn a_batch_is_one_interrupt() {
    for event_idx in [false, true] {
        let (bench, _calls) = Bench::new();
        let mut rig = Rig::boot(&bench, options(event_idx));
        settle(&bench);
        let lane = &mut rig.guest.lanes[ECHO];
        lane.queue.call.drain();
        lane.queue.arm();
        // As many as are published together.
        poll_batch(lane, 16);
        settle(&bench);
        assert_eq!(lane.queue.call.drain(), 1, "EVENT_IDX {event_idx}");
    }
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    for event_idx in [false, true] {
        let (bench, _calls) = Bench::new();
        let mut rig = Rig::boot(&bench, options(event_idx));
        settle(&bench);
        let lane = &mut rig.guest.lanes[ECHO];
        lane.queue.call.drain();
        lane.queue.set_available_flags(1);
        lane.queue.set_used_event(0x8000);
        for _ in 0..5 {
            poll_batch(lane, 10);
        }
        settle(&bench);
        assert_eq!(lane.queue.call.drain(), 0, "EVENT_IDX {event_idx}");
    }
}

#[test]
fn an_interrupt_comes_exactly_when_the_used_event_is_reached() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options(true));
    settle(&bench);
    let lane = &mut rig.guest.lanes[ECHO];
    lane.queue.call.drain();
    lane.queue.set_used_event(4);
    let mut seen = Vec::new();
    for _ in 0..8 {
        poll_batch(lane, 1);
        settle(&bench);
        seen.push(lane.queue.call.drain());
    }
    assert_eq!(seen, [0, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn kicks_without_requests_and_kicks_emptied_by_others_do_no_harm() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    for _ in 0..100 {
        rig.guest.lanes[ECHO].queue.force_kick();
        rig.guest.lanes[ECHO].queue.kick.drain();
    }
    rig.round_trip(ECHO);
}

#[test]
fn a_kick_and_a_call_are_replaced_while_the_ring_runs() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    for _ in 0..20 {
        rig.round_trip(ECHO);
        let queue = &mut rig.guest.lanes[ECHO].queue;
        queue.kick = Event::new().unwrap();
        queue.call = Event::new().unwrap();
        rig.guest
            .front
            .set_vring_kick(ECHO as u32, Some(queue.kick.fd()))
            .unwrap();
        rig.guest
            .front
            .set_vring_call(ECHO as u32, Some(queue.call.fd()))
            .unwrap();
        assert_eq!(queue.call.drain(), 1, "a new call is pulsed");
    }
}

#[test]
fn a_ring_without_a_kick_is_polled() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    rig.guest.front.set_vring_kick(ECHO as u32, None).unwrap();
    rig.round_trip(ECHO);
}

#[test]
fn a_full_call_does_not_block_the_worker() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options(false));
    let lane = &mut rig.guest.lanes[ECHO];
    // The largest value of an eventfd: one more would block a writer.
    rustix::io::write(lane.queue.call.fd(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
    poll_batch(lane, 10);
    poll_batch(lane, 10);
}

#[test]
fn a_disabled_ring_waits_and_goes_on_when_enabled() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    rig.guest.enable(ECHO, false).unwrap();
    let lane = &mut rig.guest.lanes[ECHO];
    let pending = lane.place_next(&Echo, 10);
    lane.queue.force_kick();
    lane.queue.submit();
    settle(&bench);
    assert_eq!(lane.queue.used_index(), 0);
    rig.guest.enable(ECHO, true).unwrap();
    let lane = &mut rig.guest.lanes[ECHO];
    let used = lane.queue.wait(lane.end()).unwrap();
    lane.check(&Echo, &pending, used).unwrap();
}
