// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stands in for the crate `libgpiod` 0.1 where a peer is built for a machine without GPIO chips: as much of its
//! interface as `vhost-device-gpio` 0.1 calls, with a simulated chip behind it. The peer's own code is built as it is.
//!
//! `/dev/gpiochipN` has N lines named `line-0` and on. An odd line that is no output has the level of the even one before
//! it, so that a guest can make edges by itself; of the even ones 2 and 4 are high while they are no outputs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the simulated chip refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A path that names no simulated chip.
    NoChip,
    /// A line that the chip does not have.
    NoLine(u32),
    /// A line that is requested already, or not at all.
    Busy(u32),
    /// A level other than 0 and 1.
    BadValue(i32),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Error {}

/// The result of every call.
pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Default)]
struct Line {
    requested: bool,
    output: Option<line::Value>,
    edge: Option<line::Edge>,
    pending: usize,
}

struct Board {
    lines: Mutex<Vec<Line>>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one line, and counts the edge that the line which follows it sees.
    fn change<T>(&self, offset: u32, change: impl FnOnce(&mut Line) -> T) -> Result<T> {
        let mut lines = self.lock();
        let at = offset as usize;
        let follower = at + 1;
        let before = level(&lines, follower);
        let result = change(lines.get_mut(at).ok_or(Error::NoLine(offset))?);
        let after = level(&lines, follower);
        if at % 2 == 0 && before != after {
            if let Some(line) = lines.get_mut(follower) {
                let rising = after == line::Value::Active;
                line.pending += usize::from(line.edge.is_some_and(|edge| edge.sees(rising)));
                self.changed.notify_all();
            }
        }
        Ok(result)
    }
}

fn level(lines: &[Line], at: usize) -> line::Value {
    match (lines.get(at).and_then(|line| line.output), at) {
        (Some(own), _) => own,
        (None, 2 | 4) => line::Value::Active,
        (None, follower) if follower % 2 == 1 => level(lines, follower - 1),
        (None, _) => line::Value::InActive,
    }
}

/// Chips.
pub mod chip {
    use super::{Arc, Board, Condvar, Error, Line, Mutex, Result, line, request};
    use std::path::Path;

    /// A chip.
    pub struct Chip(Arc<Board>);

    /// What a chip says of itself.
    pub struct Info(usize);

    impl Info {
        /// How many lines it has.
        pub fn num_lines(&self) -> usize {
            self.0
        }
    }

    impl Chip {
        /// The chip `/dev/gpiochipN`, of N lines.
        pub fn open<P: AsRef<Path>>(path: &P) -> Result<Self> {
            let path = path.as_ref().to_str().ok_or(Error::NoChip)?;
            let number = path.strip_prefix("/dev/gpiochip").ok_or(Error::NoChip)?;
            let count = number.parse::<u16>().ok().ok_or(Error::NoChip)?;
            Ok(Self(Arc::new(Board {
                lines: Mutex::new(vec![Line::default(); count.into()]),
                changed: Condvar::new(),
            })))
        }

        /// What it says of itself.
        pub fn info(&self) -> Result<Info> {
            Ok(Info(self.0.lock().len()))
        }

        /// What it says of a line.
        pub fn line_info(&self, offset: u32) -> Result<line::Info> {
            let lines = self.0.lock();
            let line = lines.get(offset as usize).ok_or(Error::NoLine(offset))?;
            Ok(line::Info {
                name: format!("line-{offset}"),
                output: line.output.is_some(),
            })
        }

        /// Takes a line.
        pub fn request_lines(
            &self,
            _config: Option<&request::Config>,
            lines: &line::Config,
        ) -> Result<request::Request> {
            let offset = lines.offset()?;
            if self
                .0
                .change(offset, |line| std::mem::replace(&mut line.requested, true))?
            {
                return Err(Error::Busy(offset));
            }
            let mut request = request::Request {
                board: self.0.clone(),
                offset,
            };
            request.reconfigure_lines(lines)?;
            Ok(request)
        }
    }
}

/// Lines.
pub mod line {
    use super::{Error, Result};

