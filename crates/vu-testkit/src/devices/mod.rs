// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device profiles: all that the table needs to know of a device. One file per device.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use crate::chains::{Framing, Request};
use crate::spawn::{Daemon, Launch};

pub mod blk;
pub mod gpio;
pub mod i2c;
pub mod input;
mod rng;
pub mod vsock;

pub use blk::{Blk, blk};
pub use gpio::{Gpio, gpio};
pub use i2c::{I2c, i2c};
pub use input::{Input, input};
pub use rng::{Rng, rng};
pub use vsock::{Vsock, vsock};

/// How a driver leaves buffers with the device until something happens.
#[derive(Clone, Debug)]
pub struct Parking {
    /// The queue that takes them.
    pub queue: u16,
    /// Requests that come first, so that the device keeps the buffers; they may be made again.
    pub prepare: Vec<Request>,
    /// The buffers.
    pub buffers: Vec<Request>,
    /// Requests after which the device has given all of them back.
    pub release: Vec<Request>,
}

/// A device seen from the driver: how to ask it something, and how to check what it answers.
pub trait Profile: fmt::Debug + Send + Sync {
    /// Short name, as in `vhost-device-<name>`.
    fn name(&self) -> &'static str;

    /// Virtio device id.
    fn virtio_id(&self) -> u32;

    /// Number of virtqueues that a driver uses.
    fn queues(&self) -> u16;

    /// The queue that takes [`Profile::request`].
    fn request_queue(&self) -> u16 {
        0
    }

    /// The queues that take [`Profile::request`], where there are several.
    fn request_queues(&self) -> Range<u16> {
        self.request_queue()..self.request_queue() + 1
    }

    /// Whether the device answers in the order of the requests; one that waits for several things at once does not.
    fn in_order(&self) -> bool {
        true
    }

    /// How the usual driver cuts its requests where the ring has room for that; no device may rely on it.
    fn framing(&self) -> Framing {
        Framing::Whole
    }

    /// The buffers that the device keeps until something happens, where it has a queue of events.
    fn parking(&self) -> Option<Parking> {
        None
    }

    /// Device feature bits that the driver wants, of those offered.
    fn features(&self) -> u64 {
        0
    }

    /// Length of the configuration space in bytes; 0 when there is none.
    fn config_len(&self) -> u32 {
        0
    }

    /// The file behind the device, if it needs one; it exists for as long as the profile does.
    fn storage(&self) -> Option<PathBuf> {
        None
    }

    /// A well-formed request. `number` counts requests, so that a profile can vary them; `size` is the wanted amount
    /// of payload in bytes, which the profile rounds to what its requests allow.
    fn request(&self, number: u64, size: usize) -> Request;

    /// Checks the answer: `answer` holds all writable bytes of the request, `used` of which the device says to have
    /// written. The buffer was filled with [`FILL`] before.
    ///
    /// # Errors
    /// What is wrong with the answer.
    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String>;

    /// How to start the daemon so slow that requests stay in flight, if it can be.
    fn slow(&self, _launch: &Launch) -> Option<Launch> {
        None
    }

    /// Makes the daemon change its configuration space, if that is possible; `false` when it is not.
    fn change_config(&self, _daemon: &mut Daemon) -> bool {
        false
    }

    /// The most memory, in bytes, that the daemon may hold in any hostile case.
    fn memory_limit(&self) -> u64 {
        64 << 20
    }
}

/// What writable bytes hold before the device writes.
pub const FILL: u8 = 0xa5;

/// All profiles, by name.
#[must_use]
pub fn by_name(name: &str) -> Option<Box<dyn Profile>> {
    match name {
        "blk" => Some(Box::new(blk())),
        "gpio" => Some(Box::new(gpio())),
        "i2c" => Some(Box::new(i2c())),
        "input" => Some(Box::new(input())),
        "rng" => Some(Box::new(rng())),
        "vsock" => Some(Box::new(vsock())),
        _ => None,
    }
}

/// The names that [`by_name`] knows.
pub const NAMES: &[&str] = &["blk", "gpio", "i2c", "input", "rng", "vsock"];
