// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The outside world of a simulated board: a Unix socket that takes lines of text, and buttons that press themselves.
//!
//! | command | answer |
//! |---|---|
//! | `set LINE 0` or `set LINE 1` | `ok`; the level of the line while it is an input |
//! | `toggle LINE` | `ok` |
//! | `get LINE` | `0` or `1`: the level that a probe would show |
//! | `lines` | one line each: number, name, direction, level; then `ok` |
//!
//! LINE is a number or a name. What is not understood is answered with `error: ...`.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;

use super::{Board, State};
use crate::request::Direction;

/// Connections at a time; the next ones wait in the backlog.
const MAX_CLIENTS: usize = 16;
/// Longest command.
const MAX_COMMAND: usize = 256;

impl Board {
    /// Starts the outside world: a thread for the buttons of the board and for `listener`, if there is one.
    /// It ends with the process.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn live(self: &Arc<Self>, listener: Option<UnixListener>) -> io::Result<()> {
        let buttons = Buttons::of(self);
        if listener.is_none() && buttons.0.is_empty() {
            return Ok(());
        }
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        let world = World {
            board: self.clone(),
            listener,
            buttons,
            clients: Vec::new(),
        };
        std::thread::Builder::new()
            .name("board".into())
            .spawn(move || world.run())?;
        Ok(())
    }

    /// Carries out one command and returns the answer.
    pub fn command(&self, text: &str) -> String {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["set", line, level @ ("0" | "1")] => self.outside(line, |_| level == "1"),
            ["toggle", line] => self.outside(line, |level| !level),
            ["get", line] => match self.find(line) {
                Some(at) => u8::from(self.lock().level(at)).to_string(),
                None => unknown(line),
            },
            ["lines"] => self.list(),
            _ => "error: commands are: set LINE 0|1, toggle LINE, get LINE, lines".into(),
        }
    }

    fn outside(&self, line: &str, level: impl FnOnce(bool) -> bool) -> String {
        let Some(at) = self.find(line) else {
            return unknown(line);
        };
        self.change(|state| {
            if let Some(line) = state.lines.get_mut(at) {
                line.outside = level(line.outside);
            }
        });
        "ok".into()
    }

    fn find(&self, line: &str) -> Option<usize> {
        let state = self.lock();
        let count = state.lines.len();
        match line.parse() {
            Ok(number) => Some(number).filter(|number| *number < count),
            Err(_) => state.lines.iter().position(|known| known.wiring.name == line),
        }
    }

    fn list(&self) -> String {
        let state: &State = &self.lock();
        let mut answer = String::new();
        for (at, line) in state.lines.iter().enumerate() {
            let name = if line.wiring.name.is_empty() {
                "-"
            } else {
                &line.wiring.name
            };
            let direction = match line.direction {
                None => "unused",
                Some(Direction::In) => "in",
                Some(Direction::Out) => "out",
            };
            answer.push_str(&format!(
                "{at} {name} {direction} {}\n",
                u8::from(state.level(at))
            ));
        }
        answer.push_str("ok");
        answer
    }
}

fn unknown(line: &str) -> String {
    format!("error: no line {line}")
}

/// The lines that press themselves, and when each does it next.
struct Buttons(Vec<(usize, Duration, Instant)>);

impl Buttons {
    fn of(board: &Board) -> Self {
        let now = Instant::now();
        let lines = &board.lock().lines;
        let button = |(at, line): (usize, &super::SimLine)| {
            line.wiring.press_every.map(|every| (at, every, now + every))
        };
        Self(lines.iter().enumerate().filter_map(button).collect())
    }

    /// How long until the next one.
    fn wait(&self) -> Option<Duration> {
        let next = self.0.iter().map(|(_, _, at)| *at).min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn press(&mut self, board: &Board) {
        let now = Instant::now();
        for (line, every, at) in self.0.iter_mut().filter(|(_, _, at)| *at <= now) {
            board.command(&format!("toggle {line}"));
            *at = now + *every;
        }
    }
}

struct Client {
    stream: UnixStream,
    command: Vec<u8>,
}

struct World {
    board: Arc<Board>,
    listener: Option<UnixListener>,
    buttons: Buttons,
    clients: Vec<Client>,
}

impl World {
    fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(e) => return log::error!("the simulated board stops: {e}"),
            };
            self.buttons.press(&self.board);
            let board = &self.board;
            let mut at = 0;
            self.clients.retain_mut(|client| {
                at += 1;
                !ready.get(at - 1).copied().unwrap_or(false) || client.serve(board).is_ok()
            });
            if let Some(listener) = &self.listener
                && self.clients.len() < MAX_CLIENTS
                && let Ok((stream, _)) = listener.accept()
                && stream.set_nonblocking(true).is_ok()
            {
                let command = Vec::new();
                self.clients.push(Client { stream, command });
            }
        }
    }

    /// Waits for a button, a client or a new one; which clients have something.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut fds: Vec<PollFd<'_>> = self
            .clients
            .iter()
            .map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::IN))
            .collect();
        if let Some(listener) = self
            .listener
            .as_ref()
            .filter(|_| self.clients.len() < MAX_CLIENTS)
        {
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        let timeout = self.buttons.wait().and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }
}

impl Client {
    /// Reads what has come and answers each whole line; an error ends the connection.
    fn serve(&mut self, board: &Board) -> io::Result<()> {
        let mut bytes = [0; MAX_COMMAND];
        let count = match rustix::io::read(&self.stream, &mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        self.command.extend_from_slice(&bytes[..count]);
        while let Some(end) = self.command.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.command.drain(..=end).collect();
            let mut answer = board.command(&String::from_utf8_lossy(&line));
            answer.push('\n');
            // A client that does not read its answers loses its connection, not our time.
            let sent = rustix::net::send(&self.stream, answer.as_bytes(), SendFlags::NOSIGNAL)?;
            if sent < answer.len() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        if self.command.len() > MAX_COMMAND {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}
