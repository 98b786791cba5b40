// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the whole process comes to an end: every thread that waits for a front end waits for this, too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// How long requests that are in flight may take once the daemon was asked to stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// How long the threads of connections may take to hear of the end, before what they may be stuck on is cut off.
const HEARING: Duration = Duration::from_secs(1);

/// Asked once, heard by all.
pub(crate) struct Shutdown {
    event: OwnedFd,
    asked: AtomicBool,
    connections: Mutex<Vec<(u64, UnixStream)>>,
    /// A connection was forgotten.
    forgotten: Condvar,
}

/// A connection that ends with the process; forgotten on drop.
pub(crate) struct Registered<'a> {
    shutdown: &'a Shutdown,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shutdown.connections().retain(|(id, _)| *id != self.id);
        self.shutdown.forgotten.notify_all();
    }
}

impl Shutdown {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            event,
            asked: AtomicBool::new(false),
            connections: Mutex::default(),
            forgotten: Condvar::new(),
        })
    }

    fn connections(&self) -> MutexGuard<'_, Vec<(u64, UnixStream)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the process: nobody waits any longer, and a thread that is stuck on its connection is freed.
    ///
    /// Front ends hear of it last: one that does closes its interrupts, while the guest still gets what devices have for
    /// it.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        let connections = self.connections();
        for (_, stream) in &*connections {
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
        let some_left = |connections: &mut Vec<_>| !connections.is_empty();
        let waited = self.forgotten.wait_timeout_while(connections, HEARING, some_left);
        let (stuck, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for (_, stream) in &*stuck {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Has the connection shut down with the process.
    pub(crate) fn register(&self, stream: &UnixStream) -> Registered<'_> {
        let mut connections = self.connections();
        let id = connections
            .iter()
            .map(|(id, _)| *id)
            .max()
            .unwrap_or(0)
            .wrapping_add(1);
        match stream.try_clone() {
            Ok(stream) => connections.push((id, stream)),
            Err(e) => log::warn!("cannot watch over a connection: {e}"),
        }
        Registered { shutdown: self, id }
    }

    /// Waits until `fd` can be read; false if the process is to end.
    pub(crate) fn wait_readable(&self, fd: impl AsFd) -> bool {
        self.wait(Some(fd.as_fd()), None)
    }

    /// Waits a moment.
    pub(crate) fn pause(&self) {
        self.wait(None, Some(Duration::from_millis(5)));
    }

    fn wait(&self, fd: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> bool {
        let mut fds = vec![PollFd::new(&self.event, PollFlags::IN)];
        fds.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        if let Err(e) = poll(&mut fds, limit.as_ref())
            && e != rustix::io::Errno::INTR
        {
            log::error!("cannot wait: {e}");
            return false;
        }
        !self.asked()
    }
}
