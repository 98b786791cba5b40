// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connections of one guest, by number and by flow, and the memory that they may take.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::HashMap;

use crate::connection::{Connection, State};
use crate::request::{Flow, Kind};
use crate::socket::Socket;

/// The least room for a connection that is of use: a packet of the smallest guest page.
const MIN_ROOM: u32 = 4096;

/// What bounds the connections of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that one connection may have under way to the host.
    pub buffer: u32,
    /// Bytes that all of them may have under way.
    pub memory: u64,
    /// How many there may be.
    pub connections: usize,
}

/// The connections. Numbers are never given twice.
#[derive(Debug)]
pub(super) struct Table {
    bounds: Bounds,
    reserved: u64,
    next: u64,
    by_flow: HashMap<Flow, u64>,
    connections: HashMap<u64, Connection>,
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            reserved: 0,
            next: 0,
            by_flow: HashMap::new(),
            connections: HashMap::new(),
        }
    }

    pub(super) fn find(&self, flow: &Flow) -> Option<u64> {
        self.by_flow.get(flow).copied()
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.connections.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Connection)> {
        self.connections.iter().map(|(id, connection)| (*id, connection))
    }

    /// Room for one more connection, less when there is little left; `None` if there is none.
    pub(super) fn room(&self) -> Option<u32> {
        let left = self.bounds.memory.saturating_sub(self.reserved);
        // The last connections share what is left, instead of the first taking all.
        let share = u32::try_from(left / 8).unwrap_or(u32::MAX).max(MIN_ROOM);
        let room = share.min(self.bounds.buffer);
        let fits = u64::from(room) <= left && self.connections.len() < self.bounds.connections;
        fits.then_some(room)
    }

    /// Adds a connection, whose flow is new, with `room`; its number.
    pub(super) fn add(&mut self, flow: Flow, kind: Kind, state: State, socket: Socket, room: u32) -> u64 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.reserved = self.reserved.saturating_add(room.into());
        self.by_flow.insert(flow, id);
        self.connections
            .insert(id, Connection::new(flow, kind, state, socket, room));
        id
    }

    /// The guest may use the ports of a connection anew.
    pub(super) fn free_flow(&mut self, id: u64, flow: &Flow) {
        if self.find(flow) == Some(id) {
            self.by_flow.remove(flow);
        }
    }

    /// Takes all connections out.
    pub(super) fn clear(&mut self) -> Vec<Connection> {
        self.by_flow.clear();
        self.reserved = 0;
        self.connections
            .drain()
            .map(|(_, connection)| connection)
            .collect()
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.free_flow(id, &connection.flow);
        self.reserved = self.reserved.saturating_sub(connection.reserved.into());
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{Bounds, Table};
    use crate::connection::State;
    use crate::request::{Address, Flow, Kind};
    use crate::socket::{Peer, Socket};

    fn fill(bounds: Bounds) -> (Table, Vec<u32>) {
        let mut table = Table::new(bounds);
        let mut rooms = Vec::new();
        while let Some(room) = table.room() {
            let flow = Flow {
                guest_port: rooms.len() as u32,
                peer: Address { cid: 2, port: 1 },
            };
            let socket = Socket::new(UnixStream::pair().unwrap().0.into(), Peer::Plain);
            table.add(flow, Kind::Stream, State::Established, socket, room);
            rooms.push(room);
        }
        (table, rooms)
    }

    #[test]
    fn rooms_shrink_before_they_end_and_never_exceed_the_memory() {
        let (mut table, rooms) = fill(Bounds {
            buffer: 65536,
            memory: 1 << 20,
            connections: 1000,
        });
        assert_eq!((rooms[0], rooms[rooms.len() - 1]), (65536, 4096));
        let sum: u64 = rooms.iter().map(|room| u64::from(*room)).sum();
        assert!(sum <= 1 << 20 && sum > (1 << 20) - 4096, "{sum}");
        assert!(rooms.is_sorted_by(|a, b| a >= b));
        table.remove(0).unwrap();
        assert!(table.room().is_some());
    }

    #[test]
    fn the_number_of_connections_is_bounded() {
        let (_, rooms) = fill(Bounds {
            buffer: 4096,
            memory: 1 << 30,
            connections: 7,
        });
        assert_eq!(rooms.len(), 7);
    }
}
