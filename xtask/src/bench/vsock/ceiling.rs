// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a socket of the host takes from its writer when nothing is done with it: no device passes on more.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};

use super::driver::write;
use super::{READ, WRITES};
use crate::bench::cpus;

/// How long a reader waits before it reads again: not at all, which wakes it at each write when these are small, or so
/// long that many writes have come.
const RESTS: [Duration; 2] = [Duration::ZERO, Duration::from_micros(100)];

/// Bytes per second in writes of `size`, to the faster of two readers on these CPUs.
pub(super) fn ceiling(cpus: &[usize], size: usize, time: Duration) -> Result<f64> {
    let mut best = 0.0_f64;
    for rest in RESTS {
        best = best.max(speed(cpus, size, time, rest)?);
    }
    Ok(best)
}

fn speed(cpus: &[usize], size: usize, time: Duration, rest: Duration) -> Result<f64> {
    let (writer, reader) = UnixStream::pair()?;
    writer.set_nonblocking(true)?;
    thread::scope(|scope| {
        let reads = scope.spawn(move || cpus::pin(cpus).and_then(|()| drain(reader, rest)));
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < time {
            sent += burst(&writer, size)?;
        }
        let elapsed = began.elapsed();
        drop(writer);
        reads.join().map_err(|panic| anyhow!("the reader: {panic:?}"))??;
        Ok(sent as f64 / elapsed.as_secs_f64())
    })
}

/// As many writes as the host's process makes at a time; waits where the socket takes no more.
fn burst(writer: &UnixStream, size: usize) -> Result<u64> {
    let bytes = vec![0; size];
    let mut sent = 0;
    for _ in 0..WRITES {
        let written = write(writer, &bytes)?;
        if written == 0 {
            poll(&mut [PollFd::new(writer, PollFlags::OUT)], None)?;
            break;
        }
        sent += written as u64;
    }
    Ok(sent)
}

fn drain(mut reader: UnixStream, rest: Duration) -> Result<()> {
    let mut buffer = vec![0; READ];
    while reader.read(&mut buffer)? > 0 {
        if !rest.is_zero() {
            thread::sleep(rest);
        }
    }
    Ok(())
}
