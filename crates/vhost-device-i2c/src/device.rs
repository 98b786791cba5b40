// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The I2C adapter (virtio 1.3, section 5.15): what a request means, and what the driver gets.
//!
//! | what happens | what the driver gets |
//! |---|---|
//! | the message was acknowledged | `OK`, with what was read |
//! | no device acknowledges, or the host refuses | `ERR` |
//! | the bus does not answer in time, or still has not since an earlier request | `ERR` |
//! | an address that the guest may not talk to | `ERR`, and nothing reaches the bus |
//! | a malformed request, or one that is too long | `ERR`, and nothing reaches the bus |
//! | any of these to a request of the same group, before it or after it | `ERR`, see below |
//! | `VIRTIO_I2C_F_ZERO_LENGTH_REQUEST` was not negotiated | `ERR` to everything: this driver is to be rejected |
//! | no room for a status | used length 0, and nothing reaches the bus |
//!
//! **Groups.** A request with `VIRTIO_I2C_FLAGS_FAIL_NEXT` and the one after it are of one group, and a group is one
//! transfer: no stop condition within it. Requests that are not of one group never are.
//!
//! - Drivers make the requests of a group available one by one, so a polling device may see the first before the last:
//!   the rest is waited for, shortly.
//! - A group may be longer than its ring (QEMU's has 4 entries), and Linux's driver then waits for the part that
//!   fitted before it goes on. So what is there is done in the end, as a transfer of its own.
//!   That the part failed is kept, and what arrives later of the group fails with it.
//! - If one request of what is there may not be sent, none is: a device that got half of a transfer may do
//!   what nobody asked for, as a register that was selected for a read that never came, and whose next access is
//!   another one's. Those before it then have not been done, either, so they get `ERR`, too.
//! - A group of more requests than the bus can do in one transfer fails. A stop condition somewhere within it would
//!   change what it means: an EEPROM starts to write, a register pointer may be reset.
//! - When the bus fails in the middle, the requests that it did have `OK`, as far as it can tell. Linux cannot.
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use vu_common::{
    About, Chain, Command, CommandRequest, Cx, Device, Ready, Spec, Start, Token, Worker, guest_warn,
};

use crate::allow::AllowList;
use crate::backend::{Address, Bus, Failure, Waits};
use crate::bus_thread::BusThread;
use crate::control;
use crate::group::{self, Group};
use crate::request::{Header, Malformed, Request};
use crate::spec::{OUT_HDR_LEN, REQUESTQ, VIRTIO_I2C_F_ZERO_LENGTH_REQUEST, VIRTIO_ID_I2C_ADAPTER};

/// The daemon, as managers and packages see it.
pub const ABOUT: About = About {
    host_devices: &["char-i2c"],
    commands: &[Command {
        name: "transfer",
        arguments: "address=ADDRESS [write=HEX] [read=COUNT]",
        help: "Write to a device of a simulated bus and read from it, in one transfer",
    }],
    example: "--bus sim:lm75@0x48",
    ..About::new("i2c")
};

/// Most messages of a transfer, whatever the bus can do: as many as Linux takes from a process at once.
pub const MAX_GROUP: usize = 42;
/// Requests after which the worker makes a pause, between two groups. A turn has room for a group more than that;
/// at its end the virtqueue looks empty, and a group would be cut there.
const TURN: usize = 256;
/// The time of one byte and its acknowledge at 100 kHz, the slowest of the usual clocks.
const BYTE_TIME: Duration = Duration::from_micros(90);
/// How long the rest of a group is waited for: a driver takes less than a microsecond from one request to the next,
/// unless it loses its CPU.
const REST: Duration = Duration::from_millis(1);
/// How long to look for the next request without sleeping. A driver asks again as soon as it is answered, and the
/// way through two wake-ups takes longer than everything else. It ends by itself when the guest is idle.
const POLL: Duration = Duration::from_micros(50);
/// The longest wait for a transfer. The stop of a virtqueue waits, too, but 30 seconds at most.
const MAX_WAIT: Duration = Duration::from_secs(25);

/// What every guest is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a bus may take beyond the time for the bytes.
    pub timeout: Duration,
    /// Most bytes of a message.
    pub max_message: usize,
}

impl Limits {
    /// How long a transfer may take whose bytes need `on_the_wire`.
    fn patience(&self, on_the_wire: Duration) -> Duration {
        self.timeout.saturating_add(on_the_wire).min(MAX_WAIT)
    }
}

/// How long so many messages, and so many bytes in them, are under way.
fn on_the_wire(messages: usize, bytes: usize) -> Duration {
    // An address is a byte, too.
    let bytes = u32::try_from(bytes.saturating_add(messages)).unwrap_or(u32::MAX);
    BYTE_TIME.saturating_mul(bytes)
}

