// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A connection that comes back: what one or more engines share, and the thread that reconnects.
//!
//! Requests stay in hand until a server has answered them. When a connection is lost, the thread connects anew,
//! from 0.1 s to 5 s after each failure, and everything unanswered is sent again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::commands::Commands;
use super::connect::{Server, disconnect, open_export};
use super::handshake::{Export, HandshakeError};
use super::spec::{FLAG_CAN_MULTI_CONN, FLAG_READ_ONLY};
use super::uri::Uri;
use super::wire::{Lost, Wire};
use crate::{Completion, Request};

/// Shortest and longest wait before an attempt to connect.
const DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A connection that lived for this long makes the next wait the shortest.
const HEALTHY: Duration = Duration::from_secs(1);
/// Longest attempt to connect.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The export that all connections of a disk are for, and what it has to go on being.
pub(super) struct Target {
    pub uri: Uri,
    pub server: Server,
    pub read_only: bool,
    /// After how long without a server requests fail.
    pub give_up: Option<Duration>,
    pub logical_block: u32,
    /// There may be several connections at a time.
    pub multi: bool,
    /// Whole logical blocks, in bytes.
    pub capacity: AtomicU64,
}

impl Target {
    /// Connects, if the export is still one that the disk can go on with; takes over its size.
    pub(super) fn connect(&self, end: Instant) -> Result<(OwnedFd, Export), HandshakeError> {
        let (socket, export) = open_export(&self.server, &self.uri.export, end)?;
        let changed = if export.has(FLAG_READ_ONLY) && !self.read_only {
            Some("the export has become read-only")
        } else if export.minimum > self.logical_block {
            Some("the export's minimum block size has grown")
        } else if self.multi && !export.has(FLAG_CAN_MULTI_CONN) {
            Some("the export does not allow several connections any more")
        } else {
            None
        };
        if let Some(what) = changed {
            disconnect(&socket);
            return Err(HandshakeError::Changed(what));
        }
        let capacity = export.size - export.size % u64::from(self.logical_block);
        self.capacity.store(capacity, Ordering::Relaxed);
        Ok((socket, export))
    }
}

/// How an engine learns that there is something for it. The event is for what another thread has found.
pub(super) struct Bell {
    epoll: OwnedFd,
    event: OwnedFd,
}

impl Bell {
    fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &event,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
        Ok(Self { epoll, event })
    }

    fn watch(&self, socket: &OwnedFd, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(1),
            flags,
        )?)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// An engine as the link knows it.
struct Member {
    bell: Arc<Bell>,
    depth: usize,
    done: Vec<Completion>,
    rung: bool,
}

impl Member {
    fn ring(&mut self) {
        if !self.rung {
            // It is not full: it is 0.
            self.rung = rustix::io::write(&self.bell.event, &1_u64.to_ne_bytes()).is_ok();
        }
    }
}

struct State {
    wire: Option<Wire>,
    /// What the server said when it was last connected to.
    export: Export,
    commands: Commands,
    members: Vec<Option<Member>>,
    /// The bells wait for room in the socket, too.
    wants_room: bool,
    /// When the server last went, if no command has been carried out since.
    lost: Option<Instant>,
    gave_up: bool,
    delay: Duration,
    closed: bool,
}

struct Shared {
    target: Arc<Target>,
    state: Mutex<State>,
    /// The connection was lost or is needed no more.
    changed: Condvar,
}

/// A connection that comes back. Dropping the last handle ends it.
pub(super) struct Link(Arc<Shared>);

