// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What tests of every kind of storage share: a [`Driver`] of one engine, and [`exercise`], which any [`Disk`]
//! has to pass.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vu_common::Segments;
use vu_storage::{Completion, Disk, Engine, Op, Request};

/// Longest wait for what has to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Says that `test` did not run, and counts it.
pub(crate) fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let line = format!("SKIP {test}: {reason}");
    eprintln!("{line}");
    if let Some(log) = std::env::var_os("VU_SKIP_LOG") {
        let mut log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        writeln!(log, "{line}").unwrap();
    }
}

/// Numbers that look random and are the same each time (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.number() as u8).collect()
    }
}

/// `bytes` in memory of our own, in 1 to 5 pieces with gaps between them, each a multiple of `grain` long and
/// as far off alignment as `shift`.
pub(crate) fn scattered(random: &mut Random, bytes: &[u8], grain: usize, shift: usize) -> Segments {
    let mut cuts = vec![0, bytes.len() / grain];
    for _ in 0..random.below(5) {
        cuts.push(random.below((bytes.len() / grain) as u64 + 1) as usize);
    }
    cuts.sort_unstable();
    let mut at = shift;
    let mut ranges = Vec::new();
    for cut in cuts.windows(2) {
        let len = (cut[1] - cut[0]) * grain;
        ranges.push(at..at + len);
        at += len + 4096;
    }
    let segments = Segments::of_ranges(vec![0; at], &ranges);
    assert_eq!(segments.copy_from(0, bytes), bytes.len());
    segments
}

/// The bytes of `segments`.
pub(crate) fn bytes_of(segments: &Segments) -> Vec<u8> {
    let mut bytes = vec![0; segments.len()];
    segments.copy_to(0, &mut bytes);
    bytes
}

/// A request with its memory.
pub(crate) fn request(id: u32, op: Op, offset: u64, data: Segments) -> Request {
    let len = data.len() as u64;
    Request {
        id,
        op,
        offset,
        len,
        data,
    }
}

/// A request on a range, without memory.
pub(crate) fn on_range(id: u32, op: Op, offset: u64, len: u64) -> Request {
    Request {
        id,
        op,
        offset,
        len,
        data: Segments::default(),
    }
}

/// One engine and the loop around it.
pub(crate) struct Driver {
    engine: Box<dyn Engine>,
    done: Vec<Completion>,
}

impl Driver {
    /// An engine of `disk` for `depth` requests.
    pub(crate) fn new(disk: &dyn Disk, depth: usize) -> Self {
        Self {
            engine: disk.engine(depth).unwrap(),
            done: Vec::new(),
        }
    }

    /// Hands a request over, without starting it.
    pub(crate) fn submit(&mut self, request: Request) {
        self.engine.submit(request);
    }

    /// Starts what was handed over and waits for `count` completions in all. Waits on the descriptor only,
    /// so that an engine which does not make it readable is caught.
    pub(crate) fn wait(&mut self, count: usize) -> Vec<Completion> {
        self.engine.commit();
        self.engine.reap(&mut self.done);
        let end = Instant::now() + DEADLINE;
        while self.done.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            let fd = self
                .engine
                .fd()
                .expect("what has no descriptor is done within commit");
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            let ready = match poll(&mut fds, Some(&Timespec::try_from(left).unwrap())) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.unwrap(),
            };
            assert!(ready > 0, "{} of {count} completions", self.done.len());
            self.engine.reap(&mut self.done);
        }
        self.engine.commit();
        assert_eq!(self.done.len(), count, "more completions than requests");
        std::mem::take(&mut self.done)
    }

    /// Carries out one request.
    pub(crate) fn run(&mut self, request: Request) -> (io::Result<()>, Segments) {
        let id = request.id;
        self.submit(request);
        let done = self.wait(1).pop().expect("one");
        assert_eq!(done.id, id);
        (done.result, done.data)
    }

    /// Reads `len` bytes.
    pub(crate) fn read(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let (result, data) = self.run(request(1, Op::Read, offset, Segments::from(vec![0xa5; len])));
        result.map(|()| bytes_of(&data))
    }

    /// Writes `bytes`.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let op = Op::Write { durable: false };
        self.run(request(2, op, offset, Segments::from(bytes.to_vec()))).0
    }

    /// Carries out an operation on a range.
    pub(crate) fn range(&mut self, op: Op, offset: u64, len: u64) -> io::Result<()> {
        self.run(on_range(3, op, offset, len)).0
    }
}

/// What the disk should hold: `None` where that is undefined (discarded).
struct Model {
    bytes: Vec<Option<u8>>,
    block: usize,
}

