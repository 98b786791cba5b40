// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated chip: lines that follow each other, buttons that press themselves, LEDs that are logged, and
//! commands for scripts. Needs no hardware.
//!
//! | file | what it answers |
//! |---|---|
//! | `board_file.rs` | how a board file says what is wired to what |
//! | `command.rs` | what a command does |
//! | `client.rs`, `world.rs` | who sends commands, and the thread that serves them |

mod board_file;
mod client;
mod command;
mod world;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use vu_common::SocketPath;

pub use board_file::{BoardError, load, plain};

use self::client::Client;
use self::world::World;
use super::{Chip, Edge, Edges};
use crate::request::{Direction, Line};

/// Edges that are kept for a guest that does not fetch them: more than one per line and turn are of no use to it,
/// since a masked interrupt is latched once.
const MAX_EDGES: usize = 4096;
/// Changes that are kept for those who watch.
const MAX_CHANGES: usize = 4096;
/// The path that stands for standard input and output.
pub const STANDARD: &str = "-";

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
    /// Somebody watches.
    watched: bool,
    /// Lines and the levels that they went to, while somebody watches.
    changes: Vec<(usize, bool)>,
    /// There were more changes than are kept.
    lost: bool,
}

/// A simulated board with one chip.
pub struct Board {
    state: Mutex<State>,
    /// Can be read when there are edges for the guest.
    event: OwnedFd,
    /// Can be read when there are changes for those who watch.
    changed: OwnedFd,
}

/// Sets up a board of lines that are wired so, and the world around it. Commands are taken at the socket `control`, if
/// there is one; [`STANDARD`] stands for standard input, whose answers go to standard output.
///
/// # Errors
/// What the host refused.
pub fn open(wiring: Vec<Wiring>, control: Option<&Path>) -> anyhow::Result<Box<dyn Chip>> {
    let board = Board::new(wiring)?;
    let (mut listener, mut client, mut bound) = (None, None, None);
    match control {
        None => {}
        Some(path) if path == Path::new(STANDARD) => client = Some(Client::standard()?),
        Some(path) => {
            let (socket, path) = vu_common::listen(path)?;
            (listener, bound) = (Some(socket), Some(path));
        }
    }
    World::start(board.clone(), listener, client)?;
    Ok(Box::new(SimChip { board, _bound: bound }))
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
            watched: false,
            changes: Vec::new(),
            lost: false,
        };
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let board = Self {
            state: Mutex::new(state),
            event: event()?,
            changed: event()?,
        };
        board.change(|_| {});
        Ok(Arc::new(board))
    }

    /// The chip, for a guest.
    pub fn chip(self: &Arc<Self>) -> Box<dyn Chip> {
        Box::new(SimChip {
            board: self.clone(),
            _bound: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and tells of the levels that changed by it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let signal = |event: &OwnedFd| {
            // Full means that it can be read already.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        };
        if state.settle() {
            signal(&self.event);
        }
        if !state.changes.is_empty() {
            signal(&self.changed);
        }
    }

    /// Takes the changes so far, and whether some are missing; from now on they are kept if somebody watches.
    fn take_changes(&self, watched: bool) -> (Vec<(usize, bool)>, bool) {
        let _ = rustix::io::read(&self.changed, &mut [0; 8]);
        let mut state = self.lock();
        state.watched = watched;
        (mem::take(&mut state.changes), mem::take(&mut state.lost))
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
            if self.watched && self.changes.len() < MAX_CHANGES {
                self.changes.push((at, level));
            } else {
                self.lost |= self.watched;
            }
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

struct SimChip {
    board: Arc<Board>,
    /// The path of its control socket.
    _bound: Option<SocketPath>,
}

impl SimChip {
    fn with<T>(&self, line: Line, change: impl FnOnce(&mut SimLine) -> T) -> io::Result<T> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        self.board.change(|state| {
            if let Some(line) = state.lines.get_mut(line.index()) {
                result = Ok(change(line));
            }
        });
        result
    }
}

impl Chip for SimChip {
    fn board(&self) -> Option<Arc<Board>> {
        Some(self.board.clone())
    }

    fn names(&self) -> Vec<String> {
        self.board
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
        self.board.change(|state| {
            state.edges.retain(|edge| edge.line != line);
            if let Some(line) = state.lines.get_mut(line.index()) {
                (line.direction, line.watched) = (None, None);
            }
        });
    }

    fn value(&mut self, line: Line) -> io::Result<bool> {
        Ok(self.board.lock().level(line.index()))
    }

    fn set_value(&mut self, line: Line, level: bool) -> io::Result<()> {
        self.with(line, |line| line.output = level)
    }

    fn watch(&mut self, line: Line, edges: Option<Edges>) -> io::Result<()> {
        self.with(line, |line| line.watched = edges)?;
        // What was seen under the former setting is not told under this one.
        self.board.lock().edges.retain(|edge| edge.line != line);
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.board.event.as_fd()
    }

    fn edges(&mut self, edges: &mut Vec<Edge>) {
        let _ = rustix::io::read(&self.board.event, &mut [0; 8]);
        edges.extend(self.board.lock().edges.drain(..));
    }
}