    /// Which way a line goes.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Direction {
        /// Unchanged.
        AsIs,
        /// An input.
        Input,
        /// An output.
        Output,
    }

    /// A level.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Value {
        /// Low.
        InActive,
        /// High.
        Active,
    }

    impl Value {
        /// The level of a number.
        pub fn new(value: i32) -> Result<Self> {
            match value {
                0 => Ok(Self::InActive),
                1 => Ok(Self::Active),
                other => Err(Error::BadValue(other)),
            }
        }
    }

    /// Which edges are reported.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Edge {
        /// From low to high.
        Rising,
        /// From high to low.
        Falling,
        /// Either.
        Both,
    }

    impl Edge {
        pub(super) fn sees(self, rising: bool) -> bool {
            self == Self::Both || (self == Self::Rising) == rising
        }
    }

    /// What a chip says of a line.
    pub struct Info {
        pub(super) name: String,
        pub(super) output: bool,
    }

    impl Info {
        /// Its name.
        pub fn name(&self) -> Result<&str> {
            Ok(&self.name)
        }

        /// Which way it goes.
        pub fn direction(&self) -> Result<Direction> {
            Ok(if self.output {
                Direction::Output
            } else {
                Direction::Input
            })
        }
    }

    /// How a line is to be.
    #[derive(Clone, Copy)]
    pub struct Settings {
        pub(super) direction: Direction,
        pub(super) output: Value,
        pub(super) edge: Option<Edge>,
    }

    impl Settings {
        /// As it is.
        pub fn new() -> Result<Self> {
            Ok(Self {
                direction: Direction::AsIs,
                output: Value::InActive,
                edge: None,
            })
        }

        /// Which way it goes.
        pub fn set_direction(&mut self, direction: Direction) -> Result<&mut Self> {
            self.direction = direction;
            Ok(self)
        }

        /// The level to begin with.
        pub fn set_output_value(&mut self, value: Value) -> Result<&mut Self> {
            self.output = value;
            Ok(self)
        }

        /// Which edges it reports.
        pub fn set_edge_detection(&mut self, edge: Option<Edge>) -> Result<&mut Self> {
            self.edge = edge;
            Ok(self)
        }
    }

    /// Settings for a line.
    pub struct Config(Option<(u32, Settings)>);

    impl Config {
        /// Of none.
        pub fn new() -> Result<Self> {
            Ok(Self(None))
        }

        /// Adds one.
        pub fn add_line_settings(&mut self, offsets: &[u32], settings: Settings) -> Result<&mut Self> {
            self.0 = offsets.first().map(|offset| (*offset, settings));
            Ok(self)
        }

        pub(super) fn offset(&self) -> Result<u32> {
            Ok(self.settings()?.0)
        }

        pub(super) fn settings(&self) -> Result<(u32, Settings)> {
            self.0.ok_or(Error::NoLine(u32::MAX))
        }
    }
}

/// Requests of lines.
pub mod request {
    use super::{Arc, Board, PoisonError, Result, level, line};
    use std::time::Duration;

    /// Who asks.
    pub struct Config;

    impl Config {
        /// Nobody.
        pub fn new() -> Result<Self> {
            Ok(Self)
        }

        /// The name, which nobody reads here.
        pub fn set_consumer(&mut self, _consumer: &str) -> Result<&mut Self> {
            Ok(self)
        }
    }

    /// Where edges are read to.
    pub struct Buffer;

    impl Buffer {
        /// Of any capacity.
        pub fn new(_capacity: usize) -> Result<Self> {
            Ok(Self)
        }
    }

    /// A line that was taken; let go when this is dropped.
    pub struct Request {
        pub(super) board: Arc<Board>,
        pub(super) offset: u32,
    }

    impl Drop for Request {
        fn drop(&mut self) {
            let _ = self
                .board
                .change(self.offset, |line| *line = super::Line::default());
        }
    }

    impl Request {
        /// The level.
        pub fn value(&self, offset: u32) -> Result<line::Value> {
            Ok(level(&self.board.lock(), offset as usize))
        }

        /// Sets the level of an output.
        pub fn set_value(&mut self, offset: u32, value: line::Value) -> Result<&mut Self> {
            self.board.change(offset, |line| {
                line.output = line.output.map(|_| value);
            })?;
            Ok(self)
        }

        /// Makes the line as told.
        pub fn reconfigure_lines(&mut self, config: &line::Config) -> Result<&mut Self> {
            let (offset, settings) = config.settings()?;
            self.board.change(offset, |line| {
                match settings.direction {
                    line::Direction::Output => line.output = Some(settings.output),
                    line::Direction::Input => line.output = None,
                    line::Direction::AsIs => {}
                }
                line.edge = settings.edge;
                line.pending = 0;
            })?;
            Ok(self)
        }

        /// Waits for an edge.
        pub fn wait_edge_events(&self, timeout: Option<Duration>) -> Result<bool> {
            let lines = self.board.lock();
            let none = |lines: &mut Vec<super::Line>| {
                lines
                    .get(self.offset as usize)
                    .is_none_or(|line| line.pending == 0)
            };
            let limit = timeout.unwrap_or(Duration::MAX);
            let waited = self.board.changed.wait_timeout_while(lines, limit, none);
            Ok(!waited.unwrap_or_else(PoisonError::into_inner).1.timed_out())
        }

        /// Takes one edge.
        pub fn read_edge_events(&self, _buffer: &mut Buffer) -> Result<usize> {
            self.board
                .change(self.offset, |line| line.pending = line.pending.saturating_sub(1))?;
            Ok(1)
        }
    }
}
