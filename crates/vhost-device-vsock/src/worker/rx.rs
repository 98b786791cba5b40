// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets to the guest: resets first, then the connections in turn.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Instant;

use rustix::event::epoll;
use vu_common::{Chain, Cx, Segments, guest_warn};

use super::{AWAKE, PATIENCE, RESTING, Source, VsockWorker};
use crate::connection::{End, Next};
use crate::spec::{EVENT, EVENT_TRANSPORT_RESET, HEADER_LEN, RX};

/// Resets that may wait for the guest; with more, no packet of it is taken.
const MAX_RESETS: usize = 256;
/// Bytes that a connection may send before the next one's turn.
const TURN: usize = 128 * 1024;
/// Buffers of the guest that one read may fill.
const MAX_CHAINS: usize = 32;

/// What waits for buffers of the guest.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    resets: VecDeque<[u8; HEADER_LEN]>,
    /// Connections that may have something, each once.
    pub(super) line: VecDeque<u64>,
    chains: VecDeque<Chain>,
    segments: Segments,
}

impl Outbox {
    pub(super) fn reset(&mut self, header: [u8; HEADER_LEN]) {
        self.resets.push_back(header);
    }

    pub(super) fn is_full(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }
}

/// How the turn of a connection ended.
enum Turn {
    /// It has nothing more now.
    Done,
    /// Others are next.
    Over,
    /// The guest has no buffer.
    NoBuffer,
}

