// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A daemon, a guest, and messages and buffers in any shape.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::Profile as _;
use vu_testkit::devices::gpio::{
    ARGS, EVENTQ, Gpio, direction, event, gpio, irq_status, kind, message, status,
};
use vu_testkit::driver::Used;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};
use vu_testkit::spawn::{Daemon, Launch};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-gpio");
/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon on the board of the kit, where line 1 follows line 0, and a guest.
pub(crate) struct Rig {
    pub(crate) guest: Guest,
    pub(crate) daemon: Daemon,
    profile: Gpio,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let profile = gpio();
        let launch = Launch::ours(PROGRAM, ARGS).on(profile.storage().as_deref());
        let daemon = Daemon::spawn(&launch).unwrap();
        let guest = boot(&daemon, &profile, options);
        Self {
            guest,
            daemon,
            profile,
        }
    }

    pub(crate) fn ask(&mut self, kind: u16, line: u16, value: u32) -> (u8, u8) {
        let (_, answer) = ask(self.guest.lane(), message(kind, line, value));
        (answer[0], answer[1])
    }

    /// The same for a message that must succeed.
    pub(crate) fn tell(&mut self, kind: u16, line: u16, value: u32) {
        assert_eq!(
            self.ask(kind, line, value),
            (status::OK, 0),
            "message {kind}, line {line}"
        );
    }

    /// Makes `line` an input whose interrupt is enabled.
    pub(crate) fn arm(&mut self, line: u16, trigger: u32) {
        self.tell(kind::SET_DIRECTION, line, direction::IN);
        self.tell(kind::SET_IRQ_TYPE, line, trigger);
    }

    pub(crate) fn events(&mut self) -> &mut Lane {
        &mut self.guest.lanes[usize::from(EVENTQ)]
    }

    /// Puts a buffer on the event queue.
    pub(crate) fn park(&mut self, line: u16) -> Pending {
        let lane = self.events();
        let pending = lane.place(event(line), Framing::Whole, Placement::Direct);
        lane.queue.submit();
        pending
    }

    /// The next buffer that comes back, and its status.
    pub(crate) fn next(&mut self) -> Used {
        let lane = self.events();
        lane.queue.wait(lane.end()).unwrap()
    }

    /// Waits for this buffer; gives its status.
    pub(crate) fn back(&mut self, pending: &Pending) -> u8 {
        let used = self.next();
        assert_eq!((used.id, used.len), (pending.head.into(), 1));
        self.events().answer(pending)[0]
    }

    /// Nothing has come back that was not asked for. Barriers on both queues: a message, and a buffer for no line.
    pub(crate) fn quiet(&mut self) {
        self.ask(kind::GET_DIRECTION, 0, 0);
        let barrier = self.park(u16::MAX);
        assert_eq!(self.back(&barrier), irq_status::INVALID);
        assert_eq!(self.events().queue.pop().unwrap(), None);
    }

    /// Another guest comes when this one has left.
    pub(crate) fn next_guest(&mut self) {
        let (placeholder, _) = UnixStream::pair().unwrap();
        self.guest.front = FrontEnd::from_stream(placeholder, DEADLINE).unwrap();
        self.guest = boot(&self.daemon, &self.profile, Options::default());
    }

    pub(crate) fn still_serves(mut self) {
        self.guest.lane().burst(&self.profile, 64, 16).unwrap();
        self.next_guest();
        self.guest.lane().burst(&self.profile, 64, 16).unwrap();
        assert_eq!(self.guest.front.peer_pid(), Some(self.daemon.pid()));
    }
}

fn boot(daemon: &Daemon, profile: &Gpio, options: Options) -> Guest {
    let options = Options {
        deadline: DEADLINE,
        ..options
    };
    Guest::boot(connect(daemon), profile, &options).unwrap()
}

pub(crate) fn connect(daemon: &Daemon) -> FrontEnd {
    // The former connection may have ended a moment ago only.
    let end = Instant::now() + DEADLINE;
    loop {
        match FrontEnd::connect(&daemon.socket(), DEADLINE) {
            Ok(front) => return front,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// One request; the used length and the writable bytes.
pub(crate) fn ask(lane: &mut Lane, request: Request) -> (u32, Vec<u8>) {
    ask_as(lane, request, Framing::Whole, Placement::Direct)
}

pub(crate) fn ask_as(
    lane: &mut Lane,
    request: Request,
    framing: Framing,
    placement: Placement,
) -> (u32, Vec<u8>) {
    let pending = lane.place(request, framing, placement);
    lane.queue.submit();
    let used = lane.queue.wait(lane.end()).unwrap();
    assert_eq!(used.id, u32::from(pending.head));
    (used.len, lane.answer(&pending))
}

pub(crate) fn raw(readable: &[u8], writable: usize) -> Request {
    Request {
        readable: readable.to_vec(),
        writable,
    }
}
