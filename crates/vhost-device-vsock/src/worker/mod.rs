// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path of one guest: one thread, one `epoll` for all its sockets.
//!
//! | file | what it does |
//! |---|---|
//! | `table.rs` | keeps the connections within their bounds |
//! | `tx.rs` | takes the packets of the guest |
//! | `rx.rs` | gives packets to the guest |
//! | `arrivals.rs` | lets the host and siblings connect |
//! | `census.rs` | tells others which connections there are |
//! | `legacy.rs` | passes on what is left when the guest has gone |
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod arrivals;
mod census;
mod legacy;
mod rx;
mod table;
mod tx;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use vu_common::{Cx, Interest, Ready, Token, Worker, guest_warn};

use crate::backend::Host;
use crate::connection::{Connection, End, State};
use crate::device::Home;
use crate::network::{Membership, Network};
use crate::pace::REST;
use crate::request::{Flow, Kind, Op, Reset};
use crate::spec::{EVENT, feature};
use arrivals::Arrivals;
pub(crate) use census::Census;
pub(crate) use legacy::Legacy;
use rx::Outbox;
pub use table::Bounds;
use table::Table;
use tx::Gathered;

/// How long the other side may take to answer: a connection, the end of one, a line of text.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked who did not.
const LOOK: Duration = Duration::from_secs(1);
/// Events of the sockets that are taken at a time.
const EVENTS: usize = 64;
/// What is waited for of a socket that rests, and of one that does not.
const RESTING: epoll::EventFlags = epoll::EventFlags::OUT
    .union(epoll::EventFlags::RDHUP)
    .union(epoll::EventFlags::ET);
const AWAKE: epoll::EventFlags = RESTING.union(epoll::EventFlags::IN);

/// What an event of the `epoll` is for: two bits of its data; the others are a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Connection(u64),
    Listener(u64),
    Caller(u64),
}

impl Source {
    fn to_data(self) -> epoll::EventData {
        let (tag, number) = match self {
            Self::Connection(number) => (0, number),
            Self::Listener(number) => (1, number),
            Self::Caller(number) => (2, number),
        };
        epoll::EventData::new_u64(number << 2 | tag)
    }

    fn of_data(data: epoll::EventData) -> Self {
        let number = data.u64() >> 2;
        match data.u64() & 3 {
            0 => Self::Connection(number),
            1 => Self::Listener(number),
            _ => Self::Caller(number),
        }
    }
}

/// See the module's text.
pub struct VsockWorker {
    cid: u32,
    groups: Vec<String>,
    /// The types that were negotiated.
    kinds: Kinds,
    host: Option<Box<dyn Host>>,
    home: Home,
    network: Arc<Network>,
    membership: Option<Membership>,
    poll: OwnedFd,
    table: Table,
    outbox: Outbox,
    gathered: Gathered,
    arrivals: Arrivals,
    /// What the `epoll` is known as, once it is watched.
    watched: Option<Token>,
    /// Runs out when the first deadline may have passed.
    timer: Option<Token>,
    /// Connections whose sockets rest, and what ends that.
    resting: Vec<u64>,
    rest: Option<Token>,
    /// The guest is to be told that its connections of before are gone.
    reset_owed: bool,
}

/// The types of sockets that both sides know (section 5.10.3).
#[derive(Clone, Copy, Debug)]
struct Kinds {
    stream: bool,
    seqpacket: bool,
}

impl Kinds {
    fn new(features: u64) -> Self {
        let has = |bit| features & bit != 0;
        Self {
            stream: has(feature::STREAM) || !has(feature::NO_IMPLIED_STREAM),
            seqpacket: has(feature::SEQPACKET),
        }
    }

    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Stream => self.stream,
            Kind::Seqpacket => self.seqpacket,
        }
    }
}

/// What a worker starts with.
pub(crate) struct Setup<'a> {
    pub(crate) cid: u32,
    pub(crate) groups: &'a [String],
    pub(crate) bounds: Bounds,
    pub(crate) features: u64,
    pub(crate) home: Home,
    pub(crate) network: Arc<Network>,
}

impl VsockWorker {
    /// Takes the host from its home until it is dropped.
    pub(crate) fn new(setup: Setup<'_>) -> io::Result<Self> {
        let host = setup.home.take()?;
        Ok(Self {
            cid: setup.cid,
            groups: setup.groups.to_vec(),
            kinds: Kinds::new(setup.features),
            host: Some(host),
            home: setup.home,
            network: setup.network,
            membership: None,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            table: Table::new(setup.bounds),
            outbox: Outbox::default(),
            gathered: Gathered::default(),
            arrivals: Arrivals::default(),
            watched: None,
            timer: None,
            resting: Vec::new(),
            rest: None,
            reset_owed: true,
        })
    }

    /// What needs a `Cx`, once.
    fn begin(&mut self, cx: &mut Cx<'_>) {
        if self.watched.is_some() {
            return;
        }
        match cx.watch(self.poll.as_fd(), Interest::READABLE) {
            Ok(token) => self.watched = Some(token),
            Err(e) => {
                log::error!("cannot wait for the sockets of the host: {e}");
                return;
            }
        }
        self.home.census.set_worker(Some(cx.waker()));
        self.membership = Some(self.network.join(self.cid, &self.groups, cx.waker()));
        self.listen();
    }

