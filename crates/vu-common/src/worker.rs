// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One thread of a device: waits for kicks, watched descriptors and timers, and calls the [`Worker`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use epoll::{ControlOptions, Event, Events};

use crate::chain::Chain;
use crate::device::Worker;
use crate::frontend::ConfigChange;
use crate::queue::Queue;

const WAKE: u64 = u64::MAX;
/// Tokens of watched descriptors start here; below are the virtqueues.
const FIRST_TOKEN: u64 = 1 << 32;
/// How often a ring without a kick descriptor is looked at (vhost-user: "polling" mode).
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Names a watched descriptor or a timer of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

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

/// An epoll instance.
pub(crate) struct Poller(RawFd);

impl Poller {
    fn new() -> io::Result<Self> {
        epoll::create(true).map(Self)
    }

    fn add(&self, fd: BorrowedFd<'_>, events: Events, data: u64) -> io::Result<()> {
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

/// Wakes a worker from any thread: its [`event`](crate::Worker::event) is called with [`Token::WAKER`].
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Wakes it; several wakes before it runs are one.
    pub fn wake(&self) {
        // Full means that it is awake already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

struct Timer {
    at: Instant,
    token: Token,
}

/// What a [`Worker`] may do while it is called.
pub struct Cx<'a> {
    queues: &'a [Arc<Queue>],
    poller: &'a Poller,
    waker: &'a Waker,
    config_change: &'a ConfigChange,
    timers: &'a mut Vec<Timer>,
    watched: &'a mut Vec<(Token, RawFd)>,
    next_token: &'a mut u64,
}

impl Cx<'_> {
    fn queue(&self, q: usize) -> Option<&Arc<Queue>> {
        self.queues.iter().find(|queue| queue.index() == q)
    }

    /// The next request of virtqueue `q`, those that were given back first. `None` if there is none now: the
    /// worker is called again when the driver makes one available.
    pub fn pop(&mut self, q: usize) -> Option<Chain> {
        self.queue(q)?.pop()
    }

    /// Puts a chain back unanswered; the next [`pop`](Self::pop) of its virtqueue returns it again.
    ///
    /// Nothing calls the worker for it: set a timer or watch what it waits for.
    pub fn give_back(&mut self, chain: Chain) {
        if let Some(queue) = self.queue(chain.queue()) {
            queue.clone().give_back(chain);
        }
    }

    fn token(&mut self) -> Token {
        let token = Token(*self.next_token);
        *self.next_token = self.next_token.wrapping_add(1);
        token
    }

    /// Calls [`Worker::event`](crate::Worker::event) whenever `fd` is ready (level-triggered), until [`unwatch`](Self::unwatch),
    /// which must come before `fd` is closed.
    ///
    /// # Errors
    /// `fd` cannot be waited for, as a regular file, or is watched already.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Token> {
        let token = self.token();
        let mut events = Events::empty();
        events.set(Events::EPOLLIN | Events::EPOLLRDHUP, interest.readable);
        events.set(Events::EPOLLOUT, interest.writable);
        self.poller.add(fd, events, token.0)?;
        self.watched.push((token, fd.as_raw_fd()));
        Ok(token)
    }

    /// Watches a descriptor no longer.
    pub fn unwatch(&mut self, token: Token) {
        if let Some(at) = self.watched.iter().position(|(t, _)| *t == token) {
            let (_, fd) = self.watched.swap_remove(at);
            self.poller.remove(fd);
        }
    }

    /// Calls [`Worker::event`](crate::Worker::event) once, not before `after` has passed.
    pub fn timer(&mut self, after: Duration) -> Token {
        let token = self.token();
        let at = Instant::now()
            .checked_add(after)
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(u32::MAX.into()));
        self.timers.push(Timer { at, token });
        token
    }

    /// Takes a timer back, if it has not run out yet.
    pub fn cancel(&mut self, timer: Token) {
        self.timers.retain(|t| t.token != timer);
    }

    /// Wakes this worker from other threads.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        self.config_change.notify();
    }
}

enum Command {
    Run(usize),
    Stop(usize, SyncSender<()>),
    Quit,
}

/// The session's hold on a worker thread.
pub(crate) struct Thread {
    commands: Sender<Command>,
    waker: Waker,
    poller: Arc<Poller>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts a thread that serves `queues` by the worker that `start` makes there.
    pub(crate) fn spawn<W: Worker>(
        name: String,
        queues: Vec<Arc<Queue>>,
        config_change: ConfigChange,
        start: impl FnOnce() -> io::Result<W> + Send + 'static,
    ) -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let waker = Waker(Arc::new(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?));
        let poller = Arc::new(Poller::new()?);
        poller.add(waker.0.as_fd(), Events::EPOLLIN, WAKE)?;
        let (commands, receiver) = channel();
        let (its_poller, its_waker) = (poller.clone(), waker.clone());
        let (started, outcome) = sync_channel(1);
        let body = move || {
            let worker = match start() {
                Ok(worker) => worker,
                Err(e) => return drop(started.send(Err(e))),
            };
            let looper = Loop {
                worker,
                queues,
                config_change,
                poller: its_poller,
                waker: its_waker,
                commands: receiver,
                ready: Vec::new(),
                timers: Vec::new(),
                watched: Vec::new(),
                next_token: FIRST_TOKEN,
            };
            let _ = started.send(Ok(()));
            looper.run();
        };
        let handle = std::thread::Builder::new().name(name).spawn(body)?;
        let panicked = |_| Err(io::Error::other("the device panicked"));
        outcome.recv().unwrap_or_else(panicked)?;
        Ok(Self {
            commands,
            waker,
            poller,
            handle: Some(handle),
        })
    }

    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
    }

    /// Has the worker look at virtqueue `q`.
    pub(crate) fn run(&self, q: usize) {
        self.send(Command::Run(q));
    }

    /// Has the worker let go of virtqueue `q`, and waits until it has.
    pub(crate) fn stop(&self, q: usize) {
        let (done, wait) = sync_channel(1);
        self.send(Command::Stop(q, done));
        let _ = wait.recv();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.send(Command::Quit);
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            log::error!("a worker thread panicked");
        }
    }
}

