// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a worker can wait for beside kicks: timers, descriptors, other threads.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vu_common::{Interest, Ready};
use vu_testkit::guest::Options;

use crate::support::{Bench, Call, Calls, ECHO, Echo, HELD, Rig, echo};

const READABLE: Ready = Ready {
    readable: true,
    writable: false,
    hangup: false,
};

fn events(calls: &Calls) -> Vec<Call> {
    let mut events = calls.take();
    events.retain(|call| matches!(call, Call::Event(..)));
    events
}

fn next_event(calls: &Calls) -> Call {
    loop {
        if let call @ Call::Event(..) = calls.next() {
            return call;
        }
    }
}

#[test]
fn a_chain_that_was_given_back_is_popped_again_when_a_timer_runs_out() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let lane = &mut rig.guest.lanes[HELD];
    let first = lane.place_next(&Echo, 30);
    let second = lane.place_next(&Echo, 30);
    lane.queue.submit();
    bench.wait_held(&calls, 2);
    let after = Duration::from_millis(20);
    let start = Instant::now();
    let timer = bench.run(HELD, move |desk, cx| {
        for chain in desk.held.drain(..).rev() {
            cx.give_back(chain);
        }
        cx.timer(after)
    });
    assert_eq!(next_event(&calls), Call::Event(timer, Ready::default()));
    assert!(start.elapsed() >= after);
    assert_eq!(rig.guest.lanes[HELD].queue.used_index(), 0);
    bench.run(HELD, |_, cx| {
        while let Some(chain) = cx.pop(HELD) {
            echo(chain);
        }
    });
    let lane = &mut rig.guest.lanes[HELD];
    for pending in [first, second] {
        let used = lane.queue.wait(lane.end()).unwrap();
        lane.check(&Echo, &pending, used).unwrap();
    }
}

#[test]
fn timers_run_out_in_order_once_each_unless_cancelled() {
    let (bench, calls) = Bench::new();
    let _rig = Rig::boot(&bench, Options::default());
    let [late, soon, never] = bench.run(HELD, |_, cx| {
        [60, 10, 1].map(|ms| cx.timer(Duration::from_millis(ms)))
    });
    bench.run(HELD, move |_, cx| cx.cancel(never));
    // The third may have run out before it was cancelled, but then it came first.
    let mut first = next_event(&calls);
    if first == Call::Event(never, Ready::default()) {
        first = next_event(&calls);
    }
    assert_eq!(first, Call::Event(soon, Ready::default()));
    assert_eq!(next_event(&calls), Call::Event(late, Ready::default()));
    let forever = bench.run(HELD, |_, cx| cx.timer(Duration::MAX));
    bench.run(HELD, move |_, cx| cx.cancel(forever));
    assert_eq!(events(&calls), []);
}

#[test]
fn a_watched_descriptor_calls_the_worker_until_it_is_unwatched() {
    let (bench, calls) = Bench::new();
    let _rig = Rig::boot(&bench, Options::default());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = std::sync::Arc::new(theirs);
    let watched = theirs.clone();
    let watch = move |interest| {
        let watched = watched.clone();
        bench.run(ECHO, move |_, cx| cx.watch(watched.as_fd(), interest))
    };
    let token = watch(Interest::READABLE).unwrap();
    assert!(watch(Interest::READABLE).is_err(), "it is watched already");
    (&ours).write_all(b"x").unwrap();
    assert_eq!(next_event(&calls), Call::Event(token, READABLE));
    // The worker has unwatched it: it is still readable, and nothing more comes.
    (&ours).write_all(b"y").unwrap();
    let token = watch(Interest::WRITABLE).unwrap();
    let writable = Ready {
        writable: true,
        ..Ready::default()
    };
    assert_eq!(next_event(&calls), Call::Event(token, writable));
    drop(ours);
    let token = watch(Interest::BOTH).unwrap();
    let all = Ready {
        readable: true,
        writable: true,
        hangup: true,
    };
    assert_eq!(next_event(&calls), Call::Event(token, all));
    assert_eq!(events(&calls), []);
}

#[test]
fn a_regular_file_cannot_be_watched() {
    let (bench, _calls) = Bench::new();
    let _rig = Rig::boot(&bench, Options::default());
    let refused = bench.run(ECHO, |_, cx| {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        cx.watch(file.as_fd(), Interest::READABLE).is_err()
    });
    assert!(refused);
}

#[test]
fn a_worker_is_woken_from_many_threads_while_it_serves() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let wakers: Vec<_> = (0..4)
        .map(|_| {
            let bench = bench.clone();
            std::thread::spawn(move || (0..50).map(|n| bench.run(ECHO, move |_, _| n)).sum::<u32>())
        })
        .collect();
    for _ in 0..50 {
        rig.round_trip(ECHO);
    }
    for waker in wakers {
        assert_eq!(waker.join().unwrap(), 49 * 50 / 2);
    }
}
