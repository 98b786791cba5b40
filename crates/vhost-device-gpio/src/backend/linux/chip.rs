// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lines of one guest on a chip of the host: which are taken, and how. Each taken line has a descriptor of its own,
//! and one epoll instance waits for the edges of all of them.
//!
//! A line is taken when the guest first uses it, and released when the guest deactivates it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::fs::{OFlags, fcntl_setfl};
use vu_common::guest_warn;

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
        guest_warn!("{}: released", self.explain(line, &error));
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fmt::Write as _;
    use std::io::{self, PipeReader, PipeWriter, Read, Write as _};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::{Chip, Chosen, Direction, Edge, Edges, Line, LinuxChip, Mode, Uapi};
    use crate::backend::linux::Info;

    /// A kernel whose line 3 somebody else has. Edges are bytes in a pipe: 0, 1, or what cannot be read.
    struct Fake {
        reconfigures: bool,
        /// What was asked of it: one word each.
        calls: Arc<Mutex<String>>,
        /// The ends at which edges come in, of the lines in the order in which they were taken.
        edges: Arc<Mutex<Vec<PipeWriter>>>,
    }

    struct Hold {
        offset: u32,
        level: RefCell<bool>,
        edges: PipeReader,
        calls: Arc<Mutex<String>>,
    }

    impl Drop for Hold {
        fn drop(&mut self) {
            write!(self.calls.lock().unwrap(), "release{} ", self.offset).unwrap();
        }
    }

    impl Fake {
        fn note(&self, call: &str) {
            write!(self.calls.lock().unwrap(), "{call} ").unwrap();
        }
    }

    impl Uapi for Fake {
        const NAME: &'static str = "fake";
        type Hold = Hold;

        fn open(_: &Path) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn count(&self) -> u32 {
            4
        }

        fn info(&self, offset: u32) -> io::Result<Info> {
            Ok(Info {
                name: String::new(),
                consumer: (offset == 3).then(|| "hog".into()),
                direction: Direction::Out,
            })
        }

        fn take(&self, offset: u32, mode: Mode) -> io::Result<Hold> {
            self.note(&format!("{mode:?}{offset}"));
            if offset == 3 {
                return Err(io::Error::from_raw_os_error(16));
            }
            let (reader, writer) = io::pipe()?;
            self.edges.lock().unwrap().push(writer);
            Ok(Hold {
                offset,
                level: RefCell::new(mode == Mode::Out(true)),
                edges: reader,
                calls: self.calls.clone(),
            })
        }

        fn change(&self, _: &Hold, offset: u32, mode: Mode) -> Option<io::Result<()>> {
            self.reconfigures.then(|| {
                self.note(&format!("to-{mode:?}{offset}"));
                Ok(())
            })
        }

        fn value(&self, hold: &Hold) -> io::Result<bool> {
            Ok(*hold.level.borrow())
        }

        fn set_value(&self, hold: &Hold, level: bool) -> io::Result<()> {
            self.note(&format!("set{}", hold.offset));
            *hold.level.borrow_mut() = level;
            Ok(())
        }

        fn events<'a>(&self, hold: &'a Hold) -> Option<BorrowedFd<'a>> {
            Some(hold.edges.as_fd())
        }

        fn edges(&self, hold: &mut Hold, seen: &mut dyn FnMut(bool)) -> io::Result<()> {
            let mut bytes = [0; 4];
            let count = match hold.edges.read(&mut bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                result => result?,
            };
            for byte in &bytes[..count] {
                match byte {
                    0 | 1 => seen(*byte == 1),
                    _ => return Err(io::Error::from_raw_os_error(19)),
                }
            }
            Ok(())
        }
    }

    struct Rig {
        chip: LinuxChip<Fake>,
        calls: Arc<Mutex<String>>,
        edges: Arc<Mutex<Vec<PipeWriter>>>,
    }

    /// Four lines, of which 2 is called `led` and read-only.
    fn rig(reconfigures: bool) -> Rig {
        let (calls, edges) = (Arc::default(), Arc::default());
        let fake = Fake {
            reconfigures,
            calls: Arc::clone(&calls),
            edges: Arc::clone(&edges),
        };
        let line = |offset| Chosen {
            offset,
            name: if offset == 2 { "led".into() } else { String::new() },
            read_only: offset == 2,
        };
        let lines: Vec<_> = (0..4).map(line).collect();
        let chip = LinuxChip::new("/dev/fake", fake, &lines).unwrap();
        Rig { chip, calls, edges }
    }

    impl Rig {
        /// What the kernel was asked for since this was last asked.
        fn calls(&self) -> String {
            let calls = std::mem::take(&mut *self.calls.lock().unwrap());
            calls.trim_end().into()
        }

        /// Has the line that was taken as number `at` make edges.
        fn make(&self, at: usize, edges: &[u8]) {
            self.edges.lock().unwrap()[at].write_all(edges).unwrap();
        }

        fn seen(&mut self) -> Vec<(usize, bool)> {
            let mut edges: Vec<Edge> = Vec::new();
            self.chip.edges(&mut edges);
            edges.iter().map(|edge| (edge.line.index(), edge.level)).collect()
        }
    }

    fn line(number: u16) -> Line {
        Line::new(number, 4).unwrap()
    }

    #[test]
    fn a_line_that_is_only_read_is_taken_as_it_is_and_once() {
        let mut rig = rig(true);
        assert_eq!(rig.chip.direction(line(0)).unwrap(), Direction::Out);
        assert_eq!(rig.calls(), "", "to look at it takes nothing");
        assert!(!rig.chip.value(line(0)).unwrap());
        assert!(!rig.chip.value(line(0)).unwrap());
        assert_eq!(rig.calls(), "AsIs0");
        rig.chip.release(line(0));
        assert_eq!(rig.calls(), "release0");
    }

    #[test]
    fn an_output_is_set_without_being_taken_again() {
        for reconfigures in [true, false] {
            let mut rig = rig(reconfigures);
            rig.chip.set_direction(line(0), Direction::Out, true).unwrap();
            assert!(rig.chip.value(line(0)).unwrap());
            rig.chip.set_value(line(0), false).unwrap();
            rig.chip.set_value(line(0), false).unwrap();
            rig.chip.set_direction(line(0), Direction::Out, true).unwrap();
            assert!(rig.chip.value(line(0)).unwrap());
            assert_eq!(rig.calls(), "Out(true)0 set0 set0");
        }
    }

    #[test]
    fn a_line_is_released_in_between_only_where_the_kernel_cannot_change_it() {
        for (reconfigures, calls) in [
            (
                true,
                "AsIs1 to-In(None)1 to-In(Some(Both))1 to-In(None)1 to-Out(true)1",
            ),
            (
                false,
                "AsIs1 release1 In(None)1 release1 In(Some(Both))1 release1 In(None)1 release1 Out(true)1",
            ),
        ] {
            let mut rig = rig(reconfigures);
            rig.chip.value(line(1)).unwrap();
            rig.chip.set_direction(line(1), Direction::In, false).unwrap();
            rig.chip.watch(line(1), Some(Edges::Both)).unwrap();
            rig.chip.set_direction(line(1), Direction::In, false).unwrap();
            rig.chip.watch(line(1), None).unwrap();
            rig.chip.set_direction(line(1), Direction::Out, true).unwrap();
            assert_eq!(rig.calls(), calls);
        }
    }

    #[test]
    fn a_read_only_line_is_read_and_never_driven() {
        let mut rig = rig(true);
        let error = "/dev/fake line 2 \"led\": the guest may only read it";
        assert_eq!(rig.chip.may_drive(line(2)).unwrap_err().to_string(), error);
        let result = rig.chip.set_direction(line(2), Direction::Out, true);
        assert_eq!(result.unwrap_err().to_string(), error);
        assert_eq!(rig.chip.set_value(line(2), true).unwrap_err().to_string(), error);
        assert_eq!(rig.calls(), "");
        rig.chip.set_direction(line(2), Direction::In, false).unwrap();
        rig.chip.watch(line(2), Some(Edges::Rising)).unwrap();
        rig.chip.value(line(2)).unwrap();
    }

    #[test]
    fn who_has_a_line_that_is_in_use_is_told() {
        let mut rig = rig(true);
        for result in [
            rig.chip.set_direction(line(3), Direction::In, false),
            rig.chip.value(line(3)).map(drop),
        ] {
            let error = result.unwrap_err().to_string();
            assert_eq!(
                error,
                "/dev/fake line 3: Device or resource busy (os error 16): in use by \"hog\""
            );
        }
    }

    #[test]
    fn edges_of_all_lines_come_by_one_descriptor() {
        let mut rig = rig(true);
        for number in 0..3 {
            rig.chip.watch(line(number), Some(Edges::Both)).unwrap();
        }
        assert_eq!(rig.seen(), []);
        rig.make(2, &[1]);
        rig.make(0, &[1, 0, 1, 0, 1]);
        let mut seen = rig.seen();
        seen.extend(rig.seen());
        seen.sort_by_key(|(line, _)| *line);
        assert_eq!(
            seen,
            [(0, true), (0, false), (0, true), (0, false), (0, true), (2, true)]
        );
        assert_eq!(rig.seen(), []);
    }

    #[test]
    fn edges_of_a_former_setting_are_forgotten() {
        let mut rig = rig(true);
        rig.chip.watch(line(0), Some(Edges::Rising)).unwrap();
        rig.make(0, &[1; 9]);
        rig.chip.watch(line(0), Some(Edges::Falling)).unwrap();
        assert_eq!(rig.seen(), []);
        rig.make(0, &[0]);
        rig.chip.watch(line(0), Some(Edges::Falling)).unwrap();
        assert_eq!(rig.seen(), [(0, false)], "the same setting forgets nothing");
        assert!(rig.chip.set_direction(line(0), Direction::Out, false).is_ok());
        assert!(rig.chip.watch(line(0), Some(Edges::Both)).is_err(), "an output");
    }

    #[test]
    fn a_line_that_is_gone_is_released_and_wakes_nobody_any_more() {
        for by_hang_up in [true, false] {
            let mut rig = rig(true);
            rig.chip.watch(line(0), Some(Edges::Both)).unwrap();
            rig.calls();
            if by_hang_up {
                rig.edges.lock().unwrap().clear();
            } else {
                rig.make(0, &[1, 9]);
            }
            let seen = rig.seen();
            assert_eq!(seen.len(), usize::from(!by_hang_up));
            assert_eq!(rig.calls(), "release0");
            assert_eq!(rig.seen(), []);
            rig.chip.value(line(0)).unwrap();
            assert_eq!(rig.calls(), "AsIs0", "it is tried anew");
        }
    }
}
