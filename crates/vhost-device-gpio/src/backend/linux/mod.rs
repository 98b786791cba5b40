// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Chips of the host, by its GPIO character devices. One file for each version of the kernel's interface.
//!
//! Each line in use has a descriptor of its own, and one epoll instance waits for the edges of all of them.

mod v1;
mod v2;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{Timespec, epoll};

pub(crate) use v1::V1;
pub(crate) use v2::V2;

use super::{Chip, Edge, Edges};
use crate::request::{Direction, Line};

/// What the host shows as the consumer of a line.
const CONSUMER: &str = "vhost-device-gpio";

/// How a line is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    In(Option<Edges>),
    Out(bool),
}

/// What the host says of a line.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) name: String,
    /// Who uses it, if somebody does.
    pub(crate) consumer: Option<String>,
    pub(crate) direction: Direction,
}

/// One version of the kernel's interface to one chip. Lines are named by their offsets on the chip.
pub(crate) trait Uapi: Send {
    /// A line in use; released on drop.
    type Hold: AsFd + Send;

    fn count(&self) -> usize;
    fn info(&self, offset: u32) -> io::Result<Info>;
    fn take(&self, offset: u32, mode: Mode) -> io::Result<Self::Hold>;
    /// Changes how a line is used. `None` if it has to be released and taken anew.
    fn change(&self, hold: &Self::Hold, offset: u32, mode: Mode) -> Option<io::Result<()>>;
    fn value(&self, hold: &Self::Hold, offset: u32) -> io::Result<bool>;
    fn set_value(&self, hold: &Self::Hold, offset: u32, level: bool) -> io::Result<()>;
    /// The level that the line went to by its next edge; `None` if there was no more.
    fn next_edge(&self, hold: &mut Self::Hold) -> io::Result<Option<bool>>;
}

struct Held<H> {
    mode: Mode,
    hold: H,
}

/// A chip of the host.
pub(crate) struct LinuxChip<U: Uapi> {
    label: String,
    uapi: U,
    held: Vec<Option<Held<U::Hold>>>,
    poll: OwnedFd,
}

impl<U: Uapi> LinuxChip<U> {
    pub(crate) fn new(path: &Path, uapi: U) -> io::Result<Self> {
        let count = uapi.count();
        Ok(Self {
            label: path.display().to_string(),
            uapi,
            held: (0..count).map(|_| None).collect(),
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Names the chip and the line in an error, and who has the line if that is why.
    fn explain(&self, line: Line, error: &io::Error) -> io::Error {
        let mut text = format!("{} {line}", self.label);
        if let Ok(info) = self.uapi.info(offset(line)) {
            if !info.name.is_empty() {
                text.push_str(&format!(" ({})", info.name));
            }
            if let Some(consumer) = info.consumer.filter(|_| error.kind() == io::ErrorKind::ResourceBusy) {
                text.push_str(&format!(": in use by {consumer:?}"));
            }
        }
        io::Error::new(error.kind(), format!("{text}: {error}"))
    }

    /// Uses the line in `mode` from now on, or no longer.
    fn set_mode(&mut self, line: Line, mode: Option<Mode>) -> io::Result<()> {
        let result = self.try_mode(line, mode);
        result.map_err(|e| self.explain(line, &e))
    }

    fn try_mode(&mut self, line: Line, mode: Option<Mode>) -> io::Result<()> {
        let slot = self.held.get_mut(line.index()).ok_or(io::ErrorKind::NotFound)?;
        let Some(mode) = mode else {
            *slot = None;
            return Ok(());
        };
        if let Some(held) = slot {
            if held.mode == mode {
                return Ok(());
            }
            if let Some(changed) = self.uapi.change(&held.hold, offset(line), mode) {
                changed?;
                held.mode = mode;
                return Ok(());
            }
            // Closing its descriptor also takes it out of the epoll instance.
            *slot = None;
        }
        let hold = self.uapi.take(offset(line), mode)?;
        let data = epoll::EventData::new_u64(line.index() as u64);
        epoll::add(&self.poll, &hold, data, epoll::EventFlags::IN)?;
        *slot = Some(Held { mode, hold });
        Ok(())
    }
}

fn offset(line: Line) -> u32 {
    u32::try_from(line.index()).unwrap_or(u32::MAX)
}

impl<U: Uapi> Chip for LinuxChip<U> {
    fn names(&self) -> Vec<String> {
        let name = |at| self.uapi.info(u32::try_from(at).unwrap_or(u32::MAX)).map(|info| info.name);
        (0..self.held.len()).map(|at| name(at).unwrap_or_default()).collect()
    }

    fn direction(&mut self, line: Line) -> io::Result<Option<Direction>> {
        let info = self.uapi.info(offset(line));
        info.map(|info| Some(info.direction)).map_err(|e| self.explain(line, &e))
    }

    fn set_direction(&mut self, line: Line, direction: Option<Direction>, level: bool) -> io::Result<()> {
        let watched = match self.held.get(line.index()) {
            Some(Some(Held { mode: Mode::In(edges), .. })) => *edges,
            _ => None,
        };
        let mode = direction.map(|direction| match direction {
            Direction::In => Mode::In(watched),
            Direction::Out => Mode::Out(level),
        });
        self.set_mode(line, mode)
    }

    fn value(&mut self, line: Line) -> io::Result<bool> {
        if let Some(None) = self.held.get(line.index()) {
            // A line must be taken to be read; as an input it disturbs nobody.
            self.set_mode(line, Some(Mode::In(None)))?;
        }
        match self.held.get(line.index()) {
            Some(Some(held)) => {
                let value = self.uapi.value(&held.hold, offset(line));
                value.map_err(|e| self.explain(line, &e))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn set_value(&mut self, line: Line, level: bool) -> io::Result<()> {
        let Some(Some(held)) = self.held.get_mut(line.index()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        held.mode = Mode::Out(level);
        let result = self.uapi.set_value(&held.hold, offset(line), level);
        result.map_err(|e| self.explain(line, &e))
    }

    fn watch(&mut self, line: Line, edges: Option<Edges>) -> io::Result<()> {
        match (self.held.get(line.index()), edges) {
            (Some(Some(Held { mode: Mode::In(_), .. })), _) | (Some(None), Some(_)) => {
                self.set_mode(line, Some(Mode::In(edges)))
            }
            // An output, or a line that nobody uses, has no edges to be told of.
            _ => Ok(()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }

    fn edges(&mut self, edges: &mut Vec<Edge>) {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 32];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.poll, &mut events[..], Some(&now)).unwrap_or(0);
        for event in events.iter().take(count) {
            let number = u16::try_from(event.data.u64()).ok();
            let line = number.and_then(|number| Line::new(number, self.held.len()));
            let Some(line) = line else { continue };
            self.read_edges(line, edges);
        }
    }
}

impl<U: Uapi> LinuxChip<U> {
    fn read_edges(&mut self, line: Line, edges: &mut Vec<Edge>) {
        let Some(Some(held)) = self.held.get_mut(line.index()) else { return };
        loop {
            match self.uapi.next_edge(&mut held.hold) {
                Ok(Some(level)) => edges.push(Edge { line, level }),
                Ok(None) => return,
                Err(e) => {
                    // The chip has gone: its line would be ready, with nothing to read, for ever.
                    log::warn!("{}", self.explain(line, &e));
                    if let Some(slot) = self.held.get_mut(line.index()) {
                        *slot = None;
                    }
                    return;
                }
            }
        }
    }
}
