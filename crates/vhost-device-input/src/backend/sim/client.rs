// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One of those who use a simulated device: its lines, its answers, what it waits for, and the limits beyond which it is
//! let go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::Desk;
use super::command::Outcome;
use crate::request::Event;

/// Longest line.
const MAX_LINE: usize = 8192;
/// Bytes of answers that wait for their reader until no more lines are taken.
const MANY_ANSWERS: usize = 64 << 10;
/// Most bytes that wait for their reader.
const MAX_ANSWERS: usize = 1 << 20;
/// Bytes that a pipe takes without blocking once it can be written (POSIX's smallest `PIPE_BUF` is 512).
const PIECE: usize = 512;

/// Where answers go.
enum Output {
    /// Back through the input.
    Back,
    /// Elsewhere.
    To(OwnedFd),
    /// Errors to the log, with the name of the script.
    Log(PathBuf),
}

/// What a client waits for.
enum Pause {
    Until(Instant),
    Guest,
    /// The end of the recording that is played.
    Replay,
}

/// One of those who use a device.
pub(super) struct Client {
    input: OwnedFd,
    output: Output,
    received: Vec<u8>,
    answers: Vec<u8>,
    /// A frame that was begun as JSON.
    frame: Vec<Event>,
    pause: Option<Pause>,
    /// It wants news.
    pub(super) watches: bool,
    /// No more lines will come.
    ended: bool,
}

impl Client {
    /// A connection, which does not block.
    pub(super) fn new(stream: OwnedFd) -> Self {
        Self {
            input: stream,
            output: Output::Back,
            received: Vec::new(),
            answers: Vec::new(),
            frame: Vec::new(),
            pause: None,
            watches: false,
            ended: false,
        }
    }

    /// Standard input and output.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(super) fn standard() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            output: Output::To(output),
            ..Self::new(input)
        })
    }

    /// A file of commands.
    pub(super) fn script(path: &Path, file: OwnedFd) -> Self {
        Self {
            output: Output::Log(path.into()),
            ..Self::new(file)
        }
    }

    /// What it can be waited for: lines, unless it waits itself, and room for answers.
    pub(super) fn interests(&self, desk: &Desk) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let read = !self.ended && self.pause.is_none() && !self.is_held_up(desk);
        let read = read.then(|| (self.input.as_fd(), PollFlags::IN));
        let write = (!self.answers.is_empty()).then(|| (self.output(), PollFlags::OUT));
        read.into_iter().chain(write)
    }

    /// When it goes on by itself.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.pause {
            Some(Pause::Until(time)) => Some(time),
            _ => None,
        }
    }

    /// It has to wait for the guest, or for its own reader.
    fn is_held_up(&self, desk: &Desk) -> bool {
        desk.is_full() || self.answers.len() > MANY_ANSWERS
    }

    fn output(&self) -> BorrowedFd<'_> {
        match &self.output {
            Output::To(output) => output.as_fd(),
            _ => self.input.as_fd(),
        }
    }

    /// Takes what it is ready for, and goes on with its lines. False if there is nothing more to do for it.
    pub(super) fn serve(&mut self, ready: PollFlags, desk: &Desk) -> bool {
        let arrived = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let served = (!ready.intersects(arrived) || self.read().is_ok())
            && (!ready.intersects(PollFlags::OUT | PollFlags::ERR) || self.write().is_ok())
            && self.go_on(desk);
        let over = self.ended && self.received.is_empty() && self.pause.is_none();
        served && !(over && self.answers.is_empty() && !self.watches)
    }

    fn read(&mut self) -> io::Result<()> {
        // Lines that wait are enough.
        if self.ended || self.received.len() > MAX_LINE {
            return Ok(());
        }
        let mut bytes = [0; 4096];
        let count = match rustix::io::read(&self.input, &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            result => result?,
        };
        self.received.extend_from_slice(&bytes[..count]);
        self.ended = count == 0;
        Ok(())
    }

    /// Carries out its lines until one has to wait. False if one is too long.
    fn go_on(&mut self, desk: &Desk) -> bool {
        loop {
            let over = match self.pause {
                None => true,
                Some(Pause::Until(time)) => time <= Instant::now(),
                Some(Pause::Guest) => desk.is_attached(),
                Some(Pause::Replay) => !desk.is_playing(),
            };
            if !over || self.is_held_up(desk) {
                return true;
            }
            if self.pause.take().is_some() {
                self.tell("ok");
            }
            let Some(line) = self.line() else {
                return self.received.len() <= MAX_LINE;
            };
            match desk.command(&line, &mut self.frame) {
                Outcome::Nothing => {}
                Outcome::Answer(text) => self.answer(&line, &text),
                Outcome::Sleep(time) => self.pause = Instant::now().checked_add(time).map(Pause::Until),
                Outcome::Guest => self.pause = Some(Pause::Guest),
                Outcome::Replay => self.pause = Some(Pause::Replay),
                Outcome::Watch => {
                    self.watches = true;
                    self.tell("ok");
                }
            }
        }
    }

    /// The next line; the last one may be without an end.
    fn line(&mut self) -> Option<String> {
        let end = self.received.iter().position(|byte| *byte == b'\n');
        let rest = Some(self.received.len()).filter(|len| self.ended && *len > 0);
        let end = end.map(|at| at + 1).or(rest)?;
        let line: Vec<u8> = self.received.drain(..end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    fn answer(&mut self, line: &str, text: &str) {
        match &self.output {
            Output::Log(script) if text.starts_with("error") => {
                log::error!("{}: {}: {text}", script.display(), line.trim());
            }
            _ => self.tell(text),
        }
    }

    /// Adds a line to the answers.
    pub(super) fn tell(&mut self, text: &str) {
        if !matches!(self.output, Output::Log(_)) {
            self.answers.extend_from_slice(text.as_bytes());
            self.answers.push(b'\n');
        }
    }

    /// Whether it reads what it asked for.
    pub(super) fn keeps_up(&self) -> bool {
        self.answers.len() <= MAX_ANSWERS
    }

    fn write(&mut self) -> io::Result<()> {
        let piece = &self.answers[..self.answers.len().min(PIECE)];
        match rustix::io::write(self.output(), piece) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            result => {
                let written = result?;
                self.answers.drain(..written);
                Ok(())
            }
        }
    }
}
