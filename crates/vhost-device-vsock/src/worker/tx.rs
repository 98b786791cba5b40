// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets of the guest. Payload goes straight from its memory to the socket; consecutive packets of one stream in one go.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io::Read;

use vu_common::{Chain, Cx, Segments, guest_warn};

use super::VsockWorker;
use crate::backend::Connect;
use crate::connection::{Connection, End, State};
use crate::request::{Flow, Kind, Malformed, Op, Packet, Reset};
use crate::socket::{Peer, Socket};
use crate::spec::{HEADER_LEN, HOST_CID, TX};

/// Packets that one write may carry.
const MAX_GATHERED: usize = 64;
/// Bytes that one write may carry.
const MAX_BYTES: usize = 256 * 1024;

/// Packets of one stream that have not been written yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    id: u64,
    chains: Vec<Chain>,
    segments: Segments,
}

impl VsockWorker {
    /// Takes the packets of the guest; whether it took any.
    pub(super) fn take(&mut self, cx: &mut Cx<'_>) -> bool {
        let mut took = false;
        while !self.outbox.is_full()
            && let Some(chain) = cx.pop(TX)
        {
            took = true;
            self.packet(chain);
        }
        self.write_gathered();
        took
    }

    fn packet(&mut self, mut chain: Chain) {
        let mut bytes = [0; HEADER_LEN];
        if chain.reader().read_exact(&mut bytes).is_err() {
            guest_warn!("a packet of {} bytes", chain.readable_len());
            return chain.complete(0);
        }
        match Packet::parse(&bytes, self.cid) {
            Ok(packet) => match packet.op {
                Op::Rw { eom, eor } => return self.payload(chain, &packet, eom, eor),
                _ => {
                    self.write_gathered();
                    self.control(&packet);
                }
            },
            Err(malformed) => self.malformed(&malformed),
        }
        chain.complete(0);
    }

    fn malformed(&mut self, malformed: &Malformed) {
        guest_warn!("{malformed}");
        if let Some(reset) = malformed.reset() {
            self.refuse(reset);
        }
    }

    fn payload(&mut self, chain: Chain, packet: &Packet, eom: bool, eor: bool) {
        let len = packet.len as usize;
        let there = chain.readable_len().saturating_sub(HEADER_LEN);
        let Some(id) = self.table.find(&packet.flow) else {
            self.refuse_flow(packet);
            return chain.complete(0);
        };
        let Some(connection) = self.table.get(id) else {
            return chain.complete(0);
        };
        connection.credit(packet.room);
        let legal = packet.kind == connection.kind && len <= there;
        let accepted = if legal {
            connection.accept(packet.len)
        } else {
            Err(End::Reset)
        };
        if let Err(end) = accepted {
            guest_warn!(
                "payload that breaks the rules, on a connection to port {}",
                packet.flow.peer.port
            );
            self.write_gathered();
            self.close(id, &end);
            return chain.complete(0);
        }
        match packet.kind {
            Kind::Stream => self.gather(id, chain, len),
            Kind::Seqpacket => {
                self.write_gathered();
                self.message(id, chain, len, eom, eor);
            }
        }
    }

    fn refuse_flow(&mut self, packet: &Packet) {
        self.refuse(Reset {
            flow: packet.flow,
            kind: packet.kind.to_wire(),
        });
    }

    fn gather(&mut self, id: u64, chain: Chain, len: usize) {
        let room = self.gathered.chains.len() < MAX_GATHERED && self.gathered.segments.len() < MAX_BYTES;
        if self.gathered.id != id || !room {
            self.write_gathered();
        }
        let Gathered {
            id: of,
            chains,
            segments,
        } = &mut self.gathered;
        *of = id;
        chain.add_readable_segments(HEADER_LEN..HEADER_LEN.saturating_add(len), segments);
        chains.push(chain);
    }

    /// Writes what was gathered; what the socket does not take is held by the connection.
    pub(super) fn write_gathered(&mut self) {
        if self.gathered.chains.is_empty() {
            return;
        }
        let id = self.gathered.id;
        let segments = std::mem::take(&mut self.gathered.segments);
        self.step(id, |connection| {
            let mut done = 0;
            if connection.is_through() {
                match connection.socket.write_segments(&segments) {
                    Ok(len) => done = len,
                    Err(e) => connection.refused(&e)?,
                }
                connection.forwarded(done);
            }
            hold(connection, &segments, done);
            connection.flush()
        });
        self.gathered.segments = segments;
        self.gathered.segments.clear();
        for chain in self.gathered.chains.drain(..) {
            chain.complete(0);
        }
    }

    /// A message or a part of one.
    fn message(&mut self, id: u64, chain: Chain, len: usize, eom: bool, eor: bool) {
        let mut segments = std::mem::take(&mut self.gathered.segments);
        chain.readable_segments(HEADER_LEN..HEADER_LEN.saturating_add(len), &mut segments);
        self.step(id, |connection| {
            hold(connection, &segments, 0);
            if eom {
                connection.hold_end(eor);
            }
            connection.flush()
        });
        segments.clear();
        self.gathered.segments = segments;
        chain.complete(0);
    }

    /// A packet without payload.
    fn control(&mut self, packet: &Packet) {
        match self.table.find(&packet.flow) {
            Some(id) => {
                self.step(id, |connection| connection.control(packet));
                if self
                    .table
                    .get(id)
                    .is_some_and(|connection| connection.state == State::Left)
                {
                    self.table.free_flow(id, &packet.flow);
                }
            }
            None => match packet.op {
                Op::Request => {
                    if self.request(packet).is_none() {
                        self.refuse_flow(packet);
                    }
                }
                // A reset is never answered by a reset.
                Op::Rst => {}
                _ => self.refuse_flow(packet),
            },
        }
    }

    /// The guest wants to connect. `None` if it cannot be.
    fn request(&mut self, packet: &Packet) -> Option<()> {
        let Packet { flow, kind, .. } = *packet;
        let room = self.table.room().filter(|_| self.kinds.has(kind))?;
        let (socket, stands) = self.reach(flow, kind)?;
        let id = self.connect(flow, kind, State::Connecting, socket, room)?;
        self.step(id, |connection| {
            connection.credit(packet.room);
            if stands {
                connection.connected();
            }
            Ok(())
        });
        Some(())
    }

    /// A socket to the host or a sibling, and whether it is connected already.
    fn reach(&mut self, flow: Flow, kind: Kind) -> Option<(Socket, bool)> {
        if flow.peer.cid != HOST_CID {
            let called = self.membership.as_ref()?.call(flow.guest_port, flow.peer, kind);
            return Some((Socket::new(called.ok()?, Peer::Sibling), false));
        }
        match self.host.as_mut()?.connect(flow.peer.port, kind).ok()? {
            Connect::Done(fd) => Some((Socket::new(fd, Peer::Plain), true)),
            Connect::Started(fd) => Some((Socket::new(fd, Peer::Plain), false)),
        }
    }
}

/// Gives the connection the bytes from `done` on to hold.
fn hold(connection: &mut Connection, segments: &Segments, done: usize) {
    let mut at = done;
    let mut bytes = [0; 4096];
    while at < segments.len() {
        let len = segments.copy_to(at, &mut bytes);
        connection.hold(bytes.get(..len).unwrap_or_default());
        at = at.saturating_add(len.max(1));
    }
}