struct Loop<W> {
    worker: W,
    queues: Vec<Arc<Queue>>,
    config_change: ConfigChange,
    poller: Arc<Poller>,
    waker: Waker,
    commands: Receiver<Command>,
    /// Virtqueues to look at without waiting.
    ready: Vec<usize>,
    timers: Vec<Timer>,
    watched: Vec<(Token, RawFd)>,
    next_token: u64,
}

impl<W: Worker> Loop<W> {
    fn run(mut self) {
        let mut events = [Event::new(Events::empty(), 0); 64];
        loop {
            let timeout = self.timeout();
            let count = match epoll::wait(self.poller.0, timeout, &mut events) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => return log::error!("a worker cannot wait for events: {e}"),
            };
            for event in events.iter().take(count) {
                if event.data == WAKE {
                    let mut counter = [0; 8];
                    let _ = rustix::io::read(&self.waker.0, &mut counter);
                    if !self.obey() {
                        return;
                    }
                    self.turn(|worker, cx| worker.event(cx, Token::WAKER, Ready::default()));
                } else if event.data < FIRST_TOKEN {
                    self.mark_ready(event.data as usize);
                } else {
                    self.watched_event(event);
                }
            }
            self.ring_timers();
            for q in std::mem::take(&mut self.ready) {
                self.turn(|worker, cx| worker.queue(cx, q));
            }
        }
    }

    fn mark_ready(&mut self, q: usize) {
        if !self.ready.contains(&q) {
            self.ready.push(q);
        }
    }

    /// Carries out what the session asks. False if the thread is to end.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Run(q) => self.mark_ready(q),
                Command::Stop(q, done) => {
                    self.ready.retain(|r| *r != q);
                    self.turn(|worker, cx| worker.stop(cx, q));
                    self.ready.retain(|r| *r != q);
                    let _ = done.send(());
                }
                Command::Quit => return false,
            }
        }
        true
    }

    /// Calls the worker between the start and the end of a batch on each of its virtqueues.
    fn turn(&mut self, call: impl FnOnce(&mut W, &mut Cx<'_>)) {
        self.queues.iter().for_each(|queue| queue.begin_turn());
        let mut cx = Cx {
            queues: &self.queues,
            poller: &self.poller,
            waker: &self.waker,
            config_change: &self.config_change,
            timers: &mut self.timers,
            watched: &mut self.watched,
            next_token: &mut self.next_token,
        };
        call(&mut self.worker, &mut cx);
        for at in 0..self.queues.len() {
            if let Some(queue) = self.queues.get(at)
                && queue.end_turn()
            {
                self.mark_ready(queue.index());
            }
        }
    }

    fn watched_event(&mut self, event: &Event) {
        let token = Token(event.data);
        // A descriptor that was unwatched earlier in the same batch of events.
        if !self.watched.iter().any(|(t, _)| *t == token) {
            return;
        }
        let events = Events::from_bits_truncate(event.events);
        let ready = Ready {
            readable: events.intersects(Events::EPOLLIN | Events::EPOLLRDHUP | Events::EPOLLHUP),
            writable: events.contains(Events::EPOLLOUT),
            hangup: events.intersects(Events::EPOLLHUP | Events::EPOLLRDHUP | Events::EPOLLERR),
        };
        self.turn(|worker, cx| worker.event(cx, token, ready));
    }

    fn ring_timers(&mut self) {
        let now = Instant::now();
        let due: Vec<Token> = self
            .timers
            .iter()
            .filter(|t| t.at <= now)
            .map(|t| t.token)
            .collect();
        for token in due {
            // Unless an earlier one of these cancelled it.
            if let Some(at) = self.timers.iter().position(|t| t.token == token) {
                self.timers.swap_remove(at);
                self.turn(|worker, cx| worker.event(cx, token, Ready::default()));
            }
        }
        for at in 0..self.queues.len() {
            if let Some(queue) = self.queues.get(at).filter(|q| q.is_polled()) {
                self.mark_ready(queue.index());
            }
        }
    }

    /// Milliseconds to wait at most, rounded up; -1 is for ever.
    fn timeout(&self) -> i32 {
        if !self.ready.is_empty() {
            return 0;
        }
        let polled = self.queues.iter().any(|q| q.is_polled()).then_some(POLL_INTERVAL);
        let timer = self.timers.iter().map(|t| t.at).min();
        let timer = timer.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = polled.into_iter().chain(timer).min();
        wait.map_or(-1, |w| {
            i32::try_from(w.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        })
    }
}
