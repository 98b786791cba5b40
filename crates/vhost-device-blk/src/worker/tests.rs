// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path between a driver and a storage that does only what the test says, and writes down what it was told.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use vu_common::{Device, serve_stream};
use vu_storage::{Completion, Disk, Engine, Limits, Op, Range, Request};
use vu_testkit::chains::{self, Framing, Placement};
use vu_testkit::devices::blk::{self, header, segment};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options};

use crate::bucket::Rate;
use crate::config::{Cache, Config};
use crate::device::{Blk, MAX_DEPTH, Service};
use crate::spec::{feature, kind, status};

/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);
const CAPACITY: u64 = 1 << 30;

/// A disk whose requests complete when the test says so.
#[derive(Default)]
struct Puppet {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Default)]
struct Stage {
    capacity: u64,
    engines: Vec<Held>,
    /// Requests that were submitted, in that order.
    seen: Vec<(Op, u64, u64)>,
    most: usize,
    /// Offsets of the writes that completed, those that were when each flush in flight was submitted, and those that
    /// a flush made durable.
    completed: BTreeSet<u64>,
    covered: HashMap<(usize, u32), BTreeSet<u64>>,
    durable: BTreeSet<u64>,
}

/// What one engine holds.
struct Held {
    event: Arc<OwnedFd>,
    requests: Vec<Request>,
    done: Vec<Completion>,
}

struct Strings {
    puppet: Arc<Puppet>,
    index: usize,
    event: Arc<OwnedFd>,
    staged: Vec<Request>,
}

/// What the device gets of it.
struct Shown(Arc<Puppet>);

impl Puppet {
    fn new() -> Arc<Self> {
        let puppet = Self::default();
        puppet.stage.lock().unwrap().capacity = CAPACITY;
        Arc::new(puppet)
    }

    /// Waits until `count` requests are in flight.
    fn wait_for(&self, count: usize) {
        let end = Instant::now() + DEADLINE;
        let mut stage = self.stage.lock().unwrap();
        while stage.in_flight() != count {
            assert!(
                Instant::now() < end,
                "{} in flight instead of {count}",
                stage.in_flight()
            );
            stage = self
                .changed
                .wait_timeout(stage, Duration::from_millis(100))
                .unwrap()
                .0;
        }
    }

    /// Completes one of those in flight, chosen by `number`; false if there is none.
    fn complete(&self, number: usize, result: io::Result<()>) -> bool {
        let mut stage = self.stage.lock().unwrap();
        let total = stage.in_flight();
        if total == 0 {
            return false;
        }
        let mut number = number % total;
        let index = stage.engines.iter().position(|engine| {
            let here = number < engine.requests.len();
            if !here {
                number -= engine.requests.len();
            }
            here
        });
        let index = index.unwrap();
        let request = stage.engines[index].requests.swap_remove(number);
        match request.op {
            Op::Write { .. } => {
                stage.completed.insert(request.offset);
            }
            Op::Flush => {
                let covered = stage.covered.remove(&(index, request.id)).unwrap();
                stage.durable.extend(covered);
            }
            _ => {}
        }
        let engine = &mut stage.engines[index];
        engine.done.push(Completion {
            id: request.id,
            data: request.data,
            result,
        });
        rustix::io::write(&engine.event, &1_u64.to_ne_bytes()).unwrap();
        true
    }

    fn seen(&self) -> Vec<(Op, u64, u64)> {
        std::mem::take(&mut self.stage.lock().unwrap().seen)
    }
}

impl Stage {
    fn in_flight(&self) -> usize {
        self.engines.iter().map(|engine| engine.requests.len()).sum()
    }
}

impl Disk for Shown {
    fn limits(&self) -> Limits {
        let range = Some(Range {
            max_len: 1 << 20,
            alignment: 512,
        });
        Limits {
            read_only: false,
            logical_block: 512,
            physical_block: 512,
            minimum_io: 0,
            optimal_io: 0,
            rotational: None,
            discard: range,
            write_zeroes: range,
            secure_erase: None,
        }
    }

    fn capacity(&self) -> u64 {
        self.0.stage.lock().unwrap().capacity
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.capacity())
    }

    fn engine(&self, _depth: usize) -> io::Result<Box<dyn Engine>> {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut stage = self.0.stage.lock().unwrap();
        stage.engines.push(Held {
            event: event.clone(),
            requests: Vec::new(),
            done: Vec::new(),
        });
        Ok(Box::new(Strings {
            puppet: self.0.clone(),
            index: stage.engines.len() - 1,
            event,
            staged: Vec::new(),
        }))
    }
}

