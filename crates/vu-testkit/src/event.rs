// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kick, call and error notifications: eventfds, and the socket pair that User-mode Linux uses for calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// A notification channel: the back end has one end of it.
#[derive(Debug)]
pub struct Event {
    ours: OwnedFd,
    theirs: Option<OwnedFd>,
}

impl Event {
    /// A non-blocking eventfd, as QEMU passes it.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            ours: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            theirs: None,
        })
    }

    /// A connected pair of stream sockets: each notification is eight bytes.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn socket_pair() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok(Self {
            ours,
            theirs: Some(theirs),
        })
    }

    /// The descriptor that the back end gets.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.theirs.as_ref().unwrap_or(&self.ours).as_fd()
    }

    /// Signals the other side.
    ///
    /// # Errors
    /// What `write` reports.
    pub fn signal(&self) -> io::Result<()> {
        rustix::io::write(&self.ours, &1u64.to_ne_bytes())
            .map(drop)
            .map_err(Into::into)
    }

    /// Takes what was signalled so far: the sum of the values, 0 when there was nothing.
    pub fn drain(&self) -> u64 {
        let mut sum = 0u64;
        let mut buffer = [0; 8];
        while let Ok(8) = rustix::io::read(&self.ours, &mut buffer) {
            sum = sum.saturating_add(u64::from_ne_bytes(buffer));
            if self.theirs.is_none() {
                break;
            }
        }
        sum
    }

    /// Waits until there is a signal or `end` has passed; tells whether there is one. Does not take it.
    #[must_use]
    pub fn wait_until(&self, end: Instant) -> bool {
        wait_readable(self.ours.as_fd(), end)
    }
}

/// Waits until `fd` is readable or `end` has passed.
#[must_use]
pub fn wait_readable(fd: BorrowedFd<'_>, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}
