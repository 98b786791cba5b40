// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lines of one guest on a chip of the host: which are taken, and how. Each taken line has a descriptor of its own,
//! and one epoll instance waits for the edges of all of them.
//!
//! A line is taken when the guest first uses it, and released when the guest deactivates it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::fs::{OFlags, fcntl_setfl};

use super::lines::Chosen;
use super::{Mode, Uapi};
use crate::backend::{Chip, Edge, Edges};
use crate::request::{Direction, Line};

/// Lines with edges that are served in one turn; the others are next.
const TURN: usize = 32;

/// A chip of the host, as one guest sees it.
pub(crate) struct LinuxChip<U: Uapi> {
    path: String,
    uapi: U,
    lines: Vec<HostLine<U::Hold>>,
    poll: OwnedFd,
}

struct HostLine<H> {
    chosen: Chosen,
    held: Option<Held<H>>,
}

struct Held<H> {
    mode: Mode,
    hold: H,
}

impl<U: Uapi> LinuxChip<U> {
    pub(crate) fn new(path: &str, uapi: U, lines: &[Chosen]) -> io::Result<Self> {
        let line = |chosen: &Chosen| HostLine {
            chosen: chosen.clone(),
            held: None,
        };
        Ok(Self {
            path: path.into(),
            uapi,
            lines: lines.iter().map(line).collect(),
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    fn line(&self, line: Line) -> io::Result<&HostLine<U::Hold>> {
        self.lines
            .get(line.index())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// How the line is used.
    fn mode(&self, line: Line) -> Option<Mode> {
        self.line(line).ok()?.held.as_ref().map(|held| held.mode)
    }

    /// Names the chip and the line in an error, and who has the line if that is why.
    fn explain(&self, line: Line, error: &io::Error) -> io::Error {
        let Ok(HostLine { chosen, .. }) = self.line(line) else {
            return io::Error::new(error.kind(), format!("{}: {line}: {error}", self.path));
        };
        let mut text = format!("{} line {}", self.path, chosen.offset);
        if !chosen.name.is_empty() {
            text.push_str(&format!(" {:?}", chosen.name));
        }
        text.push_str(&format!(": {error}"));
        if error.kind() == io::ErrorKind::ResourceBusy
            && let Ok(info) = self.uapi.info(chosen.offset)
            && let Some(consumer) = info.consumer
        {
            text.push_str(&format!(": in use by {consumer:?}"));
        }
        io::Error::new(error.kind(), text)
    }

    /// Uses the line in `mode` from now on.
    fn use_as(&mut self, line: Line, mode: Mode) -> io::Result<()> {
        self.try_use_as(line, mode).map_err(|e| self.explain(line, &e))
    }

    fn try_use_as(&mut self, line: Line, mode: Mode) -> io::Result<()> {
        let Self {
            uapi, lines, poll, ..
        } = self;
        let HostLine { chosen, held } = lines.get_mut(line.index()).ok_or(io::ErrorKind::NotFound)?;
        if let Some(held) = held {
            if held.mode == mode {
                return Ok(());
            }
            let changed = match (held.mode, mode) {
                (Mode::Out(_), Mode::Out(level)) => Some(uapi.set_value(&held.hold, level)),
                _ => uapi.change(&held.hold, chosen.offset, mode),
            };
            if let Some(changed) = changed {
                changed?;
                held.mode = mode;
                return Ok(());
            }
        }
        // Closing its descriptor also takes it out of the epoll instance.
        *held = None;
        let hold = uapi.take(chosen.offset, mode)?;
        if let Some(events) = uapi.events(&hold) {
            fcntl_setfl(events, OFlags::NONBLOCK)?;
            let data = epoll::EventData::new_u64(line.index() as u64);
            epoll::add(poll, events, data, epoll::EventFlags::IN)?;
        }
        *held = Some(Held { mode, hold });
        Ok(())
    }

    /// Reads edges of line `at`. One that cannot be read any more is released, as its descriptor would be ready for ever.
    fn read_edges(&mut self, at: usize, hung_up: bool, edges: &mut Vec<Edge>) {
        let count = self.lines.len();
        let line = u16::try_from(at).ok().and_then(|number| Line::new(number, count));
        let (Some(line), Some(HostLine { held, .. })) = (line, self.lines.get_mut(at)) else {
            return;
        };
        let Some(Held { hold, .. }) = held else { return };
        let before = edges.len();
        let result = self
            .uapi
            .edges(hold, &mut |level| edges.push(Edge { line, level }));
        let error = match result {
            Ok(()) if hung_up && edges.len() == before => io::ErrorKind::BrokenPipe.into(),
            Ok(()) => return,
            Err(e) => e,
        };
        *held = None;
        log::warn!("{}: released", self.explain(line, &error));
    }

    /// Forgets the edges that the host has kept for a line.
    fn forget_edges(&mut self, line: Line) {
        let mut forgotten = Vec::new();
        loop {
            let before = forgotten.len();
            self.read_edges(line.index(), false, &mut forgotten);
            if forgotten.len() == before {
                return;
            }
        }
    }
}

impl<U: Uapi> Chip for LinuxChip<U> {
    fn names(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.chosen.name.clone()).collect()
    }

    fn may_drive(&self, line: Line) -> io::Result<()> {
        if self.line(line)?.chosen.read_only {
            let error = io::Error::new(io::ErrorKind::PermissionDenied, "the guest may only read it");
            return Err(self.explain(line, &error));
        }
        Ok(())
    }

    fn direction(&mut self, line: Line) -> io::Result<Direction> {
        let info = self.uapi.info(self.line(line)?.chosen.offset);
        info.map(|info| info.direction)
            .map_err(|e| self.explain(line, &e))
    }

    fn set_direction(&mut self, line: Line, direction: Direction, level: bool) -> io::Result<()> {
        match (direction, self.mode(line)) {
            // With edges or without.
            (Direction::In, Some(Mode::In(_))) => Ok(()),
            (Direction::In, _) => self.use_as(line, Mode::In(None)),
            (Direction::Out, _) => {
                self.may_drive(line)?;
                self.use_as(line, Mode::Out(level))
            }
        }
    }

    fn release(&mut self, line: Line) {
        if let Some(line) = self.lines.get_mut(line.index()) {
            line.held = None;
        }
    }

    fn value(&mut self, line: Line) -> io::Result<bool> {
        if self.line(line)?.held.is_none() {
            self.use_as(line, Mode::AsIs)?;
        }
        let held = self.line(line)?.held.as_ref().ok_or(io::ErrorKind::NotFound)?;
        self.uapi.value(&held.hold).map_err(|e| self.explain(line, &e))
    }

    fn set_value(&mut self, line: Line, level: bool) -> io::Result<()> {
        self.may_drive(line)?;
        self.use_as(line, Mode::Out(level))
    }

    fn watch(&mut self, line: Line, edges: Option<Edges>) -> io::Result<()> {
        match (self.mode(line), edges) {
            (Some(Mode::In(before)), _) if before == edges => Ok(()),
            (Some(Mode::In(Some(_))), _) => {
                self.use_as(line, Mode::In(None))?;
                // What was seen under the former setting is not told under this one.
                self.forget_edges(line);
                edges.map_or(Ok(()), |edges| self.use_as(line, Mode::In(Some(edges))))
            }
            (Some(Mode::Out(_)), Some(_)) => {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "an output has no edges to tell of");
                Err(self.explain(line, &error))
            }
            (_, Some(edges)) => self.use_as(line, Mode::In(Some(edges))),
            (_, None) => Ok(()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }

    fn edges(&mut self, edges: &mut Vec<Edge>) {
        let none = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [none; TURN];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let count = epoll::wait(&self.poll, &mut events[..], Some(&now)).unwrap_or(0);
        for event in events.iter().take(count) {
            let gone = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            let at = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            // The flags are packed: no reference to them can be had.
            let flags = event.flags;
            self.read_edges(at, flags.intersects(gone), edges);
        }
    }
}
