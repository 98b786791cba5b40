// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection between a port of the guest and a socket of the host.
//!
//! | state | it waits for | then |
//! |---|---|---|
//! | `Connecting` | the host's side, which the guest asked for | `RESPONSE` or `RST` |
//! | `Requested` | the guest's answer, which the host asked for | established, or closed |
//! | `Established` | bytes, and the end of either direction | `SHUTDOWN`, `RST` |
//! | `Left` | the host to take what the guest sent before it went | nothing |
//!
//! What it has to tell the guest is kept in a few flags, not in a queue: it takes no memory, however slowly the guest takes
//! packets.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io;
use std::time::Instant;

use crate::backlog::Backlog;
use crate::credit::{Incoming, Outgoing};
use crate::pace::Pace;
use crate::request::{Flow, Kind, Op, Packet, Room};
use crate::socket::{Message, Socket};

/// Messages without bytes cost memory and no credit: so many may wait for the host.
const MAX_MESSAGES: usize = 1024;

/// The longest message of the host.
const MAX_MESSAGE: usize = 4 << 20;

/// See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Requested,
    Established,
    Left,
}

/// Which directions have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) receive: bool,
    pub(crate) send: bool,
}

impl Ends {
    fn both(self) -> bool {
        self.receive && self.send
    }
}

/// Why a connection has ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest is to be told by a reset.
    Reset,
    /// The guest knows, or need not know.
    Silent,
}

/// What the guest is to be told.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    shutdown: bool,
    credit_update: bool,
    credit_request: bool,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) flow: Flow,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) socket: Socket,
    /// Bytes of the guest's memory budget that are set aside for the backlog.
    pub(crate) reserved: u32,
    /// When it is given up.
    pub(crate) deadline: Option<Instant>,
    /// It stands in the line of those that may have something for the guest.
    pub(crate) in_line: bool,
    /// Buffers of the guest that the last reads filled at a time.
    pub(crate) burst: usize,
    /// How often to read.
    pub(crate) pace: Pace,
    incoming: Incoming,
    outgoing: Outgoing,
    backlog: Backlog,
    /// Bytes of the host that were read and not sent yet.
    inbound: Inbound,
    owed: Owed,
    /// The ends that the guest announced.
    guest: Ends,
    /// The ends of the host, of which the guest is told.
    host: Ends,
    /// Bytes wait for credit.
    pub(crate) starved: bool,
}

/// Bytes of the host on their way to the guest.
#[derive(Debug, Default)]
struct Inbound {
    bytes: Vec<u8>,
    at: usize,
    /// They are a message.
    message: Option<bool>,
}

impl Inbound {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len() && self.message.is_none()
    }
}

/// What a connection has for the guest next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A packet without payload.
    Control(Op),
    /// Up to so many bytes of the stream, to be read from the socket.
    Stream(usize),
    /// Bytes that were read already: up to so many of [`Connection::read_ahead`].
    Ahead(usize),
    /// Nothing now.
    Nothing,
}

impl Connection {
    pub(crate) fn new(flow: Flow, kind: Kind, state: State, socket: Socket, reserved: u32) -> Self {
        Self {
            flow,
            kind,
            state,
            socket,
            reserved,
            deadline: None,
            in_line: false,
            burst: 1,
            pace: Pace::default(),
            incoming: Incoming::new(reserved),
            outgoing: Outgoing::default(),
            backlog: Backlog::default(),
            inbound: Inbound::default(),
            owed: Owed {
                request: state == State::Requested,
                ..Owed::default()
            },
            guest: Ends::default(),
            host: Ends::default(),
            starved: false,
        }
    }

    /// The host sent these bytes before the connection was made.
    pub(crate) fn begin_with(&mut self, bytes: Vec<u8>) {
        self.inbound.bytes = bytes;
    }

    /// The host's side stands.
    pub(crate) fn connected(&mut self) {
        self.state = State::Established;
        self.owed.response = true;
        self.deadline = None;
    }

    /// The socket became ready.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool, hung_up: bool) -> Result<(), End> {
        self.socket.ready(readable, writable, hung_up);
        if self.state == State::Connecting {
            match self.socket.finish_connect() {
                Ok(()) => self.connected(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(End::Reset),
            }
        }
        if self.socket.is_hung_up() && self.host.send && !self.host.receive {
            self.host_is_deaf();
        }
        self.flush()
    }