/// An I2C adapter, as one guest sees it.
pub struct I2c(Arc<Adapter>);

struct Adapter {
    /// How people call the bus.
    name: String,
    max_group: usize,
    allowed: AllowList,
    limits: Limits,
    port: Port,
}

/// The way to the bus.
enum Port {
    /// It never waits. There is one worker at a time, so neither does the lock.
    Direct(Mutex<Box<dyn Bus>>),
    /// It may have to wait.
    Thread(BusThread),
}

impl I2c {
    /// An adapter by which the guest reaches the `allowed` devices of `bus`.
    ///
    /// # Errors
    /// The host has no thread for a bus that may have to wait.
    pub fn new(bus: Box<dyn Bus>, allowed: AllowList, limits: Limits) -> io::Result<Self> {
        Ok(Self(Arc::new(Adapter {
            name: bus.name(),
            max_group: bus.max_messages().clamp(1, MAX_GROUP),
            allowed,
            limits,
            port: match bus.waits() {
                Waits::Never => Port::Direct(Mutex::new(bus)),
                Waits::Usually | Waits::Always => Port::Thread(BusThread::spawn(bus)?),
            },
        })))
    }
}

impl Device for I2c {
    type Worker = I2cWorker;

    fn spec(&self) -> Spec {
        Spec {
            features: VIRTIO_I2C_F_ZERO_LENGTH_REQUEST,
            poll: POLL,
            ..Spec::new("i2c", VIRTIO_ID_I2C_ADAPTER, 1)
        }
    }

    fn command(&self, name: &str, request: CommandRequest<'_>) -> anyhow::Result<Value> {
        let Port::Direct(bus) = &self.0.port else {
            anyhow::bail!("the bus is not a simulated one that never waits");
        };
        match name {
            "transfer" => {
                control::transfer(&mut **bus.lock().unwrap_or_else(PoisonError::into_inner), request)
            }
            other => anyhow::bail!("{other}: not a command of this device"),
        }
    }

    fn start(&self, start: &Start<'_>) -> io::Result<I2cWorker> {
        Ok(I2cWorker {
            adapter: self.0.clone(),
            accepted: start.features & VIRTIO_I2C_F_ZERO_LENGTH_REQUEST != 0,
            group: Group::default(),
            fail_next: false,
            popped: 0,
            waiting: None,
            rest: None,
        })
    }
}

/// Why a request does not reach the bus.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the driver has not taken VIRTIO_I2C_F_ZERO_LENGTH_REQUEST, which it must")]
    Driver,
    #[error("a request without a whole header")]
    Header,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the guest may not talk to {0}")]
    Forbidden(Address),
    #[error("{0}: a message of {1} bytes is too long")]
    TooLong(Address, usize),
    #[error("a group of more than {0} requests")]
    Group(usize),
}

/// The data path of an I2C adapter.
pub struct I2cWorker {
    adapter: Arc<Adapter>,
    /// The driver is one that may be served.
    accepted: bool,
    /// Empty between calls, unless it is on the thread of the bus or not whole.
    group: Group,
    /// The last request failed, and the next one is of its group.
    fail_next: bool,
    /// Requests that were popped in this call.
    popped: usize,
    /// The timer of the group that is on the thread of the bus.
    waiting: Option<Token>,
    /// The timer of a group that is not whole: at its end what is there is done.
    rest: Option<Token>,
}

impl Worker for I2cWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        self.popped = 0;
        while self.waiting.is_none() && self.gather(cx, q) {
            self.transfer(cx);
        }
        if self.waiting.is_none() && self.popped >= TURN {
            cx.waker().wake();
        }
    }

    fn event(&mut self, cx: &mut Cx<'_>, token: Token, _ready: Ready) {
        if let (Some(timer), Port::Thread(thread)) = (self.waiting, &self.adapter.port) {
            if let Some((messages, result)) = thread.collect() {
                cx.cancel(timer);
                self.group.messages = messages;
                self.settle(result);
            } else if token == timer {
                thread.give_up();
                guest_warn!("{}: no answer in time", self.adapter.name);
                self.fail_next = self.group.answer(0);
            } else {
                return;
            }
            self.waiting = None;
        } else if self.rest == Some(token) {
            self.rest = None;
            self.transfer(cx);
        }
        self.queue(cx, REQUESTQ);
    }

    /// A group that is on the bus is answered when it comes back, or when its time is over: to give it back would be to do
    /// it twice.
    fn stop(&mut self, cx: &mut Cx<'_>, _q: usize) {
        if self.waiting.is_none() {
            self.stop_waiting_for_rest(cx);
            self.group.give_back(cx);
        }
    }
}

