// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One thread of a device: waits for kicks, watched descriptors and timers, and calls the [`Worker`].

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use epoll::{Event, Events};

use crate::cx::{Cx, FIRST_TOKEN, Ready, Shared, Token, WAKE, Wishes};
use crate::device::Worker;
use crate::frontend::ConfigChange;
use crate::group::Group;
use crate::poller::Poller;
use crate::spin::Spin;
use crate::turn::Turn;

/// How often a ring without a kick descriptor is looked at (vhost-user: "polling" mode).
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How long descriptors, the session and other threads may have to wait while the thread does not sleep.
const LOOK_INTERVAL: Duration = Duration::from_micros(20);

enum Command {
    Run(usize),
    Stop(usize, SyncSender<()>),
    Quit,
}

/// The session's hold on a worker thread.
pub(crate) struct Thread {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts a thread that serves the virtqueues of `group` by the worker that `start` makes there.
    pub(crate) fn spawn<W: Worker>(
        name: String,
        poll: Duration,
        group: Arc<Group>,
        config_change: ConfigChange,
        start: impl FnOnce() -> io::Result<W> + Send + 'static,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(group.waker().fd(), Events::EPOLLIN, WAKE)?;
        let shared = Arc::new(Shared {
            group,
            poller,
            config_change,
        });
        let (commands, receiver) = channel();
        let (started, outcome) = sync_channel(1);
        let its = shared.clone();
        let body = move || {
            let worker = match start() {
                Ok(worker) => worker,
                Err(e) => return drop(started.send(Err(e))),
            };
            let _ = started.send(Ok(()));
            Loop::new(worker, &its, receiver, poll).run();
        };
        let handle = std::thread::Builder::new().name(name).spawn(body)?;
        let panicked = |_| Err(io::Error::other("the device panicked"));
        outcome.recv().unwrap_or_else(panicked)?;
        Ok(Self {
            commands,
            shared,
            handle: Some(handle),
        })
    }

    pub(crate) fn poller(&self) -> &Poller {
        &self.shared.poller
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.shared.group.waker().wake();
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

struct Loop<'a, W> {
    worker: W,
    shared: &'a Shared,
    commands: Receiver<Command>,
    /// Virtqueues to look at without waiting.
    ready: Vec<usize>,
    wishes: Wishes,
    /// A virtqueue without a kick descriptor runs.
    polled: bool,
    spin: Spin,
    /// The last turn came to something.
    worked: bool,
    /// There may be an empty ring whose driver was not asked to kick.
    quiet: bool,
    /// When it was last seen who else wants something.
    looked: Instant,
}

/// What a thread does that has served all that it knew of.
enum Next {
    Serve,
    Look,
    Sleep,
}

impl<'a, W: Worker> Loop<'a, W> {
    fn new(worker: W, shared: &'a Shared, commands: Receiver<Command>, poll: Duration) -> Self {
        Self {
            worker,
            shared,
            commands,
            ready: Vec::new(),
            wishes: Wishes::new(),
            polled: false,
            spin: Spin::new(poll),
            worked: false,
            quiet: false,
            looked: Instant::now(),
        }
    }

    fn run(mut self) {
        let mut events = [Event::new(Events::empty(), 0); 64];
        loop {
            let limit = match self.spin() {
                Next::Serve => {
                    self.serve();
                    continue;
                }
                Next::Look => Some(Duration::ZERO),
                Next::Sleep => self.limit(),
            };
            let count = match self.shared.poller.wait(&mut events, limit) {
                Ok(count) => count,
                Err(e) => return log::error!("a worker cannot wait for events: {e}"),
            };
            if self.spin.is_on() {
                self.looked = Instant::now();
            }
            for event in events.iter().take(count) {
                if !self.handle(event) {
                    return;
                }
            }
            self.ring_timers();
            if self.polled {
                self.look(false);
            }
            self.serve();
        }
    }

