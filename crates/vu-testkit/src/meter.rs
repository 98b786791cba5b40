// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Measures a running guest's device: a light closed loop, so that it is the back end that is measured.

use std::time::{Duration, Instant};

use crate::chains::Descriptor;
use crate::devices::Profile;
use crate::guest::Lane;
use crate::process;

/// What a measurement gives.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests completed per second.
    pub per_second: f64,
    /// CPU time of the daemon per request.
    pub cpu: Duration,
    /// From one submission to its completion, on average: meaningful with one request in flight.
    pub latency: Duration,
}

/// One prepared request, offered again and again.
struct Slot {
    chain: Vec<Descriptor>,
}

fn prepare(lane: &mut Lane, profile: &dyn Profile, size: usize) -> Slot {
    let request = lane.next_request(profile, size);
    let mut chain = Vec::new();
    if !request.readable.is_empty() {
        let addr = lane.allocate(request.readable.len() as u64, 64);
        lane.memory.write(addr, &request.readable);
        chain.push(Descriptor::readable(
            addr,
            u32::try_from(request.readable.len()).expect("a small header"),
        ));
    }
    if request.writable > 0 {
        let addr = lane.allocate(request.writable as u64, 64);
        chain.push(Descriptor::writable(
            addr,
            u32::try_from(request.writable).expect("far below 4 GiB"),
        ));
    }
    Slot { chain }
}

/// Keeps `depth` requests of `size` bytes in flight for `time`. Answers are counted, not checked: the table does that.
///
/// # Errors
/// When a request does not come back, or the process is gone.
pub fn measure(
    lane: &mut Lane,
    profile: &dyn Profile,
    pid: u32,
    size: usize,
    depth: usize,
    time: Duration,
) -> anyhow::Result<Sample> {
    let slots: Vec<Slot> = (0..depth).map(|_| prepare(lane, profile, size)).collect();
    let mut owner = vec![0; usize::from(lane.queue.size)];
    for (number, slot) in slots.iter().enumerate() {
        owner[usize::from(lane.queue.add(&slot.chain, None))] = number;
    }
    let cpu = process::cpu_time(pid)?;
    let began = Instant::now();
    let end = began + time;
    lane.queue.submit();
    let mut count = 0_u64;
    loop {
        let used = lane.queue.wait_for(depth.div_ceil(2), lane.end())?;
        let mut returned = Some(used);
        let more = Instant::now() < end;
        while let Some(used) = returned {
            count += 1;
            if more {
                let number = owner[used.id as usize];
                owner[usize::from(lane.queue.add(&slots[number].chain, None))] = number;
            }
            returned = lane.queue.pop()?;
        }
        if more {
            lane.queue.submit();
        } else if lane.queue.outstanding() == 0 {
            break;
        }
    }
    let elapsed = began.elapsed();
    let cpu = process::cpu_time(pid)?.saturating_sub(cpu);
    #[allow(
        clippy::cast_precision_loss,
        reason = "a measurement is no more precise than that"
    )]
    let per_second = count as f64 / elapsed.as_secs_f64();
    Ok(Sample {
        per_second,
        cpu: cpu / u32::try_from(count).unwrap_or(u32::MAX),
        latency: elapsed / u32::try_from(count).unwrap_or(u32::MAX),
    })
}
