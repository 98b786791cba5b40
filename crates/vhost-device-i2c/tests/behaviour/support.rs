// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests, requests, and a bus that records what reaches it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vhost_device_i2c::backend::{Address, Bus, Direction, Failure, Message, Waits};
use vhost_device_i2c::{AllowList, I2c, Limits};
use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::i2c::{HEADER, i2c, status};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options};
use vu_testkit::spawn::{Daemon, Launch};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-i2c");
/// Generous: it only bounds how long a failing test takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// The driver of Linux gives the header, the data and the status a descriptor each.
pub(crate) const LINUX: Framing = Framing::Fields(HEADER, 1);

pub(crate) fn daemon(args: &[&str]) -> Daemon {
    Daemon::spawn(&Launch::ours(PROGRAM, args)).unwrap()
}

pub(crate) fn options() -> Options {
    Options {
        deadline: DEADLINE,
        ..Options::default()
    }
}

pub(crate) fn guest(socket: &Path) -> Guest {
    let front = FrontEnd::connect(socket, DEADLINE).unwrap();
    Guest::boot(front, &i2c(), &options()).unwrap()
}

/// A request for a device with an address of ten bits.
pub(crate) fn ten_bits(mut request: Request, address: u16) -> Request {
    let [low, high] = address.to_le_bytes();
    request.readable[0] = 0b1111_0000 | high << 1;
    request.readable[1] = low;
    request
}

/// Makes all `requests` available at once, and gives the status of each and what it read.
///
/// The answers have to come in the order of the requests.
pub(crate) fn ask(lane: &mut Lane, requests: &[Request]) -> Vec<(u8, Vec<u8>)> {
    ask_placed(lane, requests, Placement::Direct)
}

pub(crate) fn ask_placed(lane: &mut Lane, requests: &[Request], placement: Placement) -> Vec<(u8, Vec<u8>)> {
    let pending: Vec<_> = requests
        .iter()
        .map(|request| lane.place(request.clone(), LINUX, placement))
        .collect();
    lane.queue.submit();
    let answer = |pending: vu_testkit::guest::Pending| {
        let used = lane.queue.wait(lane.end()).unwrap();
        let answer = lane.answer(&pending);
        assert_eq!(used.id, u32::from(pending.head));
        assert_eq!(used.len as usize, answer.len());
        let (status, data) = answer.split_last().unwrap();
        (*status, data.to_vec())
    };
    pending.into_iter().map(answer).collect()
}

/// The status of each request.
pub(crate) fn statuses(lane: &mut Lane, requests: &[Request]) -> Vec<u8> {
    ask(lane, requests)
        .into_iter()
        .map(|(status, _)| status)
        .collect()
}

pub(crate) const OK: u8 = status::OK;
pub(crate) const ERR: u8 = status::ERR;

/// A message as the bus saw it: whom it was for, which way, how many bytes, and those that were written. A buffer for a
/// read has none: it comes zeroed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) address: Address,
    pub(crate) direction: Direction,
    pub(crate) len: usize,
    pub(crate) written: Vec<u8>,
}

pub(crate) fn wrote(address: u8, bytes: &[u8]) -> Seen {
    Seen {
        address: Address::Seven(address),
        direction: Direction::Write,
        len: bytes.len(),
        written: bytes.to_vec(),
    }
}

pub(crate) fn got(address: u8, len: usize) -> Seen {
    Seen {
        address: Address::Seven(address),
        direction: Direction::Read,
        len,
        written: Vec::new(),
    }
}

/// What a [`Recorder`] shares with its test.
#[derive(Default)]
struct State {
    transfers: Vec<Vec<Seen>>,
    /// A transfer waits for as long as this is set.
    stuck: bool,
    /// Transfers that have begun.
    begun: usize,
}

/// A bus on which each read gives the number of its transfer, counted from 1. Nobody acknowledges 0x30.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    state: Arc<(Mutex<State>, Condvar)>,
    blocks: bool,
    pub(crate) max_messages: Option<usize>,
}

impl Recorder {
    /// A bus that says of itself whether it may block.
    pub(crate) fn new(blocks: bool) -> Self {
        Self {
            blocks,
            ..Self::default()
        }
    }

    /// What reached the bus since the last call.
    pub(crate) fn take(&self) -> Vec<Vec<Seen>> {
        std::mem::take(&mut self.state.0.lock().unwrap().transfers)
    }

    pub(crate) fn stick(&self, stuck: bool) {
        self.state.0.lock().unwrap().stuck = stuck;
        self.state.1.notify_all();
    }

    /// Waits until `count` transfers have begun since the bus was made.
    pub(crate) fn wait_begun(&self, count: usize) {
        let state = self.state.0.lock().unwrap();
        let few = |state: &mut State| state.begun < count;
        let (_state, timeout) = self.state.1.wait_timeout_while(state, DEADLINE, few).unwrap();
        assert!(!timeout.timed_out());
    }
}

impl Bus for Recorder {
    fn name(&self) -> String {
        "recorder".to_owned()
    }

    fn waits(&self) -> Waits {
        if self.blocks { Waits::Always } else { Waits::Never }
    }

    fn max_messages(&self) -> usize {
        self.max_messages.unwrap_or(usize::MAX)
    }

    fn transfer(&mut self, messages: &mut [Message]) -> Result<(), Failure> {
        let (state, changed) = &*self.state;
        let mut state = state.lock().unwrap();
        state.begun += 1;
        changed.notify_all();
        state = changed.wait_while(state, |state| state.stuck).unwrap();
        let number = state.begun as u8;
        let mut seen = Vec::new();
        let mut result = Ok(());
        for (done, message) in messages.iter_mut().enumerate() {
            let written = match message.direction {
                Direction::Read => message.data.iter().copied().filter(|byte| *byte != 0).collect(),
                Direction::Write => message.data.clone(),
            };
            seen.push(Seen {
                address: message.address,
                direction: message.direction,
                len: message.data.len(),
                written,
            });
            if message.address == Address::Seven(0x30) {
                let error = io::Error::other("nobody is there");
                result = Err(Failure { done, error });
                break;
            }
            if message.direction == Direction::Read {
                message.data.fill(number);
            }
        }
        state.transfers.push(seen);
        result
    }
}

pub(crate) const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(20),
    max_message: 8192,
};

/// A device of this process on `bus`.
pub(crate) fn device(bus: &Recorder, allowed: &str, limits: Limits) -> Arc<I2c> {
    let allowed = if allowed.is_empty() {
        AllowList::all()
    } else {
        allowed.parse().unwrap()
    };
    Arc::new(I2c::new(Box::new(bus.clone()), allowed, limits).unwrap())
}

/// A connection to `device`.
pub(crate) fn connect(device: &Arc<I2c>) -> FrontEnd {
    let (ours, its) = UnixStream::pair().unwrap();
    let device = device.clone();
    std::thread::spawn(move || vu_common::serve_stream(its, &device).unwrap());
    FrontEnd::from_stream(ours, DEADLINE).unwrap()
}

/// A guest of a device with `allowed` addresses on `bus`.
pub(crate) fn guest_on(bus: &Recorder, allowed: &str) -> Guest {
    boot(&device(bus, allowed, LIMITS), &options())
}

pub(crate) fn boot(device: &Arc<I2c>, options: &Options) -> Guest {
    Guest::boot(connect(device), &i2c(), options).unwrap()
}
