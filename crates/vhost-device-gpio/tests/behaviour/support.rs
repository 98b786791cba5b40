// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A daemon with a simulated board, a guest, and a hand on the board's outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::Profile;
use vu_testkit::devices::gpio::{EVENTQ, Gpio, direction, event, gpio, irq_status, kind, message, status};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};
use vu_testkit::spawn::{Daemon, Launch, TempDir};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-gpio");
/// Generous: it only bounds how long a failing test takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A board on which line 1 follows line 0.
pub(crate) const PAIR: &str = "lines = 8\n[line.1]\nfollows = 0\n";

/// A daemon and a guest.
pub(crate) struct Rig {
    pub(crate) guest: Guest,
    pub(crate) daemon: Daemon,
    dir: TempDir,
}

impl Rig {
    /// On the board that the file `board` describes.
    pub(crate) fn new(board: &str) -> Self {
        Self::with(board, &[])
    }

    pub(crate) fn with(board: &str, args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("board"), board).unwrap();
        let chip = format!("sim:{}", dir.path().join("board").display());
        let control = control_path(&dir);
        let control = control.to_str().unwrap();
        let args = [&["--chip", &chip, "--sim-socket", control], args].concat();
        let daemon = Daemon::spawn(&Launch::ours(PROGRAM, &args)).unwrap();
        let guest = guest(&daemon.socket());
        Self { guest, daemon, dir }
    }

    /// Someone at the control socket.
    pub(crate) fn control(&self) -> Control {
        Control::connect(&control_path(&self.dir))
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        control_path(&self.dir)
    }

    /// The status and the value of the answer.
    pub(crate) fn ask(&mut self, kind: u16, line: u16, value: u32) -> (u8, u8) {
        ask(self.guest.lane(), kind, line, value)
    }

    /// For a message that must succeed.
    pub(crate) fn tell(&mut self, kind: u16, line: u16, value: u32) {
        tell(self.guest.lane(), kind, line, value);
    }

    /// For a message that must fail.
    pub(crate) fn refused(&mut self, kind: u16, line: u16, value: u32) {
        let answer = self.ask(kind, line, value);
        assert_eq!(
            answer,
            (status::ERR, 0),
            "message {kind}, line {line}, value {value}"
        );
    }

    pub(crate) fn value(&mut self, line: u16) -> u8 {
        let (status, value) = self.ask(kind::GET_VALUE, line, 0);
        assert_eq!(status, status::OK, "line {line}");
        value
    }

    /// Makes `line` an input whose interrupt is enabled.
    pub(crate) fn arm(&mut self, line: u16, trigger: u32) {
        self.tell(kind::SET_DIRECTION, line, direction::IN);
        self.tell(kind::SET_IRQ_TYPE, line, trigger);
    }

    pub(crate) fn events(&mut self) -> &mut Lane {
        &mut self.guest.lanes[usize::from(EVENTQ)]
    }

    /// Unmasks the interrupt of `line`.
    pub(crate) fn unmask(&mut self, line: u16) -> Pending {
        unmask(self.events(), line)
    }

    /// Waits for this buffer and no other; it must say that the line interrupted.
    pub(crate) fn interrupted(&mut self, pending: &Pending) {
        assert_eq!(back(self.events(), pending), irq_status::VALID);
    }

    /// Waits for this buffer and no other; it must say that the interrupt is not enabled.
    pub(crate) fn invalid(&mut self, pending: &Pending) {
        assert_eq!(back(self.events(), pending), irq_status::INVALID);
    }

    /// No buffer has come back that was not waited for: messages on the other queue are the barrier.
    pub(crate) fn quiet(&mut self) {
        for _ in 0..4 {
            let _ = self.ask(kind::GET_VALUE, 0, 0);
        }
        assert_eq!(self.events().queue.pop().unwrap(), None);
    }

    /// This guest leaves.
    pub(crate) fn leave(&mut self) {
        let (placeholder, _) = UnixStream::pair().unwrap();
        self.guest.front = FrontEnd::from_stream(placeholder, DEADLINE).unwrap();
    }

    /// Another guest comes.
    pub(crate) fn next_guest(&mut self) {
        self.leave();
        self.guest = guest(&self.daemon.socket());
    }
}