    /// A packet of the guest other than payload; the end of the connection if that is what it means.
    pub(crate) fn control(&mut self, packet: &Packet) -> Result<(), End> {
        if packet.kind != self.kind {
            return Err(End::Reset);
        }
        self.credit(packet.room);
        match (packet.op, self.state) {
            // A guest does not wait for ever until the host has taken all.
            (Op::Rst, State::Established) if self.guest.send && !self.backlog.is_empty() => {
                self.leave();
                return self.settle();
            }
            (Op::Rst, _) => return Err(End::Silent),
            (Op::Response, State::Requested) => {
                self.state = State::Established;
                self.deadline = None;
                if let Err(e) = self.socket.greet(self.flow.peer.port) {
                    return self.refused(&e);
                }
            }
            // The guest gives up, or says what it cannot say yet.
            (Op::Shutdown { .. }, State::Connecting | State::Requested)
            | (Op::Response, _)
            | (Op::Request, State::Requested) => {
                return Err(End::Reset);
            }
            // Linux says it again when its `connect` was interrupted and is called once more.
            (Op::Request, _) => {}
            (Op::Shutdown { receive, send }, State::Established | State::Left) => {
                self.guest.receive |= receive;
                self.guest.send |= send;
                return self.settle();
            }
            (Op::CreditRequest, _) => self.owed.credit_update = true,
            (Op::CreditUpdate | Op::Rw { .. }, _) => {}
        }
        Ok(())
    }

    /// The guest has gone, and sends and takes no more. A message that it has not ended is none.
    fn leave(&mut self) {
        self.state = State::Left;
        self.guest = Ends {
            receive: true,
            send: true,
        };
        if self.kind == Kind::Seqpacket {
            self.backlog.forget_open();
        }
    }

    /// What is left of it without its guest: `None` if nobody waits for anything.
    pub(crate) fn bequeathed(mut self) -> Option<Self> {
        let stands = matches!(self.state, State::Established | State::Left);
        self.leave();
        (stands && self.settle().is_ok()).then_some(self)
    }

    /// Bytes of the guest that wait for the host.
    pub(crate) fn backlogged(&self) -> usize {
        self.backlog.len()
    }

    /// The guest told its room.
    pub(crate) fn credit(&mut self, room: Room) {
        self.outgoing.update(room);
    }

    /// Credit is asked for again.
    pub(crate) fn ask_again(&mut self) {
        self.outgoing.forget_asking();
    }

    /// Whether payload of `len` bytes may come now.
    pub(crate) fn accept(&mut self, len: u32) -> Result<(), End> {
        self.pace.interrupt();
        let legal = self.state == State::Established && !self.guest.send;
        if legal && self.incoming.received(len) && self.backlog.messages() < MAX_MESSAGES {
            Ok(())
        } else {
            Err(End::Reset)
        }
    }

    /// Whether bytes of the guest can go to the socket at once.
    pub(crate) fn is_through(&self) -> bool {
        self.backlog.is_empty() && self.socket.writable && !self.host.receive
    }

    /// `len` bytes of the guest have gone to the socket at once.
    pub(crate) fn forwarded(&mut self, len: usize) {
        self.incoming.forwarded(len);
    }

    /// Bytes of the guest that the socket did not take at once.
    pub(crate) fn hold(&mut self, bytes: &[u8]) {
        if self.host.receive {
            // Nobody will read them.
            self.incoming.forwarded(bytes.len());
        } else {
            self.backlog.push(bytes);
        }
    }

    /// A message ends after what was held last.
    pub(crate) fn hold_end(&mut self, eor: bool) {
        if !self.host.receive {
            self.backlog.end_message(eor);
        }
    }

    /// The host takes no more.
    pub(crate) fn host_is_deaf(&mut self) {
        let lost = self.backlog.clear();
        self.incoming.forwarded(lost);
        self.owed.shutdown |= !self.host.receive;
        self.host.receive = true;
    }

    /// Writes what waits for the socket.
    pub(crate) fn flush(&mut self) -> Result<(), End> {
        if matches!(self.state, State::Established | State::Left)
            && self.socket.writable
            && !self.backlog.is_empty()
        {
            let socket = &mut self.socket;
            let result = match self.kind {
                Kind::Stream => self.backlog.drain(|parts| socket.write(parts)),
                Kind::Seqpacket => self
                    .backlog
                    .drain_messages(|parts, eor| socket.write_message(parts, eor)),
            };
            match result {
                Ok(len) => self.incoming.forwarded(len),
                Err(e) => self.refused(&e)?,
            }
        }
        self.settle()
    }

