// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device of the host may do that a simulated one does not: it goes, it comes back, events of it are lost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use vhost_device_input::backend::{Change, Source};
use vhost_device_input::{Bits, Description, Event, Input, State};
use vu_testkit::devices::input::{EVENTQ, ev};
use vu_testkit::frontend::FrontEnd;

use crate::support::{DEADLINE, QEMU_RING, REPORT, Reader, options};

/// A source that a test plays.
#[derive(Clone)]
struct Played {
    description: Description,
    changes: Arc<Mutex<Vec<Change>>>,
    event: Arc<OwnedFd>,
    /// `attach` and `detach`, and what came over the status queue.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Played {
    fn new() -> Self {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self {
            description: Description {
                name: vec![0xff, 0, 0x80],
                codes: [(ev::KEY, Bits::from_iter([30]))].into(),
                ..Description::default()
            },
            changes: Arc::default(),
            event: Arc::new(event),
            seen: Arc::default(),
        }
    }

    fn play(&self, changes: impl IntoIterator<Item = Change>) {
        self.changes.lock().unwrap().extend(changes);
        rustix::io::write(&*self.event, &1_u64.to_ne_bytes()).unwrap();
    }

    fn press(&self, key: u16, value: i32) {
        self.play([Change::Frame(vec![Event::new(ev::KEY, key, value)])]);
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Source for Played {
    fn description(&self) -> &Description {
        &self.description
    }

    fn attach(&mut self) {
        self.seen.lock().unwrap().push("attach".into());
    }

    fn detach(&mut self) {
        self.seen.lock().unwrap().push("detach".into());
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn read(&mut self, changes: &mut Vec<Change>) {
        let _ = rustix::io::read(&*self.event, &mut [0; 8]);
        changes.append(&mut self.changes.lock().unwrap());
    }

    fn waits(&self) -> bool {
        false
    }

    fn status(&mut self, events: &[Event]) {
        let text = events
            .iter()
            .map(|event| format!("{} {}", event.code, event.value));
        self.seen.lock().unwrap().extend(text);
    }
}

/// A connection to a device of this process, and the thread that serves it.
fn connect(device: &Arc<Input>) -> (FrontEnd, JoinHandle<()>) {
    let (ours, its) = UnixStream::pair().unwrap();
    let device = device.clone();
    let thread = std::thread::spawn(move || vu_common::serve_stream(its, &device).unwrap());
    (FrontEnd::from_stream(ours, DEADLINE).unwrap(), thread)
}

fn guest_of(source: &Played) -> Reader {
    let device = Arc::new(Input::new(Box::new(source.clone())));
    Reader::boot(connect(&device).0, &options(QEMU_RING))
}

#[test]
fn a_name_that_is_not_utf_8_is_told_as_it_is() {
    let reader = guest_of(&Played::new());
    reader.guest.front.set_config(0, &[1, 0]).unwrap();
    let config = reader.guest.front.get_config(0, 12).unwrap();
    assert_eq!(config, [1, 0, 3, 0, 0, 0, 0, 0, 0xff, 0, 0x80, 0]);
}

#[test]
fn keys_and_contacts_are_lifted_when_the_device_goes() {
    let source = Played::new();
    let mut reader = guest_of(&source);
    reader.fill();
    let contact = vec![Event::new(ev::ABS, 0x2f, 2), Event::new(ev::ABS, 0x39, 7)];
    source.press(30, 1);
    source.play([Change::Frame(contact)]);
    assert_eq!(reader.frame(), [(1, 30, 1)]);
    assert_eq!(reader.frame(), [(3, 0x2f, 2), (3, 0x39, 7)]);
    source.play([Change::Released]);
    assert_eq!(reader.frame(), [(1, 30, 0), (3, 0x39, -1)]);
    // It comes back, and the guest goes on.
    source.play([Change::State(State::default())]);
    source.press(30, 1);
    source.press(30, 0);
    let mut keys = Vec::new();
    while keys.last() != Some(&(1, 30, 0)) {
        keys.extend(reader.frame().into_iter().filter(|event| event.0 == 1));
    }
    assert_eq!(keys, [(1, 30, 1), (1, 30, 0)]);
}

#[test]
fn after_lost_events_the_guest_has_the_state_of_the_device() {
    let source = Played::new();
    let mut reader = guest_of(&source);
    reader.fill();
    source.press(30, 1);
    source.press(31, 1);
    let mut state = State::default();
    state.apply(Event::new(ev::KEY, 31, 1));
    state.apply(Event::new(ev::KEY, 32, 1));
    source.play([Change::State(state)]);
    assert_eq!([reader.frame(), reader.frame()], [[(1, 30, 1)], [(1, 31, 1)]]);
    assert_eq!(reader.frame(), [(1, 30, 0), (1, 31, 1), (1, 32, 1)]);
}

#[test]
fn a_source_that_cannot_wait_is_read_and_its_keys_end_as_they_are() {
    let source = Played::new();
    let mut reader = guest_of(&source);
    // Far more than is kept, while there is not one buffer.
    for _ in 0..50 {
        let tap = [1, 0].map(|value| Change::Frame(vec![Event::new(ev::KEY, 30, value)]));
        source.play(tap.into_iter().cycle().take(1000));
        while !source.changes.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
    }
    source.press(31, 1);
    reader.fill();
    let (mut presses, mut down) = (0, false);
    loop {
        let frame = reader.frame();
        for (_, key, value) in &frame {
            if *key == 30 {
                assert_ne!(down, *value == 1, "each edge is one");
                down = *value == 1;
                presses += value;
            }
        }
        if frame.contains(&(1, 31, 1)) {
            break;
        }
    }
    assert!(!down && presses > 0 && presses < 25_000, "{presses}");
}

#[test]
fn the_source_is_attached_while_the_event_queue_runs() {
    let source = Played::new();
    let device = Arc::new(Input::new(Box::new(source.clone())));
    let (front, thread) = connect(&device);
    let mut reader = Reader::boot(front, &options(QEMU_RING));
    reader.fill();
    source.press(30, 1);
    assert_eq!(reader.events(2), [(1, 30, 1), REPORT]);
    reader.say(ev::LED, 1, 1);
    assert_eq!(source.seen(), ["attach", "1 1"]);
    reader.guest.front.get_vring_base(EVENTQ.into()).unwrap();
    assert_eq!(source.seen(), ["attach", "1 1", "detach"]);
    drop(reader);
    thread.join().unwrap();
    let mut reader = Reader::boot(connect(&device).0, &options(QEMU_RING));
    reader.fill();
    source.press(31, 1);
    assert_eq!(reader.events(2), [(1, 31, 1), REPORT]);
}