fn control_path(dir: &TempDir) -> PathBuf {
    dir.path().join("control")
}

pub(crate) fn connect(socket: &Path) -> FrontEnd {
    let mut front = None;
    wait_until("a connection", || {
        front = FrontEnd::connect(socket, DEADLINE).ok();
        front.is_some()
    });
    front.unwrap()
}

pub(crate) fn guest(socket: &Path) -> Guest {
    guest_of(socket, &gpio())
}

pub(crate) fn guest_of(socket: &Path, profile: &dyn Profile) -> Guest {
    let options = Options {
        deadline: DEADLINE,
        ..Options::default()
    };
    Guest::boot(connect(socket), profile, &options).unwrap()
}

/// A driver that does not know of interrupts.
#[derive(Debug)]
pub(crate) struct WithoutInterrupts(pub(crate) Gpio);

impl Profile for WithoutInterrupts {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn virtio_id(&self) -> u32 {
        self.0.virtio_id()
    }

    fn queues(&self) -> u16 {
        self.0.queues()
    }

    fn request(&self, number: u64, size: usize) -> Request {
        self.0.request(number, size)
    }

    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        self.0.check(request, used, answer)
    }
}

pub(crate) fn ask(lane: &mut Lane, kind: u16, line: u16, value: u32) -> (u8, u8) {
    let answer = send(
        lane,
        message(kind, line, value),
        Framing::Whole,
        Placement::Direct,
    );
    assert_eq!(answer.len(), 2, "message {kind}, line {line}");
    (answer[0], answer[1])
}

pub(crate) fn tell(lane: &mut Lane, kind: u16, line: u16, value: u32) {
    assert_eq!(
        ask(lane, kind, line, value),
        (status::OK, 0),
        "message {kind}, line {line}"
    );
}

/// Sends a request and waits for it; gives as many of the writable bytes as the device says to have written.
pub(crate) fn send(lane: &mut Lane, request: Request, framing: Framing, placement: Placement) -> Vec<u8> {
    let pending = lane.place(request, framing, placement);
    lane.queue.submit();
    let used = lane.queue.wait(lane.end()).unwrap();
    assert_eq!(used.id, u32::from(pending.head));
    let mut answer = lane.answer(&pending);
    answer.truncate(used.len as usize);
    answer
}

pub(crate) fn unmask(events: &mut Lane, line: u16) -> Pending {
    let pending = events.place(event(line), Framing::Whole, Placement::Direct);
    events.queue.submit();
    pending
}

pub(crate) fn back(events: &mut Lane, pending: &Pending) -> u8 {
    let used = events.queue.wait(events.end()).unwrap();
    assert_eq!((used.id, used.len), (pending.head.into(), 1));
    events.answer(pending)[0]
}

/// Someone who sends commands to a board.
pub(crate) struct Control(BufReader<UnixStream>);

impl Control {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, command: &str) {
        writeln!(self.0.get_mut(), "{command}").unwrap();
    }

    /// The next line, without its end; empty when the daemon has hung up.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    /// The answer of one line.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.line()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        assert_eq!(self.ask(command), "ok", "{command}");
    }

    /// The answer to `lines`, without its `ok`.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        self.send("lines");
        std::iter::from_fn(|| Some(self.line()).filter(|line| line != "ok")).collect()
    }
}

/// Waits until `done` says so.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::yield_now();
    }
}

pub(crate) fn wait_for_log(daemon: &Daemon, text: &str) {
    wait_until(&format!("a log line with `{text}`"), || {
        daemon.log().tail().iter().any(|line| line.contains(text))
    });
}

pub(crate) fn threads(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .count()
}