impl Engine for Strings {
    fn submit(&mut self, request: Request) {
        let mut stage = self.puppet.stage.lock().unwrap();
        stage.seen.push((request.op, request.offset, request.len));
        if request.op == Op::Flush {
            let covered = stage.completed.clone();
            stage.covered.insert((self.index, request.id), covered);
        }
        self.staged.push(request);
    }

    fn commit(&mut self) {
        let mut stage = self.puppet.stage.lock().unwrap();
        stage.engines[self.index].requests.append(&mut self.staged);
        stage.most = stage.most.max(stage.in_flight());
        self.puppet.changed.notify_all();
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.event, &mut count);
        done.append(&mut self.puppet.stage.lock().unwrap().engines[self.index].done);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }
}

fn device(puppet: &Arc<Puppet>, threads: u16) -> Arc<Blk> {
    limited(puppet, threads, None)
}

/// A device that takes so many requests per second.
fn limited(puppet: &Arc<Puppet>, threads: u16, iops: Option<NonZeroU64>) -> Arc<Blk> {
    let disk = Arc::new(Shown(puppet.clone()));
    let config = Config {
        limits: disk.limits(),
        cache: Cache::Writeback,
        queues: 2,
        queue_size: 1024,
        lifetime: false,
    };
    let service = Service {
        name: "puppet".into(),
        serial: *b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        threads,
        cpus: Vec::new(),
        poll: Duration::ZERO,
        rate: Rate {
            iops,
            bps: None,
            burst: Duration::ZERO,
        },
    };
    Arc::new(Blk::new(disk, config, service))
}

fn connect(device: &Arc<Blk>, without: u64, size: u16) -> Guest {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = device.clone();
    thread::spawn(move || serve_stream(theirs, &device).unwrap());
    let front = FrontEnd::from_stream(ours, DEADLINE).unwrap();
    let profile = Without(blk::blk(), without);
    let options = Options {
        size,
        deadline: DEADLINE,
        ..Options::default()
    };
    Guest::boot(front, &profile, &options).unwrap()
}

/// The block device, for a driver that does not know some features.
#[derive(Debug)]
struct Without(blk::Blk, u64);

impl vu_testkit::devices::Profile for Without {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn virtio_id(&self) -> u32 {
        self.0.virtio_id()
    }
    fn queues(&self) -> u16 {
        self.0.queues()
    }
    fn features(&self) -> u64 {
        self.0.features() & !self.1
    }
    fn request(&self, number: u64, size: usize) -> chains::Request {
        self.0.request(number, size)
    }
    fn check(&self, request: &chains::Request, used: u32, answer: &[u8]) -> Result<(), String> {
        self.0.check(request, used, answer)
    }
}

fn request(readable: Vec<u8>) -> chains::Request {
    chains::Request {
        readable,
        writable: 1,
    }
}

fn write(sector: u64) -> chains::Request {
    request([header(kind::OUT, sector), vec![0; 512]].concat())
}

fn flush() -> chains::Request {
    request(header(kind::FLUSH, 0))
}

/// Submits a request of which only the status is written, and returns where that will be.
fn submit(lane: &mut Lane, request: &chains::Request) -> u64 {
    let readable = lane.allocate(request.readable.len() as u64, 1);
    lane.memory.write(readable, &request.readable);
    let place = lane.allocate(1, 1);
    lane.memory.write(place, &[0xff]);
    let len = request.readable.len() as u32;
    let descriptors = [
        chains::Descriptor::readable(readable, len),
        chains::Descriptor::writable(place, 1),
    ];
    lane.queue.add(&descriptors, Some(1));
    lane.queue.submit();
    place
}

/// Waits for the next answer, and returns the status at `place`.
fn answer(lane: &mut Lane, place: u64) -> u8 {
    let used = lane.queue.wait(lane.end()).unwrap();
    assert_eq!(used.len, 1);
    let mut status = [0];
    lane.memory.read(place, &mut status);
    status[0]
}

/// An order without pattern.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % sides
    }
}

