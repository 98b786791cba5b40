// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The world around a simulated board, on one thread: buttons that press themselves, and those who send commands.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Board;
use super::client::Client;

/// Clients at a time; the next ones wait in the backlog.
const MAX_CLIENTS: usize = 16;

/// What there is beside the board. It ends with the process.
pub(super) struct World {
    board: Arc<Board>,
    listener: Option<UnixListener>,
    buttons: Vec<Button>,
    clients: Vec<Client>,
}

/// A line that presses itself.
struct Button {
    line: usize,
    every: Duration,
    next: Instant,
}

impl World {
    /// Starts it on a thread of its own, if there is something to do.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn start(
        board: Arc<Board>,
        listener: Option<UnixListener>,
        client: Option<Client>,
    ) -> io::Result<()> {
        let buttons = buttons(&board);
        if listener.is_none() && client.is_none() && buttons.is_empty() {
            return Ok(());
        }
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        let world = Self {
            board,
            listener,
            buttons,
            clients: client.into_iter().collect(),
        };
        vu_common::thread::spawn("board", move || world.run())
    }

    fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(e) => return log::error!("the world around a simulated board stops: {e}"),
            };
            self.press();
            let mut ready = ready.into_iter();
            let board = &self.board;
            self.clients.retain_mut(|client| {
                let flags = ready.next().unwrap_or(PollFlags::empty());
                client.serve(flags, board)
            });
            self.accept();
            self.tell_changes();
        }
    }

    /// Waits for something to do; what each client is ready for.
    fn wait(&self) -> io::Result<Vec<PollFlags>> {
        let mut fds = vec![PollFd::from_borrowed_fd(
            self.board.changed.as_fd(),
            PollFlags::IN,
        )];
        let mut owners = vec![None];
        for (at, client) in self.clients.iter().enumerate() {
            for (fd, interest) in client.interests() {
                fds.push(PollFd::from_borrowed_fd(fd, interest));
                owners.push(Some(at));
            }
        }
        if let Some(listener) = &self.listener
            && self.clients.len() < MAX_CLIENTS
        {
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
            owners.push(None);
        }
        let timeout = self.until_press().and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = vec![PollFlags::empty(); self.clients.len()];
        for (owner, fd) in owners.iter().zip(&fds) {
            if let Some(ready) = owner.and_then(|at| ready.get_mut(at)) {
                *ready |= fd.revents();
            }
        }
        Ok(ready)
    }

    fn accept(&mut self) {
        if let Some(listener) = &self.listener
            && self.clients.len() < MAX_CLIENTS
            && let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.clients.push(Client::new(stream.into()));
        }
    }

    /// Tells of the changes so far.
    fn tell_changes(&mut self) {
        let watched = self.clients.iter().any(|client| client.watches);
        let (changes, lost) = self.board.take_changes(watched);
        for client in self.clients.iter_mut().filter(|client| client.watches) {
            for (line, level) in &changes {
                client.tell(&format!("{line} {}", u8::from(*level)));
            }
            if lost {
                client.tell("error: changes were lost");
            }
        }
        self.clients.retain(|client| !client.watches || client.keeps_up());
    }

    /// How long until the next button is pressed.
    fn until_press(&self) -> Option<Duration> {
        let next = self.buttons.iter().map(|button| button.next).min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn press(&mut self) {
        let now = Instant::now();
        for button in self.buttons.iter_mut().filter(|button| button.next <= now) {
            self.board.change(|state| {
                if let Some(line) = state.lines.get_mut(button.line) {
                    line.outside = !line.outside;
                }
            });
            button.next = now + button.every;
        }
    }
}

fn buttons(board: &Board) -> Vec<Button> {
    let now = Instant::now();
    let state = board.lock();
    let lines = state.lines.iter().enumerate();
    let button = lines.filter_map(|(line, it)| {
        let every = it.wiring.press_every?;
        Some(Button {
            line,
            every,
            next: now + every,
        })
    });
    button.collect()
}
