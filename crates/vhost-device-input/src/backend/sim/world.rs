// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that serves those who use a simulated device.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::client::Client;
use super::{Desk, clear};

/// Clients at a time; the next ones wait in the backlog.
const MAX_CLIENTS: usize = 16;

/// All who use a device.
pub(super) struct World {
    desk: Arc<Desk>,
    listener: Option<UnixListener>,
    clients: Vec<Client>,
}

impl World {
    /// Starts it on a thread of its own, if there is something to do; it ends with the process.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn start(
        desk: Arc<Desk>,
        listener: Option<UnixListener>,
        clients: Vec<Client>,
    ) -> io::Result<()> {
        if listener.is_none() && clients.is_empty() && !desk.is_playing() {
            return Ok(());
        }
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        let world = Self {
            desk,
            listener,
            clients,
        };
        vu_common::thread::spawn("sim", move || world.run())
    }

    fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(e) => return log::error!("a simulated device takes no more commands: {e}"),
            };
            let mut ready = ready.into_iter();
            let desk = &self.desk;
            desk.play_due();
            self.clients.retain_mut(|client| {
                let flags = ready.next().unwrap_or(PollFlags::empty());
                client.serve(flags, desk)
            });
            self.accept();
            self.tell_news();
        }
    }

    /// Waits for something to do; what each client is ready for.
    fn wait(&self) -> io::Result<Vec<PollFlags>> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.desk.news.as_fd(), PollFlags::IN)];
        let mut owners = vec![None];
        for (at, client) in self.clients.iter().enumerate() {
            for (fd, interest) in client.interests(&self.desk) {
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
        let pauses = self.clients.iter().filter_map(Client::until);
        let next = pauses.chain(self.desk.due()).min();
        let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // What happens from here on wakes it again.
        clear(&self.desk.news);
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

    /// Tells the news so far.
    fn tell_news(&mut self) {
        let watched = self.clients.iter().any(|client| client.watches);
        let news = self.desk.take_news(watched);
        for client in self.clients.iter_mut().filter(|client| client.watches) {
            news.iter().for_each(|text| client.tell(text));
        }
        self.clients.retain(Client::keeps_up);
    }
}
