// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests that read events, and a client of a simulated device.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vu_testkit::chains::{Framing, Placement};
use vu_testkit::devices::input::{EVENTQ, STATUSQ, buffer, input, status};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};
use vu_testkit::spawn::{Daemon, Launch};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-input");
/// Generous: it only bounds how long a failing test takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Entries of the rings that QEMU makes for this device.
pub(crate) const QEMU_RING: u16 = 4;
/// The end of a frame.
pub(crate) const REPORT: Ev = (0, 0, 0);

/// Type, code and value.
pub(crate) type Ev = (u16, u16, i32);

/// A daemon with one simulated device that takes commands at [`Client::of`].
pub(crate) fn daemon(kind: &str) -> Daemon {
    Daemon::spawn(&Launch::ours(
        PROGRAM,
        &["--sim", kind, "--sim-socket", "{stem}c"],
    ))
    .unwrap()
}

pub(crate) fn options(size: u16) -> Options {
    Options {
        size,
        deadline: DEADLINE,
        ..Options::default()
    }
}

pub(crate) fn connect(socket: &Path) -> FrontEnd {
    FrontEnd::connect(socket, DEADLINE).unwrap()
}

/// A guest whose driver keeps the event queue filled.
pub(crate) struct Reader {
    pub(crate) guest: Guest,
    /// Buffers that are with the device, in the order in which they were offered.
    offered: Vec<Pending>,
}

impl Reader {
    pub(crate) fn boot(front: FrontEnd, options: &Options) -> Self {
        Self {
            guest: Guest::boot(front, &input(), options).unwrap(),
            offered: Vec::new(),
        }
    }

    /// The same as Linux's driver under QEMU.
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let mut reader = Self::boot(connect(&daemon.socket()), &options(QEMU_RING));
        reader.fill();
        reader
    }

    pub(crate) fn lane(&mut self) -> &mut Lane {
        &mut self.guest.lanes[usize::from(EVENTQ)]
    }

    /// Offers as many buffers as the ring takes.
    pub(crate) fn fill(&mut self) {
        while self.lane().queue.free() > 0 {
            self.offer();
        }
        self.lane().queue.submit();
    }

    /// Offers one buffer, not yet visible to the device.
    pub(crate) fn offer(&mut self) {
        let pending = self.lane().place(buffer(), Framing::Whole, Placement::Direct);
        self.offered.push(pending);
    }

    /// The next event, taken when an interrupt says so. The buffer is not offered again.
    pub(crate) fn take(&mut self) -> Ev {
        let lane = &mut self.guest.lanes[usize::from(EVENTQ)];
        let used = lane.queue.wait(lane.end()).unwrap();
        let pending = self.offered.remove(0);
        assert_eq!((used.id, used.len), (pending.head.into(), 8));
        event_of(&lane.answer(&pending))
    }

    /// The next `count` events, with the ring kept filled.
    pub(crate) fn events(&mut self, count: usize) -> Vec<Ev> {
        let next = |_| {
            let event = self.take();
            self.fill();
            event
        };
        (0..count).map(next).collect()
    }

    /// The next frame, without its end.
    pub(crate) fn frame(&mut self) -> Vec<Ev> {
        let mut frame = Vec::new();
        loop {
            match self.events(1)[0] {
                REPORT => return frame,
                event => frame.push(event),
            }
        }
    }

    /// Sends a status, and gets its buffer back.
    pub(crate) fn say(&mut self, kind: u16, code: u16, value: i32) {
        let lane = &mut self.guest.lanes[usize::from(STATUSQ)];
        lane.place(status(kind, code, value), Framing::Whole, Placement::Direct);
        lane.queue.submit();
        assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 0);
    }
}

fn event_of(bytes: &[u8]) -> Ev {
    let (kind, rest) = bytes.split_first_chunk().unwrap();
    let (code, rest) = rest.split_first_chunk().unwrap();
    let value = *rest.first_chunk().unwrap();
    (
        u16::from_le_bytes(*kind),
        u16::from_le_bytes(*code),
        i32::from_le_bytes(value),
    )
}

/// One of those who use a simulated device.
pub(crate) struct Client(BufReader<UnixStream>);

impl Client {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        Self::at(&daemon.dir().join("sc"))
    }

    pub(crate) fn at(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The next line that comes; empty when the connection has ended.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a command, and gets its answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.send(&format!("{command}\n"));
        self.line()
    }

    pub(crate) fn act(&mut self, command: &str) {
        assert_eq!(self.ask(command), "ok", "{command}");
    }
}
