// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an image costs over the file beneath it, where all clusters are known.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Random, skip};
use vu_common::Segments;
use vu_storage::{Disk, Op, Request, file, qcow2};

const SIZE: u64 = 64 << 20;
const DEPTH: u32 = 32;
const BATCHES: u32 = 2000;
const REPEATS: usize = 7;

/// Random reads of 4 KiB, 32 at once, in memory: prints the ratio, and fails if it is absurd. The bound leaves
/// room for builds without optimization and for noise; the cost in a release build is a tenth or so.
#[test]
fn reads_of_known_clusters_cost_little_more_than_of_the_file() {
    let test = "reads_of_known_clusters_cost_little_more_than_of_the_file";
    let memory = Path::new("/dev/shm");
    let image = Scratch(memory.join(format!("vu-storage-cost-{}", std::process::id())));
    let size = SIZE.to_string();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "preallocation=full"])
        .arg(&image.0)
        .arg(size)
        .status();
    if !memory.is_dir() || !made.is_ok_and(|status| status.success()) {
        return skip(test, "needs qemu-img (package qemu-utils) and /dev/shm");
    }
    let file = file::Options {
        path: image.0.clone(),
        read_only: true,
        ..file::Options::default()
    };
    let raw = file::open(&file).unwrap();
    let options = qcow2::Options {
        file,
        ..qcow2::Options::default()
    };
    let qcow2 = qcow2::open(&options).unwrap();
    // Interleaved, and the best of each: what disturbs them only adds.
    let (mut best_raw, mut best_qcow2) = (Duration::MAX, Duration::MAX);
    for _ in 0..REPEATS {
        best_raw = best_raw.min(time(&*raw));
        best_qcow2 = best_qcow2.min(time(&*qcow2));
    }
    let each = |time: Duration| time.as_nanos() / u128::from(BATCHES * DEPTH);
    let ratio = best_qcow2.as_secs_f64() / best_raw.as_secs_f64();
    println!(
        "raw {} ns, qcow2 {} ns each: ratio {ratio:.2}",
        each(best_raw),
        each(best_qcow2)
    );
    assert!(ratio < 4.0, "ratio {ratio}");
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// All that is measured is on one thread and in memory, so nothing is waited for.
fn time(disk: &dyn Disk) -> Duration {
    let mut engine = disk.engine(DEPTH as usize).unwrap();
    let mut spare: Vec<_> = (0..DEPTH).map(|_| Segments::from(vec![0; 4096])).collect();
    let mut random = Random(1);
    let mut done = Vec::new();
    let mut batch = |engine: &mut dyn vu_storage::Engine| {
        for id in 0..DEPTH {
            engine.submit(Request {
                id,
                op: Op::Read,
                offset: random.below(SIZE / 4096) * 4096,
                len: 4096,
                data: spare.pop().unwrap(),
            });
        }
        engine.commit();
        let end = Instant::now() + support::DEADLINE;
        while done.len() < DEPTH as usize {
            engine.reap(&mut done);
            assert!(Instant::now() < end);
        }
        for done in done.drain(..) {
            done.result.unwrap();
            spare.push(done.data);
        }
    };
    // The first ones ask where the clusters are.
    for _ in 0..200 {
        batch(&mut *engine);
    }
    let start = Instant::now();
    for _ in 0..BATCHES {
        batch(&mut *engine);
    }
    start.elapsed()
}
