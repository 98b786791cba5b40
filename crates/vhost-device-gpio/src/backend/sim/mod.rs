// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated chip: lines that follow each other, buttons that press themselves, LEDs that are logged, and a
//! control socket for scripts. Needs no hardware.

mod board_file;
mod control;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

pub use board_file::{BoardError, load, plain};

use super::{Chip, Edge, Edges};
use crate::request::{Direction, Line};

/// Edges that are kept for a guest that does not fetch them: more than one per line and turn are of no use to it,
/// since a masked interrupt is latched once.
const MAX_EDGES: usize = 4096;

/// What a line of the board is wired to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiring {
    /// Name, empty for none.
    pub name: String,
    /// The level that it has as an input until something changes it.
    pub initial: bool,
    /// The line whose level it has while it is an input.
    pub follows: Option<usize>,
    /// Pressed and let go each time this has passed.
    pub press_every: Option<Duration>,
    /// Its changes are logged.
    pub log: bool,
}

#[derive(Debug)]
struct SimLine {
    wiring: Wiring,
    /// Level from outside.
    outside: bool,
    direction: Option<Direction>,
    output: bool,
    watched: Option<Edges>,
    /// The level when it was looked at last.
    level: bool,
}

struct State {
    lines: Vec<SimLine>,
    edges: VecDeque<Edge>,
}

/// A simulated board with one chip.
pub struct Board {
    state: Mutex<State>,
    event: OwnedFd,
}

impl Board {
    /// A board of lines that are wired so.
    ///
    /// # Errors
    /// No event could be made.
    pub fn new(wiring: Vec<Wiring>) -> io::Result<Arc<Self>> {
        let line = |wiring: Wiring| SimLine {
            outside: wiring.initial,
            level: wiring.initial,
            wiring,
            direction: None,
            output: false,
            watched: None,
        };
        let state = State {
            lines: wiring.into_iter().map(line).collect(),
            edges: VecDeque::new(),
        };
        let board = Self {
            state: Mutex::new(state),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        board.change(|_| {});
        Ok(Arc::new(board))
    }

    /// The chip, for a guest.
    pub fn chip(self: &Arc<Self>) -> Box<dyn Chip> {
        Box::new(SimChip(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and tells of the levels that changed by it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        if state.settle() {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

impl State {
    /// The level of line `at`. Lines that follow each other were checked to end somewhere.
    fn level(&self, at: usize) -> bool {
        let Some(line) = self.lines.get(at) else {
            return false;
        };
        match (line.direction, line.wiring.follows) {
            (Some(Direction::Out), _) => line.output,
            (_, Some(source)) => self.level(source),
            _ => line.outside,
        }
    }

    /// Finds what changed since it was looked at last. True if there are edges to report.
    fn settle(&mut self) -> bool {
        let mut reported = false;
        let count = self.lines.len();
        for at in 0..count {
            let level = self.level(at);
            let Some(line) = self.lines.get_mut(at).filter(|line| line.level != level) else {
                continue;
            };
            line.level = level;
            if line.wiring.log {
                log::info!(
                    "line {at} {:?} is {}",
                    line.wiring.name,
                    if level { "high" } else { "low" }
                );
            }
            let seen = match line.watched {
                None => false,
                Some(Edges::Rising) => level,
                Some(Edges::Falling) => !level,
                Some(Edges::Both) => true,
            };
            let number = u16::try_from(at).ok().and_then(|at| Line::new(at, count));
            if let Some(line) = number.filter(|_| seen && self.edges.len() < MAX_EDGES) {
                self.edges.push_back(Edge { line, level });
                reported = true;
            }
        }
        reported
    }
}

struct SimChip(Arc<Board>);

impl SimChip {
    fn with<T>(&self, line: Line, change: impl FnOnce(&mut SimLine) -> T) -> io::Result<T> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        self.0.change(|state| {
            if let Some(line) = state.lines.get_mut(line.index()) {
                result = Ok(change(line));
            }
        });
        result
    }
}

impl Chip for SimChip {
    fn names(&self) -> Vec<String> {
        self.0
            .lock()
            .lines
            .iter()
            .map(|line| line.wiring.name.clone())
            .collect()
    }

    fn direction(&mut self, line: Line) -> io::Result<Direction> {
        self.with(line, |line| line.direction.unwrap_or(Direction::In))
    }

    fn set_direction(&mut self, line: Line, direction: Direction, level: bool) -> io::Result<()> {
        self.with(line, |line| {
            if direction == Direction::Out {
                line.output = level;
            }
            line.direction = Some(direction);
        })
    }

    fn release(&mut self, line: Line) {
        self.0.change(|state| {
            state.edges.retain(|edge| edge.line != line);
            if let Some(line) = state.lines.get_mut(line.index()) {
                (line.direction, line.watched) = (None, None);
            }
        });
    }

    fn value(&mut self, line: Line) -> io::Result<bool> {
        Ok(self.0.lock().level(line.index()))
    }

    fn set_value(&mut self, line: Line, level: bool) -> io::Result<()> {
        self.with(line, |line| line.output = level)
    }

    fn watch(&mut self, line: Line, edges: Option<Edges>) -> io::Result<()> {
        self.with(line, |line| line.watched = edges)?;
        // What was seen under the former setting is not told under this one.
        self.0.lock().edges.retain(|edge| edge.line != line);
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    fn edges(&mut self, edges: &mut Vec<Edge>) {
        let _ = rustix::io::read(&self.0.event, &mut [0; 8]);
        edges.extend(self.0.lock().edges.drain(..));
    }
}
