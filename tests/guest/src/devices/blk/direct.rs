// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A disk without a file system and past the page cache.
//!
//! Options of most: `offset=BYTES` (0) and `bytes=BYTES` (to the end), multiples of the pattern's block; `seed=N` (1)
//! tells writes apart.

use super::pattern::{self, BLOCK};
use super::{Disk, tool};
use crate::task::Options;
use anyhow::{Context, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// Bytes of one system call.
const CHUNK: usize = 1 << 20;

/// Memory as the kernel needs it for I/O past the page cache.
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn new(len: usize) -> Self {
        let memory = vec![0; len + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }
}

/// Where on a disk, and the seed.
struct Place {
    range: Range<u64>,
    seed: u64,
}

impl Place {
    fn of(options: &Options, disk: &Disk) -> anyhow::Result<Self> {
        let offset: u64 = options.get("offset", 0)?;
        let bytes: u64 = options.get("bytes", disk.size()?.saturating_sub(offset))?;
        let block = BLOCK as u64;
        ensure!(
            offset.is_multiple_of(block) && bytes.is_multiple_of(block),
            "offset and bytes: multiples of {block}"
        );
        Ok(Self {
            range: offset..offset + bytes,
            seed: options.get("seed", 1)?,
        })
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Its parts of at most [`CHUNK`] bytes: offset and length.
    fn chunks(&self) -> impl Iterator<Item = (u64, usize)> + use<> {
        let end = self.range.end;
        let offsets = self.range.clone().step_by(CHUNK);
        offsets.map(move |at| {
            (
                at,
                usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK)),
            )
        })
    }

    fn result(&self, start: Instant) -> Value {
        json!({ "bytes": self.len(), "seconds": start.elapsed().as_secs_f64() })
    }
}

/// Writes the pattern and makes it durable.
pub(super) fn write(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let place = Place::of(options, &disk)?;
    let file = disk.open(true)?;
    let start = Instant::now();
    let mut buffer = Aligned::new(CHUNK);
    for (at, len) in place.chunks() {
        let data = &mut buffer.bytes()[..len];
        pattern::fill(data, at, place.seed);
        file.write_all_at(data, at)
            .with_context(|| format!("write at {at}"))?;
    }
    file.sync_data().context("flush")?;
    Ok(place.result(start))
}

/// Reads and checks the pattern, or zeroes with `seed=0`, or nothing with `any`.
pub(super) fn read(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let place = Place::of(options, &disk)?;
    let file = disk.open(false)?;
    let any = options.has("any");
    let start = Instant::now();
    let mut buffer = Aligned::new(CHUNK);
    for (at, len) in place.chunks() {
        let data = &mut buffer.bytes()[..len];
        file.read_exact_at(data, at)
            .with_context(|| format!("read at {at}"))?;
        if any {
            continue;
        }
        if place.seed == 0 {
            let mut blocks = data.chunks(BLOCK);
            if let Some(block) = blocks.find(|block| block.iter().any(|byte| *byte != 0)) {
                bail!("a block behind {at} is not zero but {}", pattern::describe(block));
            }
        } else if let Err(difference) = pattern::check(data, at, place.seed) {
            bail!("{difference}");
        }
    }
    Ok(place.result(start))
}

/// Writes zeroes without sending them; with `keep` the storage may not deallocate them.
pub(super) fn zero(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let place = Place::of(options, &disk)?;
    let how = if options.has("keep") {
        FallocateFlags::ZERO_RANGE
    } else {
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
    };
    let start = Instant::now();
    fallocate(disk.open(true)?, how, place.range.start, place.len()).context("write zeroes")?;
    Ok(place.result(start))
}

/// Discards.
pub(super) fn discard(options: &Options) -> anyhow::Result<Value> {
    blkdiscard(options, &[])
}

/// Erases securely.
pub(super) fn erase(options: &Options) -> anyhow::Result<Value> {
    blkdiscard(options, &["-s"])
}

fn blkdiscard(options: &Options, how: &[&str]) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let place = Place::of(options, &disk)?;
    let (offset, bytes) = (place.range.start.to_string(), place.len().to_string());
    let node = disk.node().display().to_string();
    let start = Instant::now();
    tool(
        "blkdiscard",
        &[how, &["-o", &offset, "-l", &bytes, &node]].concat(),
    )?;
    Ok(place.result(start))
}

/// Reads `reads=N` (64) blocks on each CPU in turn: the block layer has a queue for each, where the disk has as many.
pub(super) fn use_queues(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let reads: u64 = options.get("reads", 64)?;
    let file = disk.open(false)?;
    let mut buffer = Aligned::new(BLOCK);
    let cpus = std::thread::available_parallelism()?.get();
    for cpu in 0..cpus {
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only).with_context(|| format!("CPU {cpu}"))?;
        for i in 0..reads {
            file.read_exact_at(buffer.bytes(), i * BLOCK as u64)?;
        }
    }
    Ok(json!({ "cpus": cpus, "reads": reads }))
}
