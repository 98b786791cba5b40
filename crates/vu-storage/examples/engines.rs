// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each engine costs for 4 KiB at random offsets and depth 32, beside a bare loop of `pread` or `pwrite`.
//!
//! `cargo run --release -p vu-storage --example engines -- DIRECTORY...`: a file of 256 MiB is made in each,
//! and removed. CPU time, which is that of the whole process, is what to judge by on a machine that is shared.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};
use vu_common::Segments;
use vu_storage::file::{Aio, Options, open};
use vu_storage::{Disk, Op, Request};

const SIZE: u64 = 256 << 20;
const BLOCK: u64 = 4096;
const DEPTH: u32 = 32;
const TIME: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Offsets that look random (a linear congruential generator).
struct Offsets(u64);

impl Offsets {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % (SIZE / BLOCK) * BLOCK
    }
}

/// Runs `some`, which says how many requests it has done, for a while; prints what they cost.
fn measure(name: &str, mut some: impl FnMut() -> Result<u64>) -> Result<()> {
    some()?;
    let cpu = || clock_gettime(ClockId::ProcessCPUTime);
    let (start, start_cpu) = (Instant::now(), cpu());
    let mut count = 0;
    while start.elapsed() < TIME {
        count += some()?;
    }
    let wall = start.elapsed().as_secs_f64();
    let used = cpu() - start_cpu;
    let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    let count = count as f64;
    println!(
        "{name:40} {:8.1} kIOPS {:6.2} us CPU each",
        count / wall / 1e3,
        used / count * 1e6
    );
    Ok(())
}

fn floor(path: &Path, write: bool) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let (mut offsets, mut block) = (Offsets(1), [1; BLOCK as usize]);
    measure("  bare calls", || {
        for _ in 0..1024 {
            if write {
                file.write_all_at(&block, offsets.next())?;
            } else {
                file.read_exact_at(&mut block, offsets.next())?;
            }
        }
        Ok(1024)
    })
}

fn engine(name: &str, disk: &dyn Disk, op: Op) -> Result<()> {
    let mut engine = disk.engine(DEPTH as usize)?;
    let mut offsets = Offsets(1);
    let mut done = Vec::new();
    let mut idle: Vec<_> = (0..DEPTH)
        .map(|id| (id, Segments::from(vec![1; 3 * BLOCK as usize])))
        .map(|(id, room)| {
            let start = room.iovecs()[0].iov_base.addr().wrapping_neg() % BLOCK as usize;
            let mut block = Segments::default();
            room.part(start..start + BLOCK as usize, &mut block);
            (id, block)
        })
        .collect();
    measure(name, || {
        for (id, data) in idle.drain(..) {
            engine.submit(Request {
                id,
                op,
                offset: offsets.next(),
                len: BLOCK,
                data,
            });
        }
        engine.commit();
        engine.reap(&mut done);
        while done.is_empty() {
            let fd = engine.fd().ok_or("nothing was done")?;
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            engine.reap(&mut done);
        }
        let count = done.len() as u64;
        for completion in done.drain(..) {
            completion.result?;
            idle.push((completion.id, completion.data));
        }
        Ok(count)
    })
}

fn all(path: &Path) -> Result<()> {
    let zeroes = vec![3; 1 << 20];
    let file = File::create(path)?;
    for offset in (0..SIZE).step_by(zeroes.len()) {
        file.write_all_at(&zeroes, offset)?;
    }
    file.sync_all()?;
    for (op, what) in [(Op::Read, "read"), (Op::Write { durable: false }, "write")] {
        println!("{} {what}", path.display());
        floor(path, op != Op::Read)?;
        for direct in [false, true] {
            for (name, aio) in Aio::NAMES {
                let path = path.to_path_buf();
                let options = Options {
                    path,
                    aio,
                    direct,
                    ..Options::default()
                };
                let label = format!("  {name}{}", if direct { " direct" } else { "" });
                engine(&label, &*open(&options)?, op)?;
            }
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    for dir in std::env::args_os().skip(1) {
        let path = Path::new(&dir).join(format!("engines-{}", std::process::id()));
        let result = all(&path);
        std::fs::remove_file(path)?;
        result?;
    }
    measure("null", {
        let disk = vu_storage::null::open(SIZE, 512);
        let mut engine = disk.engine(DEPTH as usize)?;
        let mut done = Vec::new();
        move || {
            for id in 0..DEPTH {
                engine.submit(Request {
                    id,
                    op: Op::Read,
                    offset: 0,
                    len: BLOCK,
                    data: Segments::default(),
                });
            }
            engine.reap(&mut done);
            Ok(done.drain(..).count() as u64)
        }
    })
}
