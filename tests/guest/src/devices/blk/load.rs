// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writers that verify without an end: what a disk must get right while daemons die and machines move.
//!
//! Each of `threads=N` (8) has a part of the first `bytes=N` (16 MiB) of the disk for itself. It writes blocks at
//! random places, one to sixteen at once, and reads others and checks them: it knows each block's last write. A word
//! `stop` on the console ends it, and then every block is read once more. The event `load` says now and then how far
//! it is.

use super::Disk;
use super::direct::Aligned;
use super::pattern::{self, BLOCK, splitmix64};
use crate::report;
use crate::task::Options;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most blocks of one request.
const MOST: usize = 16;
/// How often it says how far it is.
const PERIOD: Duration = Duration::from_millis(100);
/// How many requests there are between two flushes of a writer.
const FLUSH: u64 = 32;

/// What the writers have done together.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    writes: AtomicU64,
    reads: AtomicU64,
    flushes: AtomicU64,
    mismatches: AtomicU64,
    errors: AtomicU64,
    /// The longest that one request has taken.
    longest_ms: AtomicU64,
    /// The first thing that went wrong, in words.
    first: Mutex<Option<String>>,
}

impl Tally {
    fn wrong(&self, counter: &AtomicU64, what: String) {
        counter.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut first) = self.first.lock() {
            first.get_or_insert(what);
        }
    }

    fn to_json(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "writes": count(&self.writes), "reads": count(&self.reads), "flushes": count(&self.flushes),
            "mismatches": count(&self.mismatches), "errors": count(&self.errors),
            "longest_ms": count(&self.longest_ms),
            "first": self.first.lock().ok().and_then(|first| first.clone()),
        })
    }
}

/// Runs them until they are stopped.
pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let threads: u64 = options.get("threads", 8)?;
    let bytes: u64 = options.get("bytes", 16 << 20)?;
    let blocks = usize::try_from(bytes / threads)? / BLOCK;
    ensure!(blocks >= MOST, "bytes={bytes}: too few for {threads} writers");
    let writers = (0..threads).map(|number| Writer::new(&disk, number, blocks));
    let writers = writers.collect::<anyhow::Result<Vec<_>>>()?;
    let tally = Tally::default();
    std::thread::scope(|scope| {
        let writers: Vec<_> = writers
            .into_iter()
            .map(|writer| scope.spawn(|| writer.run(&tally)))
            .collect();
        let listener = scope.spawn(|| wait_for_stop(&tally));
        while !listener.is_finished() {
            report::event("load", tally.to_json());
            std::thread::sleep(PERIOD);
        }
        for writer in writers {
            ensure!(writer.join().is_ok(), "a writer panicked");
        }
        Ok(tally.to_json())
    })
}

/// Ends the load at the word, and also when the console closes.
fn wait_for_stop(tally: &Tally) {
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let _ = lines.find(|line| line.trim() == "stop");
    tally.stop.store(true, Ordering::Relaxed);
}

/// One writer and what it knows of its part of the disk.
struct Writer {
    disk: File,
    start: u64,
    /// The last write of each block: none before the first, and none after one that failed.
    written: Vec<Option<u64>>,
    sequence: u64,
    buffer: Aligned,
}

impl Writer {
    fn new(disk: &Disk, number: u64, blocks: usize) -> anyhow::Result<Self> {
        Ok(Self {
            disk: disk.open(true).context("load")?,
            start: number * (blocks * BLOCK) as u64,
            written: vec![None; blocks],
            sequence: 0,
            buffer: Aligned::new(MOST * BLOCK),
        })
    }

    fn run(mut self, tally: &Tally) {
        let mut random = splitmix64(self.start + 1);
        while !tally.stop.load(Ordering::Relaxed) {
            random = splitmix64(random);
            let [first, count, what, ..] = random.to_le_bytes().map(usize::from);
            let first = (first << 8 | count) % (self.written.len() - MOST + 1);
            let count = count % MOST + 1;
            if what % 2 == 0 {
                self.write(first, count, tally);
            } else {
                self.verify(first, count, tally);
            }
            if self.sequence.is_multiple_of(FLUSH) {
                self.flush(tally);
            }
        }
        for first in (0..self.written.len()).step_by(MOST) {
            self.verify(first, MOST.min(self.written.len() - first), tally);
        }
    }

    fn offset(&self, block: usize) -> u64 {
        self.start + (block * BLOCK) as u64
    }

    fn write(&mut self, first: usize, count: usize, tally: &Tally) {
        self.sequence += 1;
        let (at, sequence) = (self.offset(first), self.sequence);
        let data = &mut self.buffer.bytes()[..count * BLOCK];
        pattern::fill(data, at, sequence);
        let outcome = timed(tally, || self.disk.write_all_at(data, at));
        if let Err(error) = &outcome {
            tally.wrong(&tally.errors, format!("write at {at}: {error}"));
        }
        self.written[first..][..count].fill(outcome.ok().map(|()| sequence));
        tally.writes.fetch_add(1, Ordering::Relaxed);
    }

    fn verify(&mut self, first: usize, count: usize, tally: &Tally) {
        let at = self.offset(first);
        let data = &mut self.buffer.bytes()[..count * BLOCK];
        if let Err(error) = timed(tally, || self.disk.read_exact_at(data, at)) {
            tally.wrong(&tally.errors, format!("read at {at}: {error}"));
            return;
        }
        let blocks = data.chunks(BLOCK).zip((at..).step_by(BLOCK));
        for ((block, at), written) in blocks.zip(&self.written[first..]) {
            let Some(sequence) = written else { continue };
            if let Err(difference) = pattern::check(block, at, *sequence) {
                tally.wrong(&tally.mismatches, difference);
            }
        }
        tally.reads.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&mut self, tally: &Tally) {
        self.sequence += 1;
        if let Err(error) = timed(tally, || self.disk.sync_data()) {
            tally.wrong(&tally.errors, format!("flush: {error}"));
        }
        tally.flushes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Does it, and notes how long it took.
fn timed<T>(tally: &Tally, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let outcome = act();
    let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    tally.longest_ms.fetch_max(took, Ordering::Relaxed);
    outcome
}
