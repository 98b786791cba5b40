// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One queue under load: a closed loop that answers each completion with a new request.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_driver::{EventFd, QueueNotifier, VirtioBlkQueue};

use crate::buffers::Buffers;
use crate::histogram::Histogram;

/// A back end that keeps a request for so long has lost it.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// What the measurement is at, told to all queues at once.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicU8);

impl Phase {
    const COUNT: u8 = 1;
    const END: u8 = 2;

    /// From now on requests count.
    pub(crate) fn count(&self) {
        self.0.store(Self::COUNT, Ordering::SeqCst);
    }

    /// No new requests.
    pub(crate) fn end(&self) {
        self.0.store(Self::END, Ordering::SeqCst);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was counted.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) interrupts: u64,
    pub(crate) kicks: u64,
    pub(crate) latencies: Histogram,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.interrupts += other.interrupts;
        self.kicks += other.kicks;
        self.latencies.merge(&other.latencies);
    }
}

/// Where the requests of one queue go.
pub(crate) struct Offsets {
    /// Bytes per request.
    size: u64,
    /// Requests that the disk has room for.
    slots: u64,
    /// The next slot, or the state of the generator.
    state: u64,
    sequential: bool,
}

impl Offsets {
    /// `index` of `count` queues: in a row, each begins in a part of its own.
    pub(crate) fn new(size: u64, slots: u64, sequential: bool, index: u64, count: u64) -> Self {
        let state = if sequential {
            slots / count * index
        } else {
            index + 88_172_645_463_325_252 // anything but 0
        };
        Self {
            size,
            slots,
            state,
            sequential,
        }
    }

    fn next(&mut self) -> u64 {
        if self.sequential {
            self.state = (self.state + 1) % self.slots;
            return self.state * self.size;
        }
        // xorshift64*, whose upper half is the good one.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        random % self.slots * self.size
    }
}

/// A queue and what belongs to it.
pub(crate) struct Lane<'a> {
    pub(crate) queue: VirtioBlkQueue<'a, usize>,
    pub(crate) notifier: Box<dyn QueueNotifier>,
    pub(crate) interrupt: Arc<EventFd>,
    pub(crate) buffers: Buffers,
    pub(crate) offsets: Offsets,
    pub(crate) write: bool,
    /// Never wait for an interrupt.
    pub(crate) poll: bool,
}

impl Lane<'_> {
    /// Keeps a request in flight for each buffer until the end is told, and all are back.
    pub(crate) fn drive(&mut self, phase: &Phase) -> Result<Tally> {
        let depth = self.buffers.count();
        let mut tally = Tally::default();
        let mut begun = vec![Instant::now(); depth];
        let mut returned = Vec::with_capacity(depth);
        let mut outstanding = depth;
        self.submit(&(0..depth).collect::<Vec<_>>())?;
        while outstanding > 0 {
            let waited = self.reap(&mut returned)?;
            let (now, at) = (Instant::now(), phase.get());
            if at == Phase::COUNT {
                tally.requests += returned.len() as u64;
                tally.interrupts += u64::from(waited);
                for &number in &returned {
                    tally.latencies.add(now - begun[number]);
                }
            }
            if at == Phase::END {
                outstanding -= returned.len();
                continue;
            }
            for &number in &returned {
                begun[number] = now;
            }
            let kicked = self.submit(&returned)?;
            tally.kicks += u64::from(kicked && at == Phase::COUNT);
        }
        Ok(tally)
    }

    /// Queues a request for each of the buffers; tells whether the back end wanted to be notified.
    fn submit(&mut self, buffers: &[usize]) -> Result<bool> {
        for &number in buffers {
            let offset = self.offsets.next();
            self.buffers
                .queue(&mut self.queue, number, offset, self.write)
                .context("queueing a request")?;
        }
        let kick = self.queue.avail_notif_needed();
        if kick {
            self.notifier.notify().context("kick")?;
        }
        Ok(kick)
    }

    /// Sleeps until the back end signals. It may have made the eventfd non-blocking, so a read alone does not wait.
    fn wait(&self) -> Result<()> {
        let mut fds = [PollFd::new(&*self.interrupt, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&PATIENCE)).context("waiting for an interrupt")?;
        ensure!(ready > 0, "requests are not back after {} s", PATIENCE.tv_sec);
        self.interrupt.read().context("taking an interrupt").map(drop)
    }

    /// Collects what is back, at least one; tells whether that took an interrupt.
    fn reap(&mut self, returned: &mut Vec<usize>) -> Result<bool> {
        returned.clear();
        let mut waited = false;
        loop {
            for completion in self.queue.completions() {
                ensure!(completion.ret == 0, "a request failed: error {}", -completion.ret);
                returned.push(completion.context);
            }
            if !returned.is_empty() {
                return Ok(waited);
            }
            if self.poll {
                hint::spin_loop();
                continue;
            }
            self.queue.set_used_notif_enabled(true);
            if !self.queue.completions().has_next() {
                self.wait()?;
                waited = true;
            }
            self.queue.set_used_notif_enabled(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Offsets;

    #[test]
    fn sequential_queues_go_through_their_own_parts_and_wrap() {
        let mut second = Offsets::new(512, 8, true, 1, 2);
        let offsets: Vec<u64> = (0..5).map(|_| second.next() / 512).collect();
        assert_eq!(offsets, [5, 6, 7, 0, 1]);
    }

    #[test]
    fn random_requests_reach_every_slot_and_none_beyond() {
        let mut offsets = Offsets::new(4096, 100, false, 0, 1);
        let mut hits = [0; 100];
        for _ in 0..10_000 {
            let offset = offsets.next();
            assert_eq!(offset % 4096, 0);
            hits[usize::try_from(offset / 4096).unwrap()] += 1;
        }
        assert!(hits.iter().all(|&count| (50..200).contains(&count)), "{hits:?}");
    }
}
