// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How virtqueues start, stop and start again, and what the device is told of it.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vu_testkit::driver::{Used, ring_layout};
use vu_testkit::event::{Event, wait_readable};
use vu_testkit::frontend::Error;
use vu_testkit::frontend::wire::{VERSION, feature, request, u32s, u64s};
use vu_testkit::guest::{BUFFERS, BUFFERS_SIZE, Options};
use vu_testkit::memory::{GuestMemory, RegionSpec};

use crate::support::{Bench, Call, DEADLINE, ECHO, Echo, HELD, OnStop, Rig, echo, hold, serve};

fn heads(used: &[Used]) -> Vec<u32> {
    used.iter().map(|used| used.id).collect()
}

/// Starts virtqueue `HELD` again at `base`.
fn restart(rig: &Rig, base: u16) {
    rig.guest.start_ring(HELD, base).unwrap();
    rig.guest.enable(HELD, true).unwrap();
}

fn echo_held(bench: &Bench) {
    bench.run(HELD, |desk, _| desk.held.drain(..).for_each(echo));
}

#[test]
fn get_vring_base_waits_for_chains_that_the_device_holds() {
    let (bench, calls) = Bench::new();
    *bench.on_stop.lock().unwrap() = OnStop::Keep;
    let mut rig = Rig::boot(&bench, Options::default());
    hold(&mut rig, 3);
    bench.wait_held(&calls, 3);
    let chains = bench.take_held();
    let front = &rig.guest.front;
    front
        .send(request::GET_VRING_BASE, VERSION, &u32s(&[HELD as u32, 0]), &[])
        .unwrap();
    calls.until(&Call::Stop(HELD));
    // Requests that come now are not served any more.
    rig.guest.lanes[HELD].place_next(&Echo, 1);
    rig.guest.lanes[HELD].queue.force_kick();
    rig.guest.lanes[HELD].queue.submit();
    let front = &rig.guest.front;
    for chain in chains {
        let now = Instant::now();
        assert!(!wait_readable(
            front.stream().as_fd(),
            now + Duration::from_millis(5)
        ));
        echo(chain);
    }
    let reply = front.receive("GET_VRING_BASE").unwrap();
    assert_eq!(reply.payload, u32s(&[HELD as u32, 3]));
    assert_eq!(rig.guest.lanes[HELD].queue.used_index(), 3);
}

#[test]
fn chains_given_back_at_a_stop_are_offered_again_exactly_once() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let sent = hold(&mut rig, 8);
    bench.wait_held(&calls, 8);
    bench.run(HELD, |desk, _| desk.held.drain(..3).for_each(echo));
    assert_eq!(rig.guest.front.get_vring_base(HELD as u32).unwrap(), 3);
    assert_eq!(rig.guest.lanes[HELD].queue.used_index(), 3);
    restart(&rig, 3);
    bench.wait_held(&calls, 5);
    assert_eq!(bench.run(HELD, |desk, _| desk.held.len()), 5);
    echo_held(&bench);
    let lane = &mut rig.guest.lanes[HELD];
    let used = lane.queue.wait_all(lane.end()).unwrap();
    assert_eq!(heads(&used), sent);
    assert!(used.iter().all(|used| used.len == 40));
}

#[test]
fn chains_given_back_before_others_that_were_answered_come_back_empty() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let sent = hold(&mut rig, 8);
    bench.wait_held(&calls, 8);
    // Only 6 and 7 can be made available again; 0, 1, 2 and 4 cannot.
    bench.run(HELD, |desk, _| {
        for at in [5, 3] {
            echo(desk.held.remove(at));
        }
    });
    assert_eq!(rig.guest.front.get_vring_base(HELD as u32).unwrap(), 6);
    restart(&rig, 6);
    bench.wait_held(&calls, 2);
    echo_held(&bench);
    let lane = &mut rig.guest.lanes[HELD];
    let used = lane.queue.wait_all(lane.end()).unwrap();
    let lens: Vec<(usize, u32)> = used
        .iter()
        .map(|used| (sent.iter().position(|head| *head == used.id).unwrap(), used.len))
        .collect();
    assert_eq!(lens[..2], [(5, 40), (3, 40)]);
    let mut empty = lens[2..6].to_vec();
    empty.sort_unstable();
    assert_eq!(empty, [(0, 0), (1, 0), (2, 0), (4, 0)]);
    assert_eq!(lens[6..], [(6, 40), (7, 40)]);
}

#[test]
fn a_start_that_fails_retires_the_queue_and_a_later_one_may_succeed() {
    let (bench, _calls) = Bench::new();
    bench.start_fails.store(true, Ordering::SeqCst);
    let mut rig = Rig::boot(&bench, Options::default());
    let lane = &rig.guest.lanes[ECHO];
    assert!(lane.queue.err.wait_until(lane.end()), "the front end is told");
    rig.guest.front.get_features().unwrap();
    bench.start_fails.store(false, Ordering::SeqCst);
    assert_eq!(rig.guest.front.get_vring_base(ECHO as u32).unwrap(), 0);
    rig.guest.start_ring(ECHO, 0).unwrap();
    rig.guest.enable(ECHO, true).unwrap();
    rig.round_trip(ECHO);
}