impl VsockWorker {
    /// Gives the guest all that there is for it and that it has buffers for.
    pub(super) fn give(&mut self, cx: &mut Cx<'_>) {
        loop {
            while let Some(header) = self.outbox.resets.front() {
                let Some(chain) = pop(cx) else { return };
                write(chain, header, &[]);
                self.outbox.resets.pop_front();
            }
            // Its turn may end a connection, and that is a reset again.
            let Some(id) = self.outbox.line.pop_front() else {
                return;
            };
            match self.turn(cx, id) {
                Ok(Turn::NoBuffer) => return self.outbox.line.push_front(id),
                Ok(Turn::Over) => self.outbox.line.push_back(id),
                Ok(Turn::Done) => {
                    if let Some(connection) = self.table.get(id) {
                        connection.in_line = false;
                    }
                }
                Err(end) => self.close(id, &end),
            }
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>, id: u64) -> Result<Turn, End> {
        let mut left = TURN;
        while left > 0 {
            let Some(chain) = pop(cx) else {
                return Ok(Turn::NoBuffer);
            };
            let Some(connection) = self.table.get(id) else {
                cx.give_back(chain);
                return Ok(Turn::Done);
            };
            let next = connection.next();
            let room = chain.writable_len().saturating_sub(HEADER_LEN);
            match next {
                Ok(Next::Control(op)) => {
                    let packet = connection.packet(op);
                    if connection.is_ending() && connection.deadline.is_none() {
                        connection.deadline = Instant::now().checked_add(PATIENCE);
                    }
                    write(chain, &packet.to_bytes(self.cid), &[]);
                }
                Ok(Next::Ahead(len)) => {
                    let len = len.min(room);
                    let bytes = connection.read_ahead(len).to_vec();
                    let header = connection.sent_ahead(len).to_bytes(self.cid);
                    write(chain, &header, &bytes);
                    left = left.saturating_sub(len.max(1));
                }
                Ok(Next::Stream(free)) => {
                    let len = self.stream(cx, id, chain, free.min(left))?;
                    left = left.saturating_sub(len);
                }
                Ok(Next::Nothing) => {
                    cx.give_back(chain);
                    return Ok(Turn::Done);
                }
                Err(end) => {
                    cx.give_back(chain);
                    return Err(end);
                }
            }
        }
        Ok(Turn::Over)
    }

    /// Reads up to `max` bytes of a stream into `first` and further buffers, as many as the last reads needed.
    fn stream(&mut self, cx: &mut Cx<'_>, id: u64, first: Chain, max: usize) -> Result<usize, End> {
        let Some(connection) = self.table.get(id) else {
            cx.give_back(first);
            return Ok(0);
        };
        let Outbox { chains, segments, .. } = &mut self.outbox;
        segments.clear();
        let mut room = 0_usize;
        let mut next = Some(first);
        while let Some(chain) = next {
            let part = chain
                .writable_len()
                .saturating_sub(HEADER_LEN)
                .min(max.saturating_sub(room));
            chain.add_writable_segments(HEADER_LEN..HEADER_LEN.saturating_add(part), segments);
            room = room.saturating_add(part);
            chains.push_back(chain);
            let more = chains.len() < connection.burst && room < max;
            next = if more { pop(cx) } else { None };
        }
        let result = connection.socket.read_segments(segments);
        let mut left = *result.as_ref().unwrap_or(&0);
        connection.pace.read(left);
        connection.burst = match left {
            len if len == room => connection.burst.saturating_mul(2).min(MAX_CHAINS),
            len if len < room / 2 => (connection.burst / 2).max(1),
            _ => connection.burst,
        };
        while left > 0
            && let Some(chain) = chains.pop_front()
        {
            let len = left.min(chain.writable_len().saturating_sub(HEADER_LEN));
            left = left.saturating_sub(len);
            let header = connection.sent_stream(len).to_bytes(self.cid);
            fill(chain, &header, len);
        }
        while let Some(chain) = chains.pop_back() {
            cx.give_back(chain);
        }
        match result {
            Ok(0) => {
                connection.host_is_mute();
                Ok(0)
            }
            Ok(len) if len < room => self.rest_or_wake(id).map(|()| len),
            Ok(len) => Ok(len),
            // Nothing has come while it rested.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && connection.pace.rests() => {
                self.rest_or_wake(id).map(|()| 0)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(_) => Err(End::Reset),
        }
    }

    /// There is no more to read: has the socket rest or wake us, as its pace is.
    fn rest_or_wake(&mut self, id: u64) -> Result<(), End> {
        let Some(connection) = self.table.get(id) else {
            return Ok(());
        };
        let rested = connection.pace.rests();
        let rests = connection.pace.paused(Instant::now());
        if rests {
            connection.socket.rest();
            self.resting.push(id);
        }
        if rests != rested {
            let flags = if rests { RESTING } else { AWAKE };
            let data = Source::Connection(id).to_data();
            if let Err(e) = epoll::modify(&self.poll, &connection.socket, data, flags) {
                log::warn!("cannot wait for a socket of the host any more: {e}");
                return Err(End::Reset);
            }
        }
        Ok(())
    }

    /// Tells the driver that connections of before are gone, where the front end gives us the event queue.
    pub(super) fn tell_reset(&mut self, cx: &mut Cx<'_>) {
        if self.reset_owed
            && let Some(mut chain) = cx.pop(EVENT)
        {
            let written = chain
                .writer()
                .write(&EVENT_TRANSPORT_RESET.to_le_bytes())
                .unwrap_or(0);
            chain.complete(written as u32);
            self.reset_owed = false;
        }
    }
}

/// The next buffer that a packet fits into. Smaller ones go back empty.
fn pop(cx: &mut Cx<'_>) -> Option<Chain> {
    loop {
        let chain = cx.pop(RX)?;
        if chain.writable_len() > HEADER_LEN {
            return Some(chain);
        }
        guest_warn!("a buffer of {} bytes for a packet", chain.writable_len());
        chain.complete(0);
    }
}

fn write(mut chain: Chain, header: &[u8; HEADER_LEN], payload: &[u8]) {
    let mut writer = chain.writer();
    let written = writer.write_all(header).and_then(|()| writer.write_all(payload));
    let len = if written.is_ok() {
        HEADER_LEN.saturating_add(payload.len())
    } else {
        0
    };
    chain.complete(len as u32);
}

/// Puts the header in front of `len` bytes that are there.
fn fill(mut chain: Chain, header: &[u8; HEADER_LEN], len: usize) {
    let written = chain.writer().write(header).unwrap_or(0);
    chain.complete(written.saturating_add(len) as u32);
}