impl Model {
    fn check(&self, offset: u64, got: &[u8]) {
        let want = &self.bytes[offset as usize..][..got.len()];
        if let Some(at) = want
            .iter()
            .zip(got)
            .position(|(want, got)| want.is_some_and(|want| want != *got))
        {
            panic!(
                "byte {} is {:#x}, not {:?}",
                offset + at as u64,
                got[at],
                want[at]
            );
        }
    }

    fn set(&mut self, offset: u64, bytes: impl Iterator<Item = Option<u8>>) {
        for (slot, byte) in self.bytes[offset as usize..].iter_mut().zip(bytes) {
            *slot = byte;
        }
    }
}

/// What any disk that can be written has to pass, whatever it held before. At least 1 MiB large.
///
/// Batches of requests that do not touch each other, of all operations it has, in memory of all shapes,
/// against a model; then all of it is read back through another engine.
pub(crate) fn exercise(disk: &dyn Disk, seed: u64) {
    let limits = disk.limits();
    let block = limits.logical_block as usize;
    let capacity = disk.capacity();
    assert_eq!(capacity % block as u64, 0);
    assert_eq!(disk.refresh().unwrap(), capacity);
    // The disk's first and last half MiB, and nothing between them.
    let half = (512 << 10) / block as u64;
    let blocks = capacity / block as u64;
    assert!(blocks >= 2 * half, "too small for this: {capacity}");
    for base in [0, blocks - half] {
        let base = base * block as u64;
        exercise_part(disk, base, (half as usize) * block, &mut Random(seed ^ base));
    }
}

fn exercise_part(disk: &dyn Disk, base: u64, size: usize, random: &mut Random) {
    const DEPTH: usize = 16;
    let block = disk.limits().logical_block as usize;
    let mut driver = Driver::new(disk, DEPTH);
    let mut model = Model {
        bytes: vec![None; size],
        block,
    };
    let first = random.bytes(size);
    driver.write(base, &first).unwrap();
    model.set(0, first.into_iter().map(Some));
    for round in 0..60 {
        batch(disk, &mut driver, &mut model, base, random, DEPTH);
        if round % 20 == 19 {
            driver.range(Op::Flush, 0, 0).unwrap();
        }
    }
    drop(driver);
    let all = Driver::new(disk, 1).read(base, size).unwrap();
    model.check(0, &all);
}

/// One batch: the part is divided into as many stripes as there are requests, so that they do not overlap.
fn batch(
    disk: &dyn Disk,
    driver: &mut Driver,
    model: &mut Model,
    base: u64,
    random: &mut Random,
    depth: usize,
) {
    let block = model.block;
    let stripe = model.bytes.len() / block / depth;
    let mut reads = HashMap::new();
    let first_id = random.number() as u32;
    for i in 0..depth {
        let start = random.below(stripe as u64) as usize;
        let len = 1 + random.below((stripe - start) as u64) as usize;
        let (offset, len) = (((i * stripe + start) * block) as u64, len * block);
        let id = first_id.wrapping_add(i as u32 * 7919);
        let (grain, shift) = match random.below(3) {
            0 => (block, 0),
            1 => (block, 8),
            _ => (1, random.below(64) as usize),
        };
        let next = match random.below(8) {
            0..3 => {
                reads.insert(id, offset);
                let data = scattered(random, &vec![0x5a; len], grain, shift);
                request(id, Op::Read, base + offset, data)
            }
            choice @ 3..6 => {
                let bytes = random.bytes(len);
                model.set(offset, bytes.iter().copied().map(Some));
                let op = Op::Write { durable: choice == 5 };
                request(id, op, base + offset, scattered(random, &bytes, grain, shift))
            }
            6 if disk.limits().discard.is_some() => {
                model.set(offset, (0..len).map(|_| None));
                on_range(id, Op::Discard, base + offset, len as u64)
            }
            _ => {
                model.set(offset, (0..len).map(|_| Some(0)));
                let (unmap, durable) = (random.below(2) == 1, random.below(4) == 0);
                on_range(id, Op::WriteZeroes { unmap, durable }, base + offset, len as u64)
            }
        };
        driver.submit(next);
    }
    let done = driver.wait(depth);
    let mut ids: Vec<_> = done.iter().map(|done| done.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), depth, "a request completed twice");
    for done in done {
        done.result
            .unwrap_or_else(|error| panic!("{:#x}: {error}", done.id));
        if let Some(offset) = reads.remove(&done.id) {
            model.check(offset, &bytes_of(&done.data));
        }
    }
    assert!(reads.is_empty(), "a read has not completed under its id");
}