    /// False if the thread is to end.
    fn handle(&mut self, event: &Event) -> bool {
        if event.data == WAKE {
            self.shared.group.waker().clear();
            if !self.obey() {
                return false;
            }
            self.turn(|worker, cx| worker.event(cx, Token::WAKER, Ready::default()));
        } else if event.data < FIRST_TOKEN {
            let q = event.data as usize;
            self.shared.group.kicked(q);
            mark(&mut self.ready, q);
        } else {
            self.watched_event(event);
        }
        true
    }

    /// Carries out what the session asks. False if the thread is to end.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Run(q) => mark(&mut self.ready, q),
                Command::Stop(q, done) => {
                    self.turn(|worker, cx| worker.stop(cx, q));
                    self.ready.retain(|r| *r != q);
                    let _ = done.send(());
                }
                Command::Quit => return false,
            }
        }
        true
    }

    /// Calls the worker for the virtqueues that are ready now; those that it makes ready have to wait.
    fn serve(&mut self) {
        for _ in 0..self.ready.len() {
            let q = self.ready.remove(0);
            self.turn(|worker, cx| worker.queue(cx, q));
        }
    }

    /// Calls the worker between the start and the end of a batch on each of its virtqueues.
    fn turn(&mut self, call: impl FnOnce(&mut W, &mut Cx<'_>)) {
        let began = self.spin.is_resting().then(Instant::now);
        let mut cx = Cx {
            turn: Turn::begin(&self.shared.group),
            shared: self.shared,
            wishes: &mut self.wishes,
        };
        call(&mut self.worker, &mut cx);
        // A thread that is going to look for requests needs no kicks.
        let arm = !self.spin.would_look();
        let ended = cx.turn.end(arm, |q| mark(&mut self.ready, q));
        self.polled = ended.polled;
        self.worked |= ended.worked;
        self.quiet |= !arm;
        if let Some(began) = began.filter(|_| ended.worked) {
            self.spin.resume(began);
        }
    }

    /// A turn without a call: has a look at the rings, and with `arm` has their drivers kick if there is nothing.
    fn look(&mut self, arm: bool) {
        let turn = Turn::begin(&self.shared.group);
        turn.end(arm, |q| mark(&mut self.ready, q));
    }

    /// Looks for requests and completions without sleeping, for as long as that is thought to pay.
    fn spin(&mut self) -> Next {
        if !self.spin.is_on() {
            return Next::Sleep;
        }
        let mut now = Instant::now();
        self.rest(now);
        while now.saturating_duration_since(self.looked) < LOOK_INTERVAL {
            if !self.ready.is_empty() {
                return Next::Serve;
            }
            if !self.spin.is_open(now) {
                return Next::Sleep;
            }
            self.turn(|worker, cx| worker.poll(cx));
            std::hint::spin_loop();
            now = Instant::now();
            self.rest(now);
        }
        if self.ready.is_empty() && !self.spin.is_open(now) {
            Next::Sleep
        } else {
            Next::Look
        }
    }

    fn watched_event(&mut self, event: &Event) {
        let token = Token(event.data);
        // A descriptor that was unwatched earlier in the same batch of events.
        if !self.wishes.is_watched(token) {
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
        if self.wishes.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(token) = self.wishes.due(now) {
            self.turn(|worker, cx| worker.event(cx, token, Ready::default()));
        }
    }

    /// Notes that all work has ended, if there was some.
    fn rest(&mut self, now: Instant) {
        if self.ready.is_empty() && std::mem::take(&mut self.worked) {
            self.spin.rest(now);
        }
    }

    /// How long to sleep at most; `None` is for ever.
    fn limit(&mut self) -> Option<Duration> {
        if self.ready.is_empty() && std::mem::take(&mut self.quiet) {
            self.look(true);
        }
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let polled = self.polled.then_some(POLL_INTERVAL);
        let timer = self.wishes.timers.iter().map(|t| t.at).min();
        let timer = timer.map(|at| at.saturating_duration_since(Instant::now()));
        polled.into_iter().chain(timer).min()
    }
}

fn mark(ready: &mut Vec<usize>, q: usize) {
    if !ready.contains(&q) {
        ready.push(q);
    }
}
