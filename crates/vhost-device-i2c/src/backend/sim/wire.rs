// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What tests of devices say on a simulated bus.

use super::super::{Address, Bus, Direction, Failure, Message};

pub(crate) struct Wire(Box<dyn Bus>);

/// A message that writes `bytes`.
pub(crate) fn w(address: u8, bytes: &[u8]) -> Message {
    let address = Address::Seven(address);
    Message {
        address,
        direction: Direction::Write,
        data: bytes.to_vec(),
    }
}

/// A message that reads `count` bytes.
pub(crate) fn r(address: u8, count: usize) -> Message {
    let address = Address::Seven(address);
    // Not what any device answers, so that a byte that is not replaced is seen.
    Message {
        address,
        direction: Direction::Read,
        data: vec![0xa5; count],
    }
}

impl Wire {
    pub(crate) fn new(devices: &str) -> Self {
        Self(super::open(devices).unwrap())
    }

    /// One transfer. What its last message has in the end.
    pub(crate) fn transfer<const N: usize>(
        &mut self,
        mut messages: [Message; N],
    ) -> Result<Vec<u8>, Failure> {
        self.0.transfer(&mut messages)?;
        Ok(messages.into_iter().next_back().unwrap().data)
    }

    pub(crate) fn write(&mut self, address: u8, bytes: &[u8]) {
        self.transfer([w(address, bytes)]).unwrap();
    }

    pub(crate) fn read(&mut self, address: u8, count: usize) -> Vec<u8> {
        self.transfer([r(address, count)]).unwrap()
    }

    /// Writes, then reads after a repeated start condition.
    pub(crate) fn ask(&mut self, address: u8, bytes: &[u8], count: usize) -> Vec<u8> {
        self.transfer([w(address, bytes), r(address, count)]).unwrap()
    }
}
