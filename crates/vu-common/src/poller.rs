// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An epoll instance: what a worker's thread sleeps in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use epoll::{ControlOptions, Event, Events};

/// An epoll instance.
pub(crate) struct Poller(RawFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        epoll::create(true).map(Self)
    }

    /// Has `data` come back for as long as one of `events` holds.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, events: Events, data: u64) -> io::Result<()> {
        epoll::ctl(
            self.0,
            ControlOptions::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            Event::new(events, data),
        )
    }

    /// A kick is edge-triggered: each write to it is an event of its own, so it need never be read, and a
    /// front end that empties it behind our back cannot block us.
    pub(crate) fn add_kick(&self, kick: RawFd, queue: usize) -> io::Result<()> {
        let event = Event::new(Events::EPOLLIN | Events::EPOLLET, queue as u64);
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_ADD, kick, event)
    }

    /// Waits for events, for ever with `None`; returns how many came. Rounds up to milliseconds.
    pub(crate) fn wait(&self, events: &mut [Event], limit: Option<Duration>) -> io::Result<usize> {
        let millis = limit.map_or(-1, |limit| {
            i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        match epoll::wait(self.0, millis, events) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    pub(crate) fn remove(&self, fd: RawFd) {
        if let Err(e) = epoll::ctl(
            self.0,
            ControlOptions::EPOLL_CTL_DEL,
            fd,
            Event::new(Events::empty(), 0),
        ) {
            log::debug!("descriptor {fd} was not watched: {e}");
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let _ = epoll::close(self.0);
    }
}
