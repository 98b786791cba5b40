// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who wants to speak to the guest: processes of the host, and siblings.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};
use vu_common::guest_warn;

use super::{PATIENCE, Source, VsockWorker};
use crate::backend::Arrival;
use crate::connection::State;
use crate::request::{Address, Flow, Kind};
use crate::socket::{Peer, Socket};
use crate::spec::HOST_CID;

/// Processes that may be about to say whom they want.
const MAX_CALLERS: usize = 128;
/// `CONNECT ` and the largest port, with the end of the line.
const MAX_LINE: usize = "CONNECT 4294967295\r\n".len();
/// Bytes that are read with the line; what is behind it is the beginning of the stream.
const FIRST_READ: usize = 4096;
/// The first port that stands for a process of the host.
const FIRST_PORT: u32 = 1 << 30;

/// A process that has connected and not yet said whom it wants.
#[derive(Debug)]
struct Caller {
    fd: OwnedFd,
    kind: Kind,
    said: Vec<u8>,
    deadline: Option<Instant>,
}

/// Those on their way to the guest.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    callers: HashMap<u64, Caller>,
    next: u64,
    ports: u32,
    /// The host could not accept: nobody is listened to for a while.
    paused: bool,
}

/// What a caller wants.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// The port, and where in the bytes the line ends.
    Port(u32, usize),
    /// The line is not whole.
    More,
    /// Nothing that we understand.
    Nonsense,
}

fn parse(said: &[u8]) -> Wish {
    let Some(end) = said.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if said.len() < MAX_LINE {
            Wish::More
        } else {
            Wish::Nonsense
        };
    };
    let line = said.get(..end).and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.unwrap_or_default().split_ascii_whitespace();
    let (verb, port, rest) = (words.next(), words.next(), words.next());
    let is_connect = verb.is_some_and(|verb| verb.eq_ignore_ascii_case("connect")) && rest.is_none();
    match port.and_then(|port| port.parse().ok()) {
        Some(port) if is_connect => Wish::Port(port, end.saturating_add(1)),
        _ => Wish::Nonsense,
    }
}

impl Arrivals {
    /// Whether [`expire`](Self::expire) has something to do some time.
    pub(super) fn wait(&self) -> bool {
        self.paused || !self.callers.is_empty()
    }

    /// Drops those that have said nothing for too long. Whether to listen again.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.callers
            .retain(|_, caller| caller.deadline.is_none_or(|at| at > now));
        std::mem::take(&mut self.paused)
    }
}

impl VsockWorker {
    /// Waits for processes of the host.
    pub(super) fn listen(&mut self) {
        let listeners = self.host.as_ref().map(|host| host.listeners());
        for (number, fd) in (0..).zip(listeners.unwrap_or_default()) {
            let flags = epoll::EventFlags::IN;
            if let Err(e) = epoll::add(&self.poll, fd, Source::Listener(number).to_data(), flags) {
                log::error!("cannot wait for connections of the host: {e}");
            }
        }
    }

    /// The host has no more descriptors, or no memory: whoever waits would be announced over and over.
    fn pause(&mut self) {
        let listeners = self.host.as_ref().map(|host| host.listeners());
        for fd in listeners.unwrap_or_default() {
            let _ = epoll::delete(&self.poll, fd);
        }
        self.arrivals.paused = true;
    }

    /// Somebody of the host connects.
    pub(super) fn accept(&mut self, listener: u64) {
        // One at a time: the listener stays ready, and nobody is kept waiting by a crowd.
        let Some(host) = &mut self.host else { return };
        match host.accept(usize::try_from(listener).unwrap_or(usize::MAX)) {
            Ok(Arrival {
                fd,
                kind,
                port: Some(port),
            }) => self.call_guest(fd, kind, port, Vec::new(), Peer::Plain),
            Ok(Arrival { fd, kind, port: None }) => self.listen_to(fd, kind),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
            Err(e) => {
                guest_warn!("cannot accept a connection: {e}");
                self.pause();
            }
        }
    }