    /// Adds a connection; its number, or `None` if the host has no room for it.
    fn connect(
        &mut self,
        flow: Flow,
        kind: Kind,
        state: State,
        socket: crate::socket::Socket,
        room: u32,
    ) -> Option<u64> {
        let id = self.table.add(flow, kind, state, socket, room);
        let connection = self.table.get(id)?;
        if state != State::Established {
            connection.deadline = Instant::now().checked_add(PATIENCE);
        }
        let data = Source::Connection(id).to_data();
        let added = epoll::add(&self.poll, &connection.socket, data, AWAKE);
        if let Err(e) = added {
            guest_warn!("no further connection: {e}");
            self.table.remove(id);
            return None;
        }
        Some(id)
    }

    /// Ends a connection.
    fn close(&mut self, id: u64, end: &End) {
        if let Some(mut connection) = self.table.remove(id)
            && matches!(end, End::Reset)
            && connection.state != State::Left
        {
            let packet = connection.packet(Op::Rst);
            self.outbox.reset(packet.to_bytes(self.cid));
        }
    }

    /// Answers for a connection that is not there.
    fn refuse(&mut self, reset: Reset) {
        self.outbox.reset(reset.to_bytes(self.cid));
    }

    /// Puts a connection into the line of those that may have something for the guest.
    fn line_up(&mut self, id: u64) {
        if let Some(connection) = self.table.get(id)
            && !std::mem::replace(&mut connection.in_line, true)
        {
            self.outbox.line.push_back(id);
            // Those that have ended leave the line at their turn, which a guest without buffers never gives them.
            if self.outbox.line.len() > self.table.len().saturating_mul(2).saturating_add(EVENTS) {
                self.outbox.line.retain(|id| self.table.has(*id));
            }
        }
    }

    /// Does `step` on a connection, ends it if that is the outcome, and lets it speak.
    fn step(&mut self, id: u64, step: impl FnOnce(&mut Connection) -> Result<(), End>) {
        let Some(connection) = self.table.get(id) else {
            return;
        };
        match step(connection) {
            Ok(()) => self.line_up(id),
            Err(end) => self.close(id, &end),
        }
    }

    /// Takes what the sockets of the host are ready for; whether any is.
    fn poll_host(&mut self) -> bool {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; EVENTS];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let count = epoll::wait(&self.poll, &mut events[..], Some(&now)).unwrap_or(0);
        for event in events.iter().take(count) {
            let epoll::Event { flags, data } = *event;
            match Source::of_data(data) {
                Source::Connection(id) => self.ready(id, flags),
                Source::Listener(number) => self.accept(number),
                Source::Caller(number) => self.hear(number),
            }
        }
        count > 0
    }

    fn ready(&mut self, id: u64, flags: epoll::EventFlags) {
        let ended = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let readable = ended || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
        let writable = ended || flags.contains(epoll::EventFlags::OUT);
        self.step(id, |connection| {
            connection.ready(readable, writable, flags.contains(epoll::EventFlags::HUP))
        });
    }

    /// Reads again from the sockets that rest.
    fn end_rest(&mut self) {
        for id in std::mem::take(&mut self.resting) {
            self.step(id, |connection| {
                connection.socket.ready(true, false, false);
                Ok(())
            });
        }
    }

    /// Ends what has waited too long.
    fn expire(&mut self) {
        let now = Instant::now();
        let late = |(_, connection): &(u64, &Connection)| connection.deadline.is_some_and(|at| at <= now);
        let expired: Vec<u64> = self.table.iter().filter(late).map(|(id, _)| id).collect();
        for id in expired {
            self.close(id, &End::Reset);
        }
        if self.arrivals.expire(now) {
            self.listen();
        }
        let starved = |(id, connection): (u64, &Connection)| connection.starved.then_some(id);
        let starved: Vec<u64> = self.table.iter().filter_map(starved).collect();
        for id in starved {
            self.step(id, |connection| {
                connection.ask_again();
                Ok(())
            });
        }
    }

    /// Does all that can be done now, in both directions.
    fn run(&mut self, cx: &mut Cx<'_>) {
        loop {
            self.give(cx);
            // Packets of the guest wait when there are too many resets to send; they may be gone now.
            if !self.take(cx) {
                break;
            }
        }
        if self.rest.is_none() && !self.resting.is_empty() {
            self.rest = Some(cx.timer(REST));
        }
        if self.timer.is_some() {
            return;
        }
        let waits = self.arrivals.wait() || self.table.iter().any(|(_, c)| c.deadline.is_some() || c.starved);
        if waits {
            self.timer = Some(cx.timer(LOOK));
        }
    }
}

impl Drop for VsockWorker {
    /// The host's side is for the next guest, and what the last one sent for whom it sent it to.
    fn drop(&mut self) {
        self.home.census.set_worker(None);
        self.home.legacy.pass_on(self.table.clear());
        if let Some(host) = self.host.take() {
            self.home.give_back(host);
        }
    }
}

impl Worker for VsockWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        self.begin(cx);
        if q == EVENT {
            self.tell_reset(cx);
        } else {
            self.run(cx);
        }
    }

    fn poll(&mut self, cx: &mut Cx<'_>) {
        if self.poll_host() {
            self.run(cx);
        }
    }

    fn event(&mut self, cx: &mut Cx<'_>, token: Token, _ready: Ready) {
        if self.watched == Some(token) {
            self.poll_host();
        } else if token == Token::WAKER {
            self.answer_calls();
            self.home
                .census
                .answer(self.table.iter().map(|(_, connection)| connection));
        } else if self.timer == Some(token) {
            self.timer = None;
            self.expire();
        } else if self.rest == Some(token) {
            self.rest = None;
            self.end_rest();
        }
        self.run(cx);
    }
}
