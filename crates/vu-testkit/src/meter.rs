// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Measures a running guest's device: a light closed loop, so that it is the back end that is measured.

use std::time::{Duration, Instant};

use crate::chains::{Descriptor, Framing, Request, WRITE};
use crate::guest::Lane;
use crate::process;

/// What a measurement gives.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests completed per second.
    pub per_second: f64,
    /// CPU time of the daemon per request.
    pub cpu: Duration,
    /// From the kick to the completion, which half of the requests did not exceed.
    pub p50: Duration,
    /// The same for 99 of 100 requests.
    pub p99: Duration,
}

/// A back end is measured even if its used lengths are wrong: that is another test.
const ANY_LENGTH: Option<u64> = Some(u64::MAX);

fn prepare(lane: &mut Lane, request: &Request, framing: Framing) -> Vec<Descriptor> {
    let mut readable = request.readable.as_slice();
    let mut chain = Vec::new();
    for (len, is_writable) in framing.cut(request) {
        let addr = lane.allocate(len as u64, 64);
        let size = u32::try_from(len).expect("requests are below 4 GiB");
        if is_writable {
            chain.push(Descriptor::writable(addr, size));
        } else {
            let (piece, rest) = readable.split_at(len);
            lane.memory.write(addr, piece);
            readable = rest;
            chain.push(Descriptor::readable(addr, size));
        }
    }
    chain
}

/// One request by interrupt; all device-writable bytes of it afterwards.
///
/// # Errors
/// When it does not come back.
pub fn ask(lane: &mut Lane, request: &Request, framing: Framing) -> anyhow::Result<Vec<u8>> {
    let chain = prepare(lane, request, framing);
    lane.queue.add(&chain, ANY_LENGTH);
    lane.queue.submit();
    lane.queue.wait(lane.end())?;
    let mut answer = Vec::new();
    for descriptor in chain.iter().filter(|descriptor| descriptor.flags & WRITE != 0) {
        let mut bytes = vec![0; descriptor.len as usize];
        lane.memory.read(descriptor.addr, &mut bytes);
        answer.extend(bytes);
    }
    Ok(answer)
}

/// Keeps `depth` of `requests` in flight for `time`, each of them in turn. Answers are counted, not checked: the table
/// does that.
///
/// # Errors
/// When a request does not come back, or the process is gone.
pub fn measure(
    lane: &mut Lane,
    requests: &[Request],
    framing: Framing,
    pid: u32,
    depth: usize,
    time: Duration,
) -> anyhow::Result<Sample> {
    // So many that none is with the device twice, if that answers in order.
    let turn = requests.iter().cycle().take(requests.len() * depth);
    let chains: Vec<_> = turn.map(|request| prepare(lane, request, framing)).collect();
    let mut next = chains.iter().cycle();
    let mut submitted = vec![Instant::now(); usize::from(lane.queue.size)];
    let mut latencies = Vec::new();
    let cpu = process::cpu_time(pid)?;
    let began = Instant::now();
    let end = began + time;
    for chain in next.by_ref().take(depth) {
        submitted[usize::from(lane.queue.add(chain, ANY_LENGTH))] = began;
    }
    lane.queue.submit();
    loop {
        let used = lane.queue.wait_for(depth.div_ceil(2), lane.end())?;
        let now = Instant::now();
        let (mut returned, more) = (Some(used), now < end);
        while let Some(used) = returned {
            latencies.push(now - submitted[used.id as usize]);
            if let Some(chain) = next.next().filter(|_| more) {
                submitted[usize::from(lane.queue.add(chain, ANY_LENGTH))] = now;
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
    let count = u32::try_from(latencies.len()).unwrap_or(u32::MAX);
    Ok(Sample {
        per_second: f64::from(count) / elapsed.as_secs_f64(),
        cpu: cpu / count,
        p50: quantile(&mut latencies, 50),
        p99: quantile(&mut latencies, 99),
    })
}

/// The value that `percent` of `values` do not exceed.
///
/// # Panics
/// When there is none.
pub fn quantile(values: &mut [Duration], percent: usize) -> Duration {
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    *values.select_nth_unstable(rank).1
}

#[cfg(test)]
mod tests {
    use super::quantile;
    use std::time::Duration;

    #[test]
    fn quantiles_of_a_hundred() {
        let mut values: Vec<Duration> = (1..=100).rev().map(Duration::from_nanos).collect();
        assert_eq!(quantile(&mut values, 50), Duration::from_nanos(50));
        assert_eq!(quantile(&mut values, 99), Duration::from_nanos(99));
        assert_eq!(quantile(&mut values[..1], 99), quantile(&mut values[..1], 1));
    }
}
