// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host side: buses whose devices the guest may talk to.

mod address;
pub mod linux;
pub mod sim;

use std::fmt;
use std::io;
use std::time::Duration;

pub use address::NoAddress;

use crate::args::BusPlace;

/// The address of a device on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Seven bits, 0 to 0x7f.
    Seven(u8),
    /// Ten bits, 0 to 0x3ff.
    Ten(u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seven(address) => write!(f, "{address:#04x}"),
            Self::Ten(address) => write!(f, "{address:#05x} (10 bits)"),
        }
    }
}

/// Which way the bytes of a message go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device to the guest.
    Read,
    /// From the guest to the device.
    Write,
}

/// One message of a transfer: a start condition, the address, the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom it is for.
    pub address: Address,
    /// Which way its bytes go.
    pub direction: Direction,
    /// The bytes: to be written, or to be replaced by what is read. May be empty.
    pub data: Vec<u8>,
}

/// A transfer that ended early.
#[derive(Debug)]
pub struct Failure {
    /// How many messages succeeded before the one that failed, as far as the bus can tell; else 0.
    pub done: usize,
    /// What went wrong, with the bus and the address.
    pub error: io::Error,
}

/// How long a transfer may have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It never does.
    Never,
    /// As long as its bytes take, and at most the time-out of the adapter if a device holds it up. But an adapter
    /// that is broken need not keep that.
    Usually,
    /// As long as a device likes.
    Always,
}

/// The bus of a host, or a simulated one.
pub trait Bus: Send {
    /// How people call it, as `i2c-1 (name of the adapter)`.
    fn name(&self) -> String;

    /// Whether [`Bus::transfer`] may have to wait.
    fn waits(&self) -> Waits;

    /// The most messages that one transfer can have; at least 1.
    fn max_messages(&self) -> usize;

    /// Does `messages` as one transfer: repeated start conditions between them, one stop condition after the last.
    /// Nothing after a message that fails is sent.
    ///
    /// # Errors
    /// The first message that failed, and why.
    fn transfer(&mut self, messages: &mut [Message]) -> Result<(), Failure>;
}

/// Opens the bus at `place`. One of the host gives a transfer up after `timeout`, if its driver keeps to that.
///
/// # Errors
/// There is no such bus, or the host refused.
pub fn open(place: &BusPlace, timeout: Duration) -> anyhow::Result<Box<dyn Bus>> {
    match place {
        BusPlace::Host(name) => linux::open(name, timeout),
        BusPlace::Sim(devices) => sim::open(devices),
    }
}