    /// The socket did not take what it was given.
    pub(crate) fn refused(&mut self, error: &io::Error) -> Result<(), End> {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::BrokenPipe => {
                self.host_is_deaf();
                Ok(())
            }
            _ => Err(End::Reset),
        }
    }

    /// Passes the guest's ends on, once all that came before them is through.
    fn settle(&mut self) -> Result<(), End> {
        if self.guest.both() && (self.backlog.is_empty() || self.host.receive) {
            return Err(End::Reset);
        }
        if self.guest.send && self.backlog.is_empty() {
            self.socket.end_writing();
        }
        if self.guest.receive {
            self.socket.end_reading();
        }
        Ok(())
    }

    /// What to tell or send the guest next. Seqpacket messages are read here.
    pub(crate) fn next(&mut self) -> Result<Next, End> {
        let owed = &mut self.owed;
        if std::mem::take(&mut owed.request) {
            return Ok(Next::Control(Op::Request));
        }
        if std::mem::take(&mut owed.response) {
            return Ok(Next::Control(Op::Response));
        }
        if self.state != State::Established {
            return Ok(Next::Nothing);
        }
        // Before the payload, so that the answer comes while there is room.
        if std::mem::take(&mut owed.credit_request) {
            return Ok(Next::Control(Op::CreditRequest));
        }
        let next = self.payload()?;
        if next != Next::Nothing {
            return Ok(next);
        }
        let owed = &mut self.owed;
        if std::mem::take(&mut owed.shutdown) {
            let Ends { receive, send } = self.host;
            return Ok(Next::Control(Op::Shutdown { receive, send }));
        }
        if std::mem::take(&mut owed.credit_request) {
            return Ok(Next::Control(Op::CreditRequest));
        }
        if std::mem::take(&mut owed.credit_update) || self.incoming.is_news() {
            return Ok(Next::Control(Op::CreditUpdate));
        }
        Ok(Next::Nothing)
    }

    fn payload(&mut self) -> Result<Next, End> {
        if self.guest.receive {
            return Ok(Next::Nothing);
        }
        if self.inbound.is_empty() && self.kind == Kind::Seqpacket {
            self.read_message()?;
        }
        let waits = !self.inbound.is_empty() || (self.socket.readable && !self.host.send);
        if !waits {
            return Ok(Next::Nothing);
        }
        let free = self.outgoing.free();
        let empty_message = self.inbound.message.is_some() && self.inbound.rest().is_empty();
        if free == 0 && !empty_message {
            // Most guests tell by themselves when they have room again.
            self.owed.credit_request |= self.outgoing.ask();
            self.starved = true;
            return Ok(Next::Nothing);
        }
        self.starved = false;
        Ok(if self.inbound.is_empty() {
            Next::Stream(free)
        } else {
            Next::Ahead(free.min(self.inbound.rest().len()))
        })
    }

    /// Reads one message, for which there has to be room in the guest at some time.
    fn read_message(&mut self) -> Result<(), End> {
        if !self.socket.readable || self.host.send {
            return Ok(());
        }
        match self
            .socket
            .read_message(self.outgoing.capacity().min(MAX_MESSAGE))
        {
            Ok(Message::Whole { bytes, eor }) => {
                self.inbound = Inbound {
                    bytes,
                    at: 0,
                    message: Some(eor),
                };
                Ok(())
            }
            Ok(Message::End) => {
                self.host_is_mute();
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(End::Reset),
        }
    }

    /// The bytes that [`Next::Ahead`] speaks of.
    pub(crate) fn read_ahead(&self, len: usize) -> &[u8] {
        self.inbound.rest().get(..len).unwrap_or_default()
    }

    /// `len` bytes of those read ahead went to the guest; the packet that carries them.
    pub(crate) fn sent_ahead(&mut self, len: usize) -> Packet {
        self.inbound.at = self.inbound.at.saturating_add(len);
        let is_last = self.inbound.rest().is_empty();
        let (eom, eor) = match self.inbound.message {
            Some(eor) if is_last => (true, eor),
            _ => (false, false),
        };
        if is_last {
            self.inbound = Inbound::default();
        }
        self.sent(len, Op::Rw { eom, eor })
    }

    /// `len` bytes of the stream went to the guest; the packet that carries them.
    pub(crate) fn sent_stream(&mut self, len: usize) -> Packet {
        self.sent(
            len,
            Op::Rw {
                eom: false,
                eor: false,
            },
        )
    }

    fn sent(&mut self, len: usize, op: Op) -> Packet {
        self.outgoing.sent(len);
        self.owed.credit_request |= self.outgoing.has_many_packets() && self.outgoing.ask();
        Packet {
            len: len as u32,
            ..self.packet(op)
        }
    }

    /// The host sends no more.
    pub(crate) fn host_is_mute(&mut self) {
        // What a host has closed altogether, it does not read either.
        let gone = self.socket.is_hung_up();
        if gone && !self.host.receive {
            self.host_is_deaf();
        }
        self.owed.shutdown |= !self.host.send;
        self.host.send = true;
    }

    /// Whether the guest was told that the host has gone, and is to answer.
    pub(crate) fn is_ending(&self) -> bool {
        self.host.both()
    }

    /// A packet without payload to the guest.
    pub(crate) fn packet(&mut self, op: Op) -> Packet {
        Packet {
            flow: self.flow,
            kind: self.kind,
            op,
            len: 0,
            room: self.incoming.tell(),
        }
    }
}
