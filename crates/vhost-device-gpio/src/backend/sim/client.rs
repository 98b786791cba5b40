// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Somebody who sends commands to a simulated board and reads the answers: at its socket, or on standard input and output.
//!
//! Nothing here waits. While somebody does not read the answers, no more commands are taken; who watches and does not read
//! is let go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::Board;
use super::command::Outcome;

/// Longest command.
const MAX_COMMAND: usize = 256;
/// Bytes of answers beyond which their reader has to catch up.
const MAX_ANSWERS: usize = 64 << 10;
/// Bytes that a pipe takes without blocking once it can be written (POSIX's smallest `PIPE_BUF` is 512).
const PIECE: usize = 512;

/// One of those who talk to a board.
pub(super) struct Client {
    input: OwnedFd,
    /// Another than the input, on standard output.
    output: Option<OwnedFd>,
    /// What has come and was not obeyed yet.
    commands: Vec<u8>,
    answers: Vec<u8>,
    /// It wants to know of changes.
    pub(super) watches: bool,
    /// No more commands will come.
    ended: bool,
}

impl Client {
    /// A connection, which does not block.
    pub(super) fn new(stream: OwnedFd) -> Self {
        Self {
            input: stream,
            output: None,
            commands: Vec::new(),
            answers: Vec::new(),
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
            output: Some(output),
            ..Self::new(input)
        })
    }

    /// What it can be waited for: commands, and room for answers.
    pub(super) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let reads = !self.ended && self.keeps_up();
        let read = reads.then(|| (self.input.as_fd(), PollFlags::IN));
        let write = (!self.answers.is_empty()).then(|| (self.output().as_fd(), PollFlags::OUT));
        read.into_iter().chain(write)
    }

    fn output(&self) -> &OwnedFd {
        self.output.as_ref().unwrap_or(&self.input)
    }

    /// Takes what has come for the `interests`. False if there is nothing more to do for it.
    pub(super) fn serve(&mut self, ready: PollFlags, board: &Board) -> bool {
        let result = self.try_serve(ready, board);
        result.is_ok() && !(self.ended && self.answers.is_empty() && !self.watches)
    }

    fn try_serve(&mut self, ready: PollFlags, board: &Board) -> io::Result<()> {
        if ready.intersects(PollFlags::OUT | PollFlags::ERR) {
            self.write()?;
        }
        if !self.ended && self.keeps_up() && ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
        {
            self.read()?;
        }
        while self.keeps_up()
            && let Some(end) = self.commands.iter().position(|byte| *byte == b'\n')
        {
            let line: Vec<u8> = self.commands.drain(..=end).collect();
            match board.command(&String::from_utf8_lossy(&line)) {
                Outcome::Answer(text) => self.tell(&text),
                Outcome::Watch => {
                    self.watches = true;
                    self.tell("ok");
                }
            }
        }
        if self.keeps_up() && self.commands.len() > MAX_COMMAND {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; MAX_COMMAND];
        match rustix::io::read(&self.input, &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => {
                let count = result?;
                self.ended = count == 0;
                self.commands.extend_from_slice(&bytes[..count]);
            }
        }
        Ok(())
    }

    /// Adds a line to the answers.
    pub(super) fn tell(&mut self, text: &str) {
        self.answers.extend_from_slice(text.as_bytes());
        self.answers.push(b'\n');
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