impl Link {
    /// Starts with an established connection.
    pub(super) fn new(target: Arc<Target>, socket: OwnedFd, export: Export) -> io::Result<Self> {
        let state = State {
            export: export.clone(),
            commands: Commands::new(target.read_only),
            wire: Some(Wire::new(socket, export)),
            members: Vec::new(),
            wants_room: false,
            lost: None,
            gave_up: false,
            delay: DELAY.0,
            closed: false,
        };
        let shared = Arc::new(Shared {
            target,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let link = Self(shared.clone());
        vu_common::thread::spawn("nbd", move || shared.keep_connected())?;
        Ok(link)
    }

    /// Engines that use it.
    pub(super) fn users(&self) -> usize {
        self.0.lock().members.iter().flatten().count()
    }

    /// Makes room for an engine; returns its number here.
    pub(super) fn join(&self, depth: usize) -> io::Result<(usize, Arc<Bell>)> {
        let bell = Arc::new(Bell::new()?);
        let mut state = self.0.lock();
        if let Some(wire) = &state.wire {
            bell.watch(&wire.socket, state.interest())?;
        }
        let member = Member {
            bell: bell.clone(),
            depth,
            done: Vec::with_capacity(depth),
            rung: false,
        };
        let number = state
            .members
            .iter()
            .position(Option::is_none)
            .unwrap_or(state.members.len());
        if number == state.members.len() {
            state.members.push(None);
        }
        state.members[number] = Some(member);
        let depth = state.members.iter().flatten().map(|member| member.depth).sum();
        state.commands.reserve(depth);
        Ok((number, bell))
    }

    /// Forgets an engine. What it has in flight will not touch its memory any more.
    pub(super) fn leave(&self, number: usize) {
        let mut state = self.0.lock();
        if state.commands.any(Some(number)) {
            // Only without the connection is it sure that no reply comes, and no half of a command is left out.
            state.lose(&Lost::Abandoned, &self.0);
        }
        state.commands.forget(number);
        if let Some(member) = state.members[number].take()
            && let Some(wire) = &state.wire
        {
            // The bell goes with its engine, after this, and the socket must not ring it.
            let _ = epoll::delete(&member.bell.epoll, &wire.socket);
        }
    }

    /// Takes a batch of requests over and sends as much of it as the socket takes.
    pub(super) fn commit(&self, number: usize, batch: &mut Vec<Request>) {
        let mut state = self.0.lock();
        let State { commands, export, .. } = &mut *state;
        for request in batch.drain(..) {
            commands.submit(number, request, export);
        }
        state.send(&self.0);
        state.deliver(None);
    }

    /// Receives what there is, and moves what has completed to the end of `done`.
    pub(super) fn reap(&self, number: usize, done: &mut Vec<Completion>) {
        let mut state = self.0.lock();
        let State { commands, wire, .. } = &mut *state;
        if let Some(wire) = wire {
            let result = wire.receive(commands);
            if wire.useful {
                state.lost = None;
                state.gave_up = false;
            }
            match result {
                Ok(()) => state.send(&self.0),
                Err(lost) => state.lose(&lost, &self.0),
            }
        }
        state.deliver(Some(number));
        if let Some(Some(member)) = state.members.get_mut(number) {
            done.append(&mut member.done);
            if std::mem::take(&mut member.rung) {
                let _ = rustix::io::read(&member.bell.event, &mut [0; 8]);
            }
        }
    }

    /// Connects anew, because the export is now of `size` bytes: servers hold to what they said in the handshake.
    pub(super) fn resize(&self, size: u64) {
        let mut state = self.0.lock();
        if state.export.size != size {
            state.export.size = size;
            state.lose(&Lost::Resized, &self.0);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        if let Some(wire) = state.wire.take() {
            wire.part();
        }
        self.0.changed.notify_all();
    }
}

impl State {
    fn interest(&self) -> epoll::EventFlags {
        let room = epoll::EventFlags::OUT;
        epoll::EventFlags::IN
            | if self.wants_room {
                room
            } else {
                epoll::EventFlags::empty()
            }
    }

    /// Sends what is queued, or fails it if nobody is there for too long.
    fn send(&mut self, shared: &Shared) {
        let Some(wire) = &mut self.wire else {
            if self.gave_up {
                self.commands.fail(io::ErrorKind::NotConnected);
            }
            return;
        };
        match wire.send(&mut self.commands) {
            Ok(full) => {
                if self.wants_room != full {
                    self.wants_room = full;
                    self.watch_for_room(shared);
                }
            }
            Err(lost) => self.lose(&lost, shared),
        }
    }

    /// Makes the bells ring for what is wanted now.
    fn watch_for_room(&mut self, shared: &Shared) {
        let interest = self.interest();
        let Some(wire) = &self.wire else { return };
        for member in self.members.iter().flatten() {
            let data = epoll::EventData::new_u64(1);
            if let Err(error) = epoll::modify(&member.bell.epoll, &wire.socket, data, interest) {
                return self.lose(&Lost::Io(error.into()), shared);
            }
        }
    }

    /// Gives what has ended to its engine, and rings for all but the one that is looking.
    fn deliver(&mut self, looking: Option<usize>) {
        for (owner, completion) in self.commands.finished.drain(..) {
            if let Some(Some(member)) = self.members.get_mut(owner) {
                member.done.push(completion);
                if looking != Some(owner) {
                    member.ring();
                }
            }
        }
    }

    /// The connection is of no use any more.
    fn lose(&mut self, lost: &Lost, shared: &Shared) {
        let Some(wire) = self.wire.take() else { return };
        let uri = &shared.target.uri;
        match lost {
            Lost::Abandoned | Lost::Resized => {
                log::info!("{uri}: connecting anew: {lost}");
            }
            _ => log::warn!("{uri}: connection lost: {lost}"),
        }
        if let &Lost::Fault(index) = lost {
            // It would be the same on the next one.
            self.commands
                .finish(index, Err(io::Error::from_raw_os_error(libc::EFAULT)));
        }
        if wire.since.elapsed() > HEALTHY {
            self.delay = DELAY.0;
        }
        self.wants_room = false;
        self.lost.get_or_insert_with(Instant::now);
        shared.changed.notify_all();
    }

    /// A new connection is there.
    fn connected(&mut self, socket: OwnedFd, export: Export, shared: &Shared) {
        let watched = (self.members.iter().flatten())
            .try_for_each(|member| member.bell.watch(&socket, epoll::EventFlags::IN));
        if let Err(error) = watched {
            log::warn!("{}: cannot watch the connection: {error}", shared.target.uri);
            return;
        }
        log::info!("{}: connected again", shared.target.uri);
        self.commands.replay(&export);
        self.export = export.clone();
        self.wire = Some(Wire::new(socket, export));
        if !self.commands.any(None) {
            (self.lost, self.gave_up) = (None, false);
        }
        self.send(shared);
        self.deliver(None);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock, short of a bug.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does.
    fn keep_connected(&self) {
        while let Some(end) = self.wait_for_attempt() {
            let result = self.target.connect(end);
            let mut state = self.lock();
            match result {
                Ok((socket, _)) if state.closed => disconnect(&socket),
                Ok((socket, export)) => state.connected(socket, export, self),
                Err(error) => log::debug!("{}: {error}", self.target.uri),
            }
        }
    }

    /// Waits until an attempt to connect is due; returns until when it may take, or `None` at the end of it all.
    fn wait_for_attempt(&self) -> Option<Instant> {
        let mut state = self.lock();
        while state.wire.is_some() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let due = Instant::now() + state.delay;
        state.delay = (state.delay * 2).min(DELAY.1);
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let give_up = self.give_up(&mut state, now);
            if now >= due {
                return Some((now + PATIENCE).min(give_up.unwrap_or(now + PATIENCE)));
            }
            let until = due.min(give_up.unwrap_or(due));
            let (next, _) = self
                .changed
                .wait_timeout(state, until.saturating_duration_since(now))
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }

    /// Fails what waits if that is for too long; else returns until when it waits.
    fn give_up(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let end = state.lost? + self.target.give_up?;
        if state.gave_up {
            return None;
        }
        if now < end {
            return Some(end);
        }
        log::error!("{}: no server: requests fail until there is one", self.target.uri);
        state.gave_up = true;
        state.send(self);
        state.deliver(None);
        None
    }
}
