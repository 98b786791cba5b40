// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A worker that looks for requests before it sleeps: it spares its driver the kicks, and an idle guest the CPU.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::ClockId;
use vu_common::{Interest, Ready};
use vu_testkit::chains::Request;
use vu_testkit::devices::Profile;
use vu_testkit::frontend::wire::feature;
use vu_testkit::guest::{Lane, Load, Options};

use crate::support::{Bench, Call, Calls, DEADLINE, ECHO, Echo, HELD, Rig, hold};

/// Longer than anybody would set it: a debug build on a busy machine is slow.
const LONG: Duration = Duration::from_millis(10);
/// Other load on the machine stops the polling again and again, as it should.
const PATIENCE: Duration = Duration::from_secs(240);

/// An echo whose answers are counted.
#[derive(Debug, Default)]
struct Counted(AtomicU64);

impl Profile for Counted {
    fn name(&self) -> &'static str {
        Echo.name()
    }

    fn virtio_id(&self) -> u32 {
        Echo.virtio_id()
    }

    fn queues(&self) -> u16 {
        Echo.queues()
    }

    fn request(&self, number: u64, size: usize) -> Request {
        Echo.request(number, size)
    }

    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Echo.check(request, used, answer)
    }
}

fn boot(event_idx: bool) -> (Arc<Bench>, Calls, Rig) {
    let (bench, calls) = Bench::new();
    *bench.poll.lock().unwrap() = LONG;
    let mut options = Options::default();
    if !event_idx {
        options.features &= !feature::EVENT_IDX;
    }
    let rig = Rig::boot(&bench, options);
    (bench, calls, rig)
}

/// One request after the other, without waiting for calls; returns how many needed a kick.
fn depth_one(lane: &mut Lane, count: usize) -> u64 {
    lane.queue.kick.drain();
    for _ in 0..count {
        let pending = lane.place_next(&Echo, 64);
        lane.queue.submit();
        let used = lane.queue.poll(lane.end()).unwrap();
        lane.check(&Echo, &pending, used).unwrap();
    }
    // Nobody reads a kick, so it counts.
    lane.queue.kick.drain()
}

#[test]
fn a_driver_with_one_request_after_the_other_need_not_kick() {
    for event_idx in [true, false] {
        let (_bench, _calls, mut rig) = boot(event_idx);
        let end = Instant::now() + PATIENCE;
        let mut fewest = u64::MAX;
        while fewest > 10 {
            assert!(
                Instant::now() < end,
                "{fewest} kicks for 20 requests, EVENT_IDX {event_idx}"
            );
            fewest = fewest.min(depth_one(&mut rig.guest.lanes[ECHO], 20));
        }
    }
}

#[test]
fn an_idle_guest_costs_no_cpu() {
    let (bench, _calls, mut rig) = boot(true);
    depth_one(&mut rig.guest.lanes[ECHO], 1000);
    let cpu_time = || {
        let time = bench.run(ECHO, |_, _| rustix::time::clock_gettime(ClockId::ThreadCPUTime));
        Duration::try_from(time).unwrap()
    };
    let before = cpu_time();
    // Not for anything to happen: this is what is measured.
    std::thread::sleep(Duration::from_secs(2));
    let spent = cpu_time().saturating_sub(before);
    assert!(spent < Duration::from_millis(40), "{spent:?} of 2 s");
    rig.round_trip(ECHO);
}

#[test]
fn a_worker_is_asked_for_completions_while_it_polls() {
    let (bench, calls, mut rig) = boot(true);
    bench.answer_polling.store(true, Ordering::Relaxed);
    let end = Instant::now() + PATIENCE;
    // The first ones have to be fetched, until the window has opened.
    loop {
        hold(&mut rig, 1);
        calls.until(&Call::Held);
        let queue = &mut rig.guest.lanes[HELD].queue;
        let now = Instant::now();
        if queue.poll(now + Duration::from_millis(2)).is_ok() {
            break;
        }
        assert!(now < end, "nobody asked");
        bench.run(HELD, |desk, _| desk.held.drain(..).for_each(crate::support::echo));
        queue.poll(end).unwrap();
    }
}

#[test]
fn a_descriptor_is_seen_while_the_worker_never_sleeps() {
    let (bench, calls, mut rig) = boot(true);
    depth_one(&mut rig.guest.lanes[ECHO], 1000);
    let lane = rig.guest.take_lane();
    let counted = Arc::new(Counted::default());
    let served = || counted.0.load(Ordering::Relaxed);
    let load = Load::start(lane, counted.clone(), 16);
    let mut before = 0;
    for _ in 0..20 {
        let end = Instant::now() + DEADLINE;
        while served() <= before {
            assert!(!load.failed() && Instant::now() < end, "nothing is served");
            std::thread::yield_now();
        }
        before = served();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (token, theirs) = bench.run(ECHO, move |_, cx| {
            let token = cx.watch(theirs.as_fd(), Interest::READABLE).unwrap();
            (token, theirs)
        });
        ours.write_all(b"x").unwrap();
        let readable = Ready {
            readable: true,
            ..Ready::default()
        };
        calls.until(&Call::Event(token, readable));
        drop(theirs);
    }
    let (lane, _) = load.stop().unwrap();
    rig.guest.return_lane(lane);
    rig.guest.front.get_vring_base(ECHO as u32).unwrap();
}
