// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An epoll instance: what a worker's thread sleeps in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use epoll::{ControlOptions, Event, Events};
use rustix::event::epoll::CreateFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// An epoll instance.
pub(crate) struct Poller(OwnedFd);

/// The least that `epoll_wait` waits for, beside nothing.
const MILLISECOND: Duration = Duration::from_millis(1);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Has `data` come back for as long as one of `events` holds.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, events: Events, data: u64) -> io::Result<()> {
        epoll::ctl(
            self.0.as_raw_fd(),
            ControlOptions::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            Event::new(events, data),
        )
    }

    /// A kick is edge-triggered: each write to it is an event of its own, so it need never be read, and a
    /// front end that empties it behind our back cannot block us.
    pub(crate) fn add_kick(&self, kick: RawFd, queue: usize) -> io::Result<()> {
        let event = Event::new(Events::EPOLLIN | Events::EPOLLET, queue as u64);
        epoll::ctl(self.0.as_raw_fd(), ControlOptions::EPOLL_CTL_ADD, kick, event)
    }

    /// Waits for events, for ever with `None`; returns how many came. Rounds up to milliseconds what is more than one.
    pub(crate) fn wait(&self, events: &mut [Event], limit: Option<Duration>) -> io::Result<usize> {
        let limit = match limit {
            Some(limit) if limit < MILLISECOND && !limit.is_zero() => self.doze(limit)?,
            limit => limit,
        };
        let millis = limit.map_or(-1, |limit| {
            i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        match epoll::wait(self.0.as_raw_fd(), millis, events) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    /// Waits for less than what `epoll_wait` can count; what is left of the limit.
    fn doze(&self, limit: Duration) -> io::Result<Option<Duration>> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(Some(Duration::ZERO)),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) fn remove(&self, fd: RawFd) {
        if let Err(e) = epoll::ctl(
            self.0.as_raw_fd(),
            ControlOptions::EPOLL_CTL_DEL,
            fd,
            Event::new(Events::empty(), 0),
        ) {
            log::debug!("descriptor {fd} was not watched: {e}");
        }
    }
}