impl I2cWorker {
    /// Gathers the next group, and answers all that is not to reach the bus. False if there is none, or not all of it.
    fn gather(&mut self, cx: &mut Cx<'_>, q: usize) -> bool {
        while (self.popped < TURN || !self.group.is_empty())
            && let Some(mut chain) = cx.pop(q)
        {
            self.popped = self.popped.saturating_add(1);
            let mut header = [0; OUT_HDR_LEN];
            let header = chain
                .reader()
                .read_exact(&mut header)
                .map(|()| Header::parse(header));
            let open = header.as_ref().is_ok_and(|header| header.fail_next());
            if self.fail_next {
                group::fail(chain);
                self.fail_next = open;
                continue;
            }
            match header
                .map_err(|_short| Refusal::Header)
                .and_then(|header| self.admit(header, &chain))
            {
                Ok(request) => {
                    self.group.push(chain, request, open);
                    if !open {
                        self.stop_waiting_for_rest(cx);
                        return true;
                    }
                }
                Err(refusal) => {
                    guest_warn!("{}: {refusal}", self.adapter.name);
                    self.stop_waiting_for_rest(cx);
                    self.group.answer(0);
                    group::fail(chain);
                    self.fail_next = open;
                }
            }
        }
        if !self.group.is_empty() && self.rest.is_none() {
            self.rest = Some(cx.timer(REST));
        }
        false
    }

    fn stop_waiting_for_rest(&mut self, cx: &mut Cx<'_>) {
        if let Some(timer) = self.rest.take() {
            cx.cancel(timer);
        }
    }

    /// What a request asks of the bus, if it may.
    fn admit(&self, header: Header, chain: &Chain) -> Result<Request, Refusal> {
        if !self.accepted {
            return Err(Refusal::Driver);
        }
        let request = header.request(chain.readable_len(), chain.writable_len())?;
        let Request { address, len, .. } = request;
        if !self.adapter.allowed.allows(address) {
            return Err(Refusal::Forbidden(address));
        }
        if len > self.adapter.limits.max_message {
            return Err(Refusal::TooLong(address, len));
        }
        if self.group.len() >= self.adapter.max_group {
            return Err(Refusal::Group(self.adapter.max_group));
        }
        Ok(request)
    }

    /// Brings the group to the bus.
    fn transfer(&mut self, cx: &mut Cx<'_>) {
        match &self.adapter.port {
            Port::Direct(bus) => {
                let mut bus = bus.lock().unwrap_or_else(PoisonError::into_inner);
                let result = bus.transfer(&mut self.group.messages);
                drop(bus);
                self.settle(result);
            }
            Port::Thread(thread) => {
                let expected = on_the_wire(self.group.len(), self.group.bytes());
                if let Some(result) = thread.at_once(&mut self.group.messages, expected) {
                    return self.settle(result);
                }
                let patience = self.adapter.limits.patience(expected);
                match thread.start(std::mem::take(&mut self.group.messages), expected, cx.waker()) {
                    Ok(()) => self.waiting = Some(cx.timer(patience)),
                    Err(messages) => {
                        guest_warn!("{}: still no answer to an earlier request", self.adapter.name);
                        self.group.messages = messages;
                        self.fail_next = self.group.answer(0);
                    }
                }
            }
        }
    }

    /// Answers the group by how its transfer ended.
    fn settle(&mut self, result: Result<(), Failure>) {
        let done = match result {
            Ok(()) => self.group.len(),
            Err(Failure { done, error }) => {
                // Nobody there is an answer like any other: drivers look for devices that way.
                if error.kind() == ErrorKind::NotFound {
                    log::debug!("{error}");
                } else {
                    guest_warn!("{error}");
                }
                done.min(self.group.len().saturating_sub(1))
            }
        };
        self.fail_next = self.group.answer(done);
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, MAX_GROUP, MAX_WAIT, on_the_wire};
    use std::time::Duration;

    #[test]
    fn long_transfers_get_the_time_that_they_need_but_not_for_ever() {
        let limits = Limits {
            timeout: Duration::from_secs(1),
            max_message: 8192,
        };
        let patience = |messages, bytes| limits.patience(on_the_wire(messages, bytes));
        assert_eq!(patience(1, 0), Duration::from_micros(1_000_090));
        // A page of 8 KiB at 100 kHz takes three quarters of a second.
        let page = patience(1, 8192) - limits.timeout;
        assert!((700..800).contains(&page.as_millis()), "{page:?}");
        assert_eq!(patience(MAX_GROUP, MAX_GROUP * 8192), MAX_WAIT);
        assert_eq!(patience(usize::MAX, usize::MAX), MAX_WAIT);
    }
}