    fn listen_to(&mut self, fd: OwnedFd, kind: Kind) {
        if self.arrivals.callers.len() >= MAX_CALLERS {
            return guest_warn!("too many processes that connect and say nothing");
        }
        let number = self.arrivals.next;
        self.arrivals.next = number.wrapping_add(1);
        let flags = epoll::EventFlags::IN;
        if let Err(e) = epoll::add(&self.poll, &fd, Source::Caller(number).to_data(), flags) {
            return guest_warn!("cannot wait for a process: {e}");
        }
        let caller = Caller {
            fd,
            kind,
            said: Vec::new(),
            deadline: Instant::now().checked_add(PATIENCE),
        };
        self.arrivals.callers.insert(number, caller);
    }

    /// A process says whom it wants.
    pub(super) fn hear(&mut self, number: u64) {
        let Some(caller) = self.arrivals.callers.get_mut(&number) else {
            return;
        };
        let mut bytes = [0; FIRST_READ];
        let wish = match recv(&caller.fd, &mut bytes[..], RecvFlags::empty()) {
            Ok((len, _)) if len > 0 => {
                caller.said.extend(bytes.get(..len).unwrap_or_default());
                parse(&caller.said)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Wish::More,
            _ => Wish::Nonsense,
        };
        if wish == Wish::More {
            return;
        }
        let Some(mut caller) = self.arrivals.callers.remove(&number) else {
            return;
        };
        let _ = epoll::delete(&self.poll, &caller.fd);
        if let Wish::Port(port, end) = wish {
            let rest = caller.said.split_off(end.min(caller.said.len()));
            self.call_guest(caller.fd, caller.kind, port, rest, Peer::Greeted);
        }
    }

    /// Asks the guest to accept a connection from the host. Where it cannot, the socket is closed.
    fn call_guest(&mut self, fd: OwnedFd, kind: Kind, port: u32, first: Vec<u8>, peer: Peer) {
        let Some(room) = self.table.room().filter(|_| self.kinds.has(kind)) else {
            return guest_warn!("no further connection to the guest");
        };
        let mut flow = Flow {
            guest_port: port,
            peer: Address {
                cid: HOST_CID,
                port: 0,
            },
        };
        loop {
            flow.peer.port = FIRST_PORT | self.arrivals.ports;
            self.arrivals.ports = self.arrivals.ports.wrapping_add(1) & (FIRST_PORT - 1);
            if self.table.find(&flow).is_none() {
                break;
            }
        }
        let socket = Socket::new(fd, peer);
        if let Some(id) = self.connect(flow, kind, State::Requested, socket, room) {
            self.step(id, |connection| {
                connection.begin_with(first);
                Ok(())
            });
        }
    }

    /// Siblings call.
    pub(super) fn answer_calls(&mut self) {
        while let Some(call) = self
            .membership
            .as_ref()
            .and_then(crate::network::Membership::next_call)
        {
            let flow = Flow {
                guest_port: call.port,
                peer: call.from,
            };
            let room = self.table.room().filter(|_| self.kinds.has(call.kind));
            // Without room, the caller finds the other end closed.
            if let (Some(room), None) = (room, self.table.find(&flow)) {
                let socket = Socket::new(call.fd, Peer::Sibling);
                if let Some(id) = self.connect(flow, call.kind, State::Requested, socket, room) {
                    self.line_up(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Wish, parse};

    #[test]
    fn a_line_names_the_port_and_what_follows_is_kept() {
        assert_eq!(parse(b"CONNECT 80\nGET"), Wish::Port(80, 11));
        assert_eq!(parse(b"connect 4294967295\r\n"), Wish::Port(u32::MAX, 20));
    }

    #[test]
    fn a_part_of_a_line_waits() {
        for said in [&b""[..], b"CONN", b"CONNECT 4294967295\r"] {
            assert_eq!(parse(said), Wish::More);
        }
    }

    #[test]
    fn anything_else_is_nonsense() {
        for said in [
            &b"\n"[..],
            b"CONNECT\n",
            b"CONNECT x\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 1 2\n",
            b"GET / HTTP/1.1\n",
            b"\xff\xfe\n",
            b"CONNECT 0000000000000000000000001\n",
        ] {
            assert_eq!(parse(said), Wish::Nonsense);
        }
    }
}
