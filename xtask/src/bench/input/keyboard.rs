// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest with a simulated keyboard: the driver that reads its events, and the client that uses it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vu_testkit::chains::{Framing, Placement};
use vu_testkit::devices::input::{EVENTQ, buffer, input};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options, Pending};
use vu_testkit::spawn::{Daemon, Launch};

use crate::bench::cpus;

/// How long to wait for the daemon, in any case.
const DEADLINE: Duration = Duration::from_secs(20);

/// Type, code and value.
pub(super) type Event = (u16, u16, i32);
/// The end of a frame.
pub(super) const REPORT: Event = (0, 0, 0);

/// A daemon with a keyboard, and its guest.
pub(super) struct Keyboard {
    pub(super) reader: Reader,
    pub(super) client: Client,
    /// Ends with this.
    pub(super) daemon: Daemon,
}

impl Keyboard {
    /// With rings of `size` entries, which are full of buffers.
    pub(super) fn start(launch: &Launch, cpus: &[usize], size: u16) -> Result<Self> {
        let daemon = cpus::spawn(launch, cpus)?;
        let front = FrontEnd::connect(&daemon.socket(), DEADLINE)?;
        let options = Options {
            size,
            deadline: DEADLINE,
            ..Options::default()
        };
        let mut reader = Reader {
            guest: Guest::boot(front, &input(), &options)?,
            offered: VecDeque::new(),
        };
        reader.fill();
        let mut client = Client::connect(&daemon)?;
        client.act("wait")?;
        Ok(Self {
            reader,
            client,
            daemon,
        })
    }
}

/// The driver.
pub(super) struct Reader {
    guest: Guest,
    /// Buffers that are with the device, the oldest first.
    offered: VecDeque<Pending>,
}

impl Reader {
    /// Offers as many buffers as the ring takes.
    fn fill(&mut self) {
        let lane = &mut self.guest.lanes[usize::from(EVENTQ)];
        while lane.queue.free() > 0 {
            let pending = lane.place(buffer(), Framing::Whole, Placement::Direct);
            self.offered.push_back(pending);
        }
        lane.queue.submit();
    }

    /// All events that are there, at least one; none if `end` comes first. Their buffers are offered again.
    pub(super) fn take(&mut self, end: Instant) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let lane = &mut self.guest.lanes[usize::from(EVENTQ)];
        let mut next = match lane.queue.wait(end) {
            Err(_) if Instant::now() >= end => return Ok(events),
            first => Some(first?),
        };
        while let Some(used) = next {
            let pending = self.offered.pop_front().context("a buffer is with the device")?;
            ensure!(
                used.id == u32::from(pending.head) && used.len == 8,
                "{used:?} instead of head {}",
                pending.head
            );
            events.push(event(&lane.answer(&pending))?);
            next = lane.queue.pop()?;
        }
        self.fill();
        Ok(events)
    }

    /// The first event that comes, and when the driver has it.
    pub(super) fn first(&mut self) -> Result<(Event, Instant)> {
        let lane = &mut self.guest.lanes[usize::from(EVENTQ)];
        lane.queue.wait(lane.end())?;
        let now = Instant::now();
        let pending = self.offered.pop_front().context("a buffer is with the device")?;
        let event = event(&lane.answer(&pending))?;
        self.fill();
        Ok((event, now))
    }
}

fn event(bytes: &[u8]) -> Result<Event> {
    let &[k0, k1, c0, c1, v0, v1, v2, v3] = <&[u8; 8]>::try_from(bytes).context("an event of 8 bytes")?;
    Ok((
        u16::from_le_bytes([k0, k1]),
        u16::from_le_bytes([c0, c1]),
        i32::from_le_bytes([v0, v1, v2, v3]),
    ))
}

/// One who uses the keyboard.
pub(super) struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(daemon: &Daemon) -> Result<Self> {
        let path = daemon.dir().join("sc");
        let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The same connection, for those who only send.
    pub(super) fn sender(&self) -> Result<UnixStream> {
        Ok(self.0.get_ref().try_clone()?)
    }

    pub(super) fn send(&mut self, command: &str) -> Result<()> {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes())?;
        Ok(())
    }

    /// Checks the answer to the next command.
    pub(super) fn answered(&mut self) -> Result<()> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line == "ok\n", "the keyboard answers {line:?}");
        Ok(())
    }

    pub(super) fn act(&mut self, command: &str) -> Result<()> {
        self.send(command)?;
        self.answered()
    }
}