#[test]
fn a_flush_completes_only_after_all_acknowledged_writes_are_durable() {
    let puppet = Puppet::new();
    let mut guest = connect(&device(&puppet, 2), 0, 64);
    let mut dice = Dice(42);
    let mut acknowledged = BTreeSet::new();
    // What is on its way: for each virtqueue and head either a write or a flush, with what it has to cover.
    let mut writes = HashMap::new();
    let mut flushes = HashMap::new();
    let (mut sector, mut checked, mut end) = (0, 0, Instant::now() + DEADLINE);
    while checked < 500 {
        let queue = dice.roll(2);
        let lane = &mut guest.lanes[queue];
        if lane.queue.outstanding() < 16 {
            if dice.roll(4) == 0 {
                let pending = lane.place(flush(), Framing::Whole, Placement::Direct);
                flushes.insert((queue, pending.head), acknowledged.clone());
            } else {
                let pending = lane.place(write(sector), Framing::Whole, Placement::Direct);
                writes.insert((queue, pending.head), sector * 512);
                sector += 1;
            }
            lane.queue.submit();
        }
        for _ in 0..dice.roll(3) {
            puppet.complete(dice.roll(1000), Ok(()));
        }
        for (queue, lane) in guest.lanes.iter_mut().enumerate() {
            while let Some(used) = lane.queue.pop().unwrap() {
                let key = (queue, used.id as u16);
                let stage = puppet.stage.lock().unwrap();
                if let Some(offset) = writes.remove(&key) {
                    assert!(stage.completed.contains(&offset), "answered before it was done");
                    acknowledged.insert(offset);
                } else {
                    let covered: BTreeSet<u64> = flushes.remove(&key).unwrap();
                    let lost: Vec<_> = covered.difference(&stage.durable).collect();
                    assert!(lost.is_empty(), "{lost:?} are not durable after a flush");
                    checked += usize::from(!covered.is_empty());
                }
                end = Instant::now() + DEADLINE;
            }
        }
        assert!(Instant::now() < end, "nothing moves");
    }
    while puppet.complete(0, Ok(())) {}
}

#[test]
fn no_more_is_in_flight_than_an_engine_takes_and_nothing_is_left_behind() {
    let puppet = Puppet::new();
    let mut guest = connect(&device(&puppet, 1), 0, 1024);
    for lane in &mut guest.lanes {
        for _ in 0..1000 {
            lane.place(flush(), Framing::Whole, Placement::Indirect);
        }
        lane.queue.submit();
    }
    puppet.wait_for(MAX_DEPTH);
    let mut left = 2000;
    let end = Instant::now() + DEADLINE;
    while left > 0 {
        puppet.complete(left, Ok(()));
        for lane in &mut guest.lanes {
            while lane.queue.pop().unwrap().is_some() {
                left -= 1;
            }
        }
        assert!(Instant::now() < end, "{left} requests are not answered");
    }
    assert_eq!(puppet.stage.lock().unwrap().most, MAX_DEPTH);
}

#[test]
fn what_the_rate_holds_back_keeps_its_order() {
    let puppet = Puppet::new();
    let mut guest = connect(&limited(&puppet, 1, NonZeroU64::new(1000)), 0, 128);
    let lane = guest.lane();
    for sector in 0..40 {
        lane.place(write(sector), Framing::Whole, Placement::Indirect);
    }
    lane.queue.submit();
    puppet.wait_for(40);
    let sectors: Vec<_> = puppet.seen().iter().map(|(_, offset, _)| offset / 512).collect();
    assert_eq!(sectors, (0..40).collect::<Vec<_>>());
    while puppet.complete(0, Ok(())) {}
}

#[test]
fn segments_are_done_in_turn_until_one_fails() {
    let puppet = Puppet::new();
    let mut guest = connect(&device(&puppet, 1), 0, 64);
    let segments = [
        segment(0, 8, 1),
        segment(100, 0, 0),
        segment(16, 8, 0),
        segment(32, 8, 0),
    ]
    .concat();
    let zero = request([header(kind::WRITE_ZEROES, 0), segments.clone()].concat());
    let op = |unmap| Op::WriteZeroes {
        unmap,
        durable: false,
    };
    let place = submit(guest.lane(), &zero);
    for _ in 0..3 {
        puppet.wait_for(1);
        puppet.complete(0, Ok(()));
    }
    assert_eq!(answer(guest.lane(), place), status::OK);
    let all = [
        (op(true), 0, 4096),
        (op(false), 8192, 4096),
        (op(false), 16384, 4096),
    ];
    assert_eq!(puppet.seen(), all);

    let place = submit(guest.lane(), &zero);
    puppet.wait_for(1);
    puppet.complete(0, Ok(()));
    puppet.wait_for(1);
    puppet.complete(0, Err(io::Error::from_raw_os_error(28)));
    assert_eq!(answer(guest.lane(), place), status::IOERR);
    assert_eq!(puppet.seen(), all[..2]);

    let nothing = request([header(kind::DISCARD, 0), segment(0, 0, 0)].concat());
    let place = submit(guest.lane(), &nothing);
    assert_eq!(answer(guest.lane(), place), status::OK);
    // The slot of a request that failed starts anew.
    let place = submit(guest.lane(), &write(3));
    puppet.wait_for(1);
    puppet.complete(0, Ok(()));
    assert_eq!(answer(guest.lane(), place), status::OK);
    assert_eq!(puppet.seen(), [(Op::Write { durable: false }, 3 * 512, 512)]);
}