#[test]
fn a_reset_drops_the_workers_then_tells_the_device_and_all_can_start_again() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    rig.round_trip(ECHO);
    hold(&mut rig, 2);
    bench.wait_held(&calls, 2);
    echo_held(&bench);
    calls.take();
    rig.guest.front.reset_device().unwrap();
    let seen = calls.take();
    assert_eq!(seen.last(), Some(&Call::Reset));
    for thread in 0..2 {
        assert!(seen.contains(&Call::Dropped { thread }));
    }
    for lane in &mut rig.guest.lanes {
        while lane.queue.pop().unwrap().is_some() {}
    }
    for index in 0..3 {
        let base = rig.guest.lanes[index].queue.available_index();
        rig.guest.start_ring(index, base).unwrap();
    }
    assert_eq!(calls.take(), [], "a reset disables the rings");
    for index in 0..3 {
        rig.guest.enable(index, true).unwrap();
    }
    rig.round_trip(ECHO);
    let features = rig.guest.features;
    assert_eq!(calls.next(), Call::Start { thread: 0, features });
}

#[test]
fn other_features_need_stopped_queues_and_start_the_device_anew() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let features = rig.guest.features & !feature::EVENT_IDX;
    let refused = rig.guest.front.set_features(features);
    assert!(matches!(refused, Err(Error::Refused(..))), "{refused:?}");
    rig.round_trip(ECHO);
    for index in 0..3 {
        rig.guest.front.get_vring_base(index).unwrap();
    }
    calls.take();
    rig.guest.front.set_features(features).unwrap();
    let mut seen = calls.take();
    seen.sort_by_key(|call| matches!(call, Call::Dropped { thread: 1 }));
    assert_eq!(seen, [0, 1].map(|thread| Call::Dropped { thread }));
    rig.guest.lanes[ECHO].queue.set_event_idx(false);
    let base = rig.guest.lanes[ECHO].queue.available_index();
    rig.guest.start_ring(ECHO, base).unwrap();
    assert_eq!(calls.next(), Call::Start { thread: 0, features });
    rig.round_trip(ECHO);
}

#[test]
fn a_running_ring_keeps_its_size_base_and_place() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let front = &rig.guest.front;
    let mut other = rig.guest.lanes[ECHO].queue.address;
    front
        .set_vring_addr(ECHO as u32, &rig.guest.memory, other, None)
        .unwrap();
    other.descriptor += 0x10000;
    let moved = front.set_vring_addr(ECHO as u32, &rig.guest.memory, other, None);
    let refused = [
        front.set_vring_num(ECHO as u32, 32),
        front.set_vring_base(ECHO as u32, 7),
        moved,
        front.set_vring_num(ECHO as u32, 100),
        front.set_vring_num(9, 64),
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Refused(..))), "{result:?}");
    }
    rig.round_trip(ECHO);
}

#[test]
fn a_ring_outside_memory_is_retired_and_the_others_run() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let lane = &rig.guest.lanes[HELD];
    rig.guest.front.get_vring_base(HELD as u32).unwrap();
    let mut address = lane.queue.address;
    // It starts in the last region, and leaves it.
    address.descriptor = BUFFERS + BUFFERS_SIZE - 16;
    let front = &rig.guest.front;
    front
        .set_vring_addr(HELD as u32, &rig.guest.memory, address, None)
        .unwrap();
    front
        .set_vring_kick(HELD as u32, Some(lane.queue.kick.fd()))
        .unwrap();
    assert!(lane.queue.err.wait_until(lane.end()));
    rig.round_trip(ECHO);
}

#[test]
fn a_region_at_an_odd_address_cannot_hold_a_ring() {
    let (bench, _calls) = Bench::new();
    let (mut front, session) = serve(&bench);
    let offered = front.get_features().unwrap();
    let protocol = front.get_protocol_features().unwrap();
    front.set_protocol_features(protocol).unwrap();
    front.set_features(offered).unwrap();
    // Guest and user addresses from 1 on: what is aligned for the guest is not for us.
    let memory = GuestMemory::new(&[RegionSpec::new(0, 1 << 20)]).unwrap();
    let region = [u32s(&[1, 0]), u64s(&[1, 1 << 20, 1, 0])].concat();
    let regions = memory.regions();
    front
        .command(
            "SET_MEM_TABLE",
            request::SET_MEM_TABLE,
            &region,
            &[regions[0].file()],
        )
        .unwrap();
    front.set_vring_num(0, 16).unwrap();
    let (ring, _) = ring_layout(0x1000, 16);
    let addresses = [ring.descriptor, ring.used, ring.available, 0];
    front.set_vring_addr_raw(0, 0, addresses).unwrap();
    let (kick, err) = (Event::new().unwrap(), Event::new().unwrap());
    front.set_vring_err(0, Some(err.fd())).unwrap();
    front.set_vring_kick(0, Some(kick.fd())).unwrap();
    front.set_vring_enable(0, true).unwrap();
    assert!(err.wait_until(Instant::now() + DEADLINE));
    front.get_features().unwrap();
    drop(front);
    session.join();
}
