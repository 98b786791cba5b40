// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The in-flight region: what was popped and not answered is served again, exactly once.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vu_testkit::guest::Options;
use vu_testkit::memory::Mapping;

use crate::support::{Bench, ECHO, Echo, HELD, Random, Rig, echo};

fn options() -> Options {
    Options {
        inflight: true,
        ..Options::default()
    }
}

#[test]
fn what_was_not_answered_is_served_again_in_order_after_a_reconnection() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    let mut random = Random(3);
    for _ in 0..20 {
        let lane = &mut rig.guest.lanes[HELD];
        let mut batch: Vec<_> = (0..20).map(|_| lane.place_next(&Echo, 24)).collect();
        lane.queue.submit();
        bench.wait_held(&calls, 20);
        // Some are answered, out of order; the rest stays behind.
        let answered = random.below(20);
        let seed = random.next();
        bench.run(HELD, move |desk, _| {
            let mut random = Random(seed);
            for _ in 0..answered {
                let at = random.below(desk.held.len());
                echo(desk.held.remove(at));
            }
        });
        rig.reconnect();
        bench.wait_held(&calls, 20 - answered);
        // Those that are served again come in the order in which they were first popped.
        bench.run(HELD, |desk, _| desk.held.drain(..).for_each(echo));
        let lane = &mut rig.guest.lanes[HELD];
        let used = lane.queue.wait_all(lane.end()).unwrap();
        let again: Vec<u32> = used[answered..].iter().map(|used| used.id).collect();
        let mut expected: Vec<u32> = batch.iter().map(|pending| pending.head.into()).collect();
        expected.retain(|head| again.contains(head));
        assert_eq!(again, expected);
        for used in used {
            let at = batch
                .iter()
                .position(|pending| u32::from(pending.head) == used.id)
                .unwrap();
            lane.check(&Echo, &batch.remove(at), used).unwrap();
        }
    }
}

#[test]
fn a_batch_that_the_driver_saw_before_a_crash_is_not_served_again() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    let lane = &mut rig.guest.lanes[HELD];
    let sent: Vec<u16> = (0..4).map(|_| lane.place_next(&Echo, 24).head).collect();
    lane.queue.submit();
    bench.wait_held(&calls, 4);
    bench.run(HELD, |desk, _| desk.held.drain(1..).rev().for_each(echo));
    rig.disconnect();
    // As if it had died between the used index and the region: the batch is still marked there.
    let region = rig.guest.inflight.as_ref().unwrap();
    let size = region.mmap_size as usize;
    let map = Mapping::new(region.file.as_fd(), region.mmap_offset, size).unwrap();
    let start = HELD * (16 + 16 * usize::from(region.queue_size)).next_multiple_of(64);
    for head in &sent[1..] {
        map.write(start + 16 + 16 * usize::from(*head), &[1]);
    }
    map.write(start + 14, &0_u16.to_ne_bytes());
    rig.reconnect();
    bench.wait_held(&calls, 1);
    bench.run(HELD, |desk, _| desk.held.drain(..).for_each(echo));
    let lane = &mut rig.guest.lanes[HELD];
    let used = lane.queue.wait_all(lane.end()).unwrap();
    let order: Vec<u32> = used.iter().map(|used| used.id).collect();
    assert_eq!(order, [3, 2, 1, 0].map(|at: usize| u32::from(sent[at])));
    assert_eq!(lane.queue.used_index(), 4);
}

#[test]
fn a_ring_that_is_stopped_with_chains_out_of_order_offers_them_again() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    let lane = &mut rig.guest.lanes[HELD];
    let sent: Vec<u32> = (0..8).map(|_| lane.place_next(&Echo, 24).head.into()).collect();
    lane.queue.submit();
    bench.wait_held(&calls, 8);
    bench.run(HELD, |desk, _| {
        for at in [5, 3] {
            echo(desk.held.remove(at));
        }
    });
    let base = rig.guest.front.get_vring_base(HELD as u32).unwrap();
    assert_eq!(base, 6);
    rig.guest.start_ring(HELD, 6).unwrap();
    rig.guest.enable(HELD, true).unwrap();
    bench.wait_held(&calls, 6);
    bench.run(HELD, |desk, _| desk.held.drain(..).for_each(echo));
    let lane = &mut rig.guest.lanes[HELD];
    let used = lane.queue.wait_all(lane.end()).unwrap();
    let order: Vec<u32> = used.iter().map(|used| used.id).collect();
    assert_eq!(order, [5, 3, 0, 1, 2, 4, 6, 7].map(|at: usize| sent[at]));
    assert!(used.iter().all(|used| used.len == 24));
}

#[test]
fn a_reset_forgets_what_was_in_flight() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    let lane = &mut rig.guest.lanes[HELD];
    for _ in 0..4 {
        lane.place_next(&Echo, 24);
    }
    lane.queue.submit();
    bench.wait_held(&calls, 4);
    bench.run(HELD, |desk, _| echo(desk.held.remove(3)));
    rig.guest.front.reset_device().unwrap();
    // The driver sets its ring up anew, in the same place: none of the old requests exists any more.
    let start = rig.guest.lanes[HELD].queue.address.descriptor;
    let size = rig.guest.lanes[HELD].queue.size;
    let fresh = vu_testkit::driver::Queue::new(&rig.guest.memory, HELD as u32, start, size, 0).unwrap();
    let features = rig.guest.features;
    let lane = &mut rig.guest.lanes[HELD];
    lane.queue = fresh;
    lane.queue
        .set_event_idx(features & vu_testkit::frontend::wire::feature::EVENT_IDX != 0);
    rig.guest.start_ring(HELD, 0).unwrap();
    rig.guest.enable(HELD, true).unwrap();
    let lane = &mut rig.guest.lanes[HELD];
    let pending = lane.place_next(&Echo, 24);
    lane.queue.submit();
    bench.wait_held(&calls, 1);
    bench.run(HELD, |desk, _| desk.held.drain(..).for_each(echo));
    let lane = &mut rig.guest.lanes[HELD];
    let used = lane.queue.wait(lane.end()).unwrap();
    lane.check(&Echo, &pending, used).unwrap();
    assert_eq!(lane.queue.used_index(), 1);
}

#[test]
fn nothing_is_lost_or_repeated_when_the_connection_goes_under_load() {
    let (bench, _calls) = Bench::new();
    let options = Options {
        size: 256,
        ..options()
    };
    let mut rig = Rig::boot(&bench, options);
    for _ in 0..15 {
        let mut lane = rig.guest.lanes.remove(ECHO);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // A driver that keeps the ring full and never waits: the driver's own rules are checked by `pop`.
        let driver = std::thread::spawn(move || {
            let mut count = 0_u32;
            while !stopped.load(Ordering::SeqCst) {
                while lane.queue.free() >= 2 {
                    lane.place_next(&Echo, 16);
                }
                lane.queue.submit();
                while lane.queue.pop().unwrap().is_some() {
                    count += 1;
                }
            }
            (lane, count)
        });
        // The worker has been at it for a while when the connection goes.
        (0..20).for_each(|_| bench.run(ECHO, |_, _| ()));
        rig.disconnect();
        stop.store(true, Ordering::SeqCst);
        let (lane, _) = driver.join().unwrap();
        rig.guest.lanes.insert(ECHO, lane);
        rig.reconnect();
        let lane = &mut rig.guest.lanes[ECHO];
        let available = lane.queue.available_index();
        lane.queue.wait_all(lane.end()).unwrap();
        assert_eq!(lane.queue.used_index(), available);
    }
    rig.round_trip(ECHO);
}