#[test]
fn each_error_of_the_storage_has_its_status() {
    let puppet = Puppet::new();
    let mut guest = connect(&device(&puppet, 1), 0, 64);
    for (error, expected) in [
        (io::Error::from_raw_os_error(5), status::IOERR),
        (io::Error::from_raw_os_error(28), status::IOERR),
        (ErrorKind::UnexpectedEof.into(), status::IOERR),
        (ErrorKind::Unsupported.into(), status::UNSUPP),
        (io::Error::from_raw_os_error(95), status::UNSUPP),
    ] {
        let place = submit(guest.lane(), &write(0));
        puppet.wait_for(1);
        puppet.complete(0, Err(error));
        assert_eq!(answer(guest.lane(), place), expected);
    }
}

#[test]
fn writes_are_durable_when_the_driver_counts_on_it() {
    let both = feature::FLUSH | feature::CONFIG_WCE;
    for (without, writeback, durable) in [
        (0, None, false),
        (0, Some(0), true),
        (0, Some(1), false),
        (both, None, true),
        (feature::CONFIG_WCE, None, false),
        // The device is to start with 0 then, and the driver may change that.
        (feature::FLUSH, None, true),
        (feature::FLUSH, Some(1), false),
    ] {
        let puppet = Puppet::new();
        let mut guest = connect(&device(&puppet, 1), without, 64);
        if let Some(byte) = writeback {
            guest.front.set_config(32, &[byte]).unwrap();
        }
        let zero = request([header(kind::WRITE_ZEROES, 0), segment(0, 1, 0)].concat());
        for request in [write(0), zero] {
            let place = submit(guest.lane(), &request);
            puppet.wait_for(1);
            puppet.complete(0, Ok(()));
            assert_eq!(answer(guest.lane(), place), status::OK);
        }
        let seen: Vec<_> = puppet.seen().into_iter().map(|(op, _, _)| op).collect();
        let zero = Op::WriteZeroes {
            unmap: false,
            durable,
        };
        assert_eq!(seen, [Op::Write { durable }, zero], "{without:#x} {writeback:?}");
    }
}

#[test]
fn the_byte_of_the_cache_mode_takes_two_values_and_outlives_a_reset() {
    let puppet = Puppet::new();
    let device = device(&puppet, 1);
    let byte = || {
        let mut byte = [0xff];
        device.read_config(32, &mut byte);
        byte[0]
    };
    assert_eq!(byte(), 1);
    assert!(device.write_config(32, &[0]).is_ok());
    device.reset();
    assert_eq!(byte(), 0);
    for (offset, bytes) in [(32, &[2][..]), (33, &[1]), (0, &[1; 32]), (32, &[]), (200, &[1])] {
        assert!(device.write_config(offset, bytes).is_err(), "{offset}");
        assert_eq!(byte(), 0);
    }
    // Some front ends write all that there is.
    let mut all = [0; 96];
    device.read_config(0, &mut all);
    all[32] = 1;
    assert!(device.write_config(0, &all).is_ok());
    assert_eq!(byte(), 1);
}

#[test]
fn the_driver_learns_of_a_new_capacity() {
    let puppet = Puppet::new();
    let device = device(&puppet, 1);
    let mut guest = connect(&device, 0, 64);
    let channel = guest.front.open_backend_channel(DEADLINE).unwrap();
    let capacity = |guest: &Guest| {
        let bytes = guest.front.get_config(0, 8).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap()) * 512
    };
    assert_eq!(capacity(&guest), CAPACITY);
    puppet.stage.lock().unwrap().capacity = 2 * CAPACITY;
    device.hang_up();
    device.hang_up();
    assert_eq!(channel.receive("a configuration change").unwrap().request, 2);
    assert_eq!(capacity(&guest), 2 * CAPACITY);
    // Found out by the storage itself, and told at the next request.
    puppet.stage.lock().unwrap().capacity = CAPACITY;
    let place = submit(guest.lane(), &request(header(kind::GET_ID, 0)));
    assert_eq!(answer(guest.lane(), place), status::OK);
    assert_eq!(channel.receive("a configuration change").unwrap().request, 2);
    assert_eq!(capacity(&guest), CAPACITY);
}
