// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A worker waits for an `io_uring` as for any other descriptor: level-triggered, however it is set up.

// UNSAFETY: the `io-uring` crate cannot know that what an entry of the submission queue points to stays.
#![allow(unsafe_code, reason = "pushing to a submission queue")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use vu_common::{Interest, Ready, Token};
use vu_testkit::event::Event;
use vu_testkit::guest::Options;

use crate::support::{Bench, Call, Calls, ECHO, Rig};

const READABLE: Ready = Ready {
    readable: true,
    writable: false,
    hangup: false,
};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    /// Completes when the thread that submitted enters the kernel next, and not by an interrupt.
    Cooperative,
    /// Completes when the thread that submitted asks for it. Such a ring's own descriptor does not wake who
    /// sleeps on it, so an eventfd has to.
    Deferred,
}

/// A ring that waits for one event to happen.
struct Waiting {
    ring: IoUring,
    event: Event,
    woken: Option<Event>,
}

impl Waiting {
    fn new(kind: Kind) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        match kind {
            Kind::Plain => &mut builder,
            Kind::Cooperative => builder.setup_single_issuer().setup_coop_taskrun(),
            Kind::Deferred => builder.setup_single_issuer().setup_defer_taskrun(),
        };
        if kind != Kind::Plain {
            // Shows without a system call that there is something to ask for.
            builder.setup_taskrun_flag();
        }
        let (mut ring, event) = (builder.build(8)?, Event::new()?);
        let woken = (kind == Kind::Deferred).then(Event::new).transpose()?;
        if let Some(woken) = &woken {
            ring.submitter().register_eventfd(woken.fd().as_raw_fd())?;
        }
        let poll = opcode::PollAdd::new(types::Fd(event.fd().as_raw_fd()), libc::POLLIN as u32);
        // SAFETY: the entry holds no pointer, and its descriptor lives as long as the ring.
        unsafe { ring.submission().push(&poll.build().user_data(7)) }.expect("there is room");
        ring.submit()?;
        Ok(Self { ring, event, woken })
    }

    /// What to watch.
    fn fd(&self) -> BorrowedFd<'_> {
        match &self.woken {
            Some(woken) => woken.fd(),
            // SAFETY: the ring is open for as long as it is borrowed here.
            None => unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) },
        }
    }

    /// Has the kernel finish what has completed, and takes it.
    fn reap(&mut self) -> Vec<u64> {
        let mut seen = Vec::new();
        loop {
            // Before the ring is asked, so that what comes later is signalled anew; asking signals, too.
            let signals = self.woken.as_ref().map_or(0, Event::drain);
            self.ring.submit().unwrap();
            seen.extend(self.ring.completion().map(|entry| entry.user_data()));
            if signals == 0 {
                return seen;
            }
        }
    }
}

/// The ring belongs to the worker's thread: only its jobs look in here.
type Shared = Arc<Mutex<Option<Waiting>>>;

fn watch(bench: &Bench, shared: &Shared) -> Token {
    let shared = shared.clone();
    bench.run(ECHO, move |_, cx| {
        let waiting = shared.lock().unwrap();
        let fd = waiting.as_ref().expect("it was made").fd();
        cx.watch(fd, Interest::READABLE).unwrap()
    })
}

fn unwatch(bench: &Bench, token: Token) {
    bench.run(ECHO, move |_, cx| cx.unwatch(token));
}

/// What is ready is seen at the latest with the second of two wakes.
fn assert_silent(bench: &Bench, calls: &Calls) {
    for _ in 0..2 {
        bench.run(ECHO, |_, _| ());
    }
    let events = calls.take();
    assert!(!events.iter().any(|call| matches!(call, Call::Event(..))));
}

fn is_seen_until_it_is_reaped(bench: &Bench, calls: &Calls, kind: Kind) {
    let shared = Shared::default();
    let made = shared.clone();
    let event = bench.run(ECHO, move |_, _| {
        let waiting = Waiting::new(kind)?;
        let event = waiting.event.fd().try_clone_to_owned()?;
        *made.lock().unwrap() = Some(waiting);
        io::Result::Ok(event)
    });
    let event = event.unwrap();
    let token = watch(bench, &shared);
    assert_silent(bench, calls);
    rustix::io::write(event.as_fd(), &1_u64.to_ne_bytes()).unwrap();
    // The worker unwatches what it has seen, and it is still there.
    calls.until(&Call::Event(token, READABLE));
    let token = watch(bench, &shared);
    calls.until(&Call::Event(token, READABLE));
    let reaped = shared.clone();
    let seen = bench.run(ECHO, move |_, _| {
        reaped.lock().unwrap().as_mut().map(Waiting::reap)
    });
    assert_eq!(seen, Some(vec![7]));
    let token = watch(bench, &shared);
    assert_silent(bench, calls);
    unwatch(bench, token);
    bench.run(ECHO, move |_, _| *shared.lock().unwrap() = None);
}

#[test]
fn an_io_uring_is_seen_until_its_completions_are_taken() {
    if let Err(e) = IoUring::new(1) {
        return skip("an_io_uring_is_seen_until_its_completions_are_taken", &e);
    }
    for poll in [Duration::ZERO, Duration::from_millis(1)] {
        let (bench, calls) = Bench::new();
        *bench.poll.lock().unwrap() = poll;
        let mut rig = Rig::boot(&bench, Options::default());
        for kind in [Kind::Plain, Kind::Cooperative, Kind::Deferred] {
            is_seen_until_it_is_reaped(&bench, &calls, kind);
            rig.round_trip(ECHO);
        }
    }
}

fn skip(name: &str, reason: &dyn std::fmt::Display) {
    let line = format!("SKIP {name}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("VU_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        io::Write::write_all(&mut file.unwrap(), line.as_bytes()).unwrap();
    }
}
