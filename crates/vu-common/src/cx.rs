// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a [`Worker`](crate::Worker) may do while it is called: [`Cx`], and the names in its calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epoll::Events;
use rustix::event::{EventfdFlags, eventfd};

use crate::chain::Chain;
use crate::frontend::ConfigChange;
use crate::group::Group;
use crate::poller::Poller;
use crate::turn::Turn;

/// The token of the waker.
pub(crate) const WAKE: u64 = u64::MAX;
/// Tokens of watched descriptors start here; below are the virtqueues.
pub(crate) const FIRST_TOKEN: u64 = 1 << 32;

/// Names a watched descriptor or a timer of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(crate) u64);

impl Token {
    /// What [`Worker::event`](crate::Worker::event) gets after [`Waker::wake`].
    pub const WAKER: Self = Self(WAKE);
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Until it can be read.
    pub readable: bool,
    /// Until it can be written.
    pub writable: bool,
}

impl Interest {
    /// Readable only.
    pub const READABLE: Self = Self {
        readable: true,
        writable: false,
    };
    /// Writable only.
    pub const WRITABLE: Self = Self {
        readable: false,
        writable: true,
    };
    /// Either.
    pub const BOTH: Self = Self {
        readable: true,
        writable: true,
    };
}

/// What a watched descriptor is ready for; nothing for a timer and the waker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// It can be read, or is at its end.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// The other side has gone, or there is an error on it.
    pub hangup: bool,
}

/// Wakes a worker from any thread: its [`event`](crate::Worker::event) is called with [`Token::WAKER`].
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(event)))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Forgets the wakes so far.
    pub(crate) fn clear(&self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.0, &mut counter);
    }

    /// Wakes it; several wakes before it runs are one.
    pub fn wake(&self) {
        // Full means that it is awake already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// A call that a worker asked for.
pub(crate) struct Timer {
    pub(crate) at: Instant,
    pub(crate) token: Token,
}

/// What a worker's thread shares with the session.
pub(crate) struct Shared {
    pub(crate) group: Arc<Group>,
    pub(crate) poller: Poller,
    pub(crate) config_change: ConfigChange,
}

/// What a worker waits for.
pub(crate) struct Wishes {
    pub(crate) timers: Vec<Timer>,
    pub(crate) watched: Vec<(Token, RawFd)>,
    next_token: u64,
}

impl Wishes {
    pub(crate) fn new() -> Self {
        Self {
            timers: Vec::new(),
            watched: Vec::new(),
            next_token: FIRST_TOKEN,
        }
    }

    fn token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token = self.next_token.wrapping_add(1);
        token
    }

    pub(crate) fn is_watched(&self, token: Token) -> bool {
        self.watched.iter().any(|(t, _)| *t == token)
    }

    /// Takes a timer that has run out by `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Token> {
        let due = |(_, timer): &(usize, &Timer)| timer.at <= now;
        let (at, _) = self
            .timers
            .iter()
            .enumerate()
            .filter(due)
            .min_by_key(|(_, t)| t.at)?;
        Some(self.timers.swap_remove(at).token)
    }
}

/// What a [`Worker`](crate::Worker) may do while it is called.
pub struct Cx<'a> {
    pub(crate) turn: Turn<'a>,
    pub(crate) shared: &'a Shared,
    pub(crate) wishes: &'a mut Wishes,
}

impl Cx<'_> {
    /// The next request of virtqueue `q`, those that were given back first. `None` if there is none now: the
    /// worker is called again when the driver makes one available.
    pub fn pop(&mut self, q: usize) -> Option<Chain> {
        self.turn.pop(q)
    }

    /// Puts a chain back unanswered; the next [`pop`](Self::pop) of its virtqueue returns it again.
    ///
    /// Nothing calls the worker for it: set a timer or watch what it waits for.
    pub fn give_back(&mut self, chain: Chain) {
        self.turn.give_back(chain);
    }

    /// Calls [`Worker::event`](crate::Worker::event) whenever `fd` is ready (level-triggered), until [`unwatch`](Self::unwatch),
    /// which must come before `fd` is closed.
    ///
    /// An `io_uring` is ready for as long as it has completions. One with `IORING_SETUP_DEFER_TASKRUN` does
    /// not wake who sleeps on it: register an eventfd with it, and watch that.
    ///
    /// # Errors
    /// `fd` cannot be waited for, as a regular file, or is watched already.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Token> {
        let token = self.wishes.token();
        let mut events = Events::empty();
        events.set(Events::EPOLLIN | Events::EPOLLRDHUP, interest.readable);
        events.set(Events::EPOLLOUT, interest.writable);
        self.shared.poller.add(fd, events, token.0)?;
        self.wishes.watched.push((token, fd.as_raw_fd()));
        Ok(token)
    }

    /// Watches a descriptor no longer.
    pub fn unwatch(&mut self, token: Token) {
        if let Some(at) = self.wishes.watched.iter().position(|(t, _)| *t == token) {
            let (_, fd) = self.wishes.watched.swap_remove(at);
            self.shared.poller.remove(fd);
        }
    }

    /// Calls [`Worker::event`](crate::Worker::event) once, not before `after` has passed.
    pub fn timer(&mut self, after: Duration) -> Token {
        let token = self.wishes.token();
        let at = Instant::now()
            .checked_add(after)
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(u32::MAX.into()));
        self.wishes.timers.push(Timer { at, token });
        token
    }

    /// Takes a timer back, if it has not run out yet.
    pub fn cancel(&mut self, timer: Token) {
        self.wishes.timers.retain(|t| t.token != timer);
    }

    /// Wakes this worker from other threads.
    pub fn waker(&self) -> Waker {
        self.shared.group.waker().clone()
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        self.shared.config_change.notify();
    }
}
