// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CPU time: of the daemon, of this process, and of everybody else on the machine.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The counters at one moment.
pub(crate) struct Moment {
    at: Instant,
    daemon: Threads,
    own: Threads,
    busy: Duration,
}

/// The CPU time of each thread of a process, from the scheduler's own counters (nanosecond resolution).
struct Threads(HashMap<OsString, Duration>);

impl Threads {
    fn of(process: u32) -> Result<Self> {
        let folder = format!("/proc/{process}/task");
        let mut times = HashMap::new();
        for task in fs::read_dir(&folder).context(folder)? {
            let task = task?;
            // A thread may end between the listing and the look at it.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
            times.insert(
                task.file_name(),
                Duration::from_nanos(nanos.context("schedstat begins with a number")?),
            );
        }
        Ok(Self(times))
    }

    /// By thread, for one that has ended meanwhile takes its whole past out of a sum.
    fn until(&self, later: &Self) -> Duration {
        let before = |thread| self.0.get(thread).copied().unwrap_or_default();
        later
            .0
            .iter()
            .map(|(thread, time)| time.saturating_sub(before(thread)))
            .sum()
    }
}

/// What went by between two moments.
pub(crate) struct Spent {
    /// Time on the clock.
    pub(crate) time: Duration,
    /// CPU time of the daemon.
    pub(crate) daemon: Duration,
    /// CPU time of this process.
    pub(crate) own: Duration,
    /// CPUs kept busy by neither, on average.
    pub(crate) foreign: f64,
}

impl Moment {
    pub(crate) fn now(daemon: u32) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            daemon: Threads::of(daemon)?,
            own: Threads::of(std::process::id())?,
            busy: busy()?,
        })
    }

    pub(crate) fn until(&self, later: &Self) -> Spent {
        let time = later.at - self.at;
        let daemon = self.daemon.until(&later.daemon);
        let own = self.own.until(&later.own);
        let foreign = later.busy.saturating_sub(self.busy).saturating_sub(daemon + own);
        Spent {
            time,
            daemon,
            own,
            foreign: foreign.as_secs_f64() / time.as_secs_f64(),
        }
    }
}

/// Time that all CPUs together have not been idle.
fn busy() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let ticks = busy_ticks(&stat).context("/proc/stat has no line for all CPUs")?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_micros(ticks * 1_000_000 / per_second))
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal, ...; guest time is in user time already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    (ticks.len() > 4).then(|| at(0) + at(1) + at(2) + at(5) + at(6) + at(7))
}

/// Keeps the calling thread, and the threads that it starts from now on, on these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on the CPUs {cpus:?}"))
}

#[cfg(test)]
mod tests {
    use super::{Moment, Threads, busy_ticks, pin};
    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    #[test]
    fn idle_time_is_not_busy_and_guest_time_counts_once() {
        let stat = "cpu  1 20 300 9999 9999 4000 50000 600000 7 8\ncpu0 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(654_321));
        assert_eq!(busy_ticks("intr 5\n"), None);
    }

    #[test]
    fn threads_that_begin_count_and_threads_that_end_do_not_take_their_past_along() {
        let threads = |times: &[(&str, u64)]| {
            let times = times
                .iter()
                .map(|(name, seconds)| ((*name).into(), Duration::from_secs(*seconds)));
            Threads(times.collect::<HashMap<_, _>>())
        };
        let before = threads(&[("stays", 10), ("ends", 100)]);
        let later = threads(&[("stays", 13), ("begins", 4)]);
        assert_eq!(before.until(&later), Duration::from_secs(7));
    }

    #[test]
    fn own_work_is_not_foreign() {
        pin(&[0]).unwrap();
        let pid = std::process::id();
        let before = Moment::now(pid).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        let mut spent = before.until(&Moment::now(pid).unwrap());
        while spent.own < Duration::from_millis(50) && Instant::now() < end {
            spent = before.until(&Moment::now(pid).unwrap());
        }
        assert!(spent.own >= Duration::from_millis(50) && spent.daemon > Duration::ZERO);
        // Twice the same process is more than was busy, and what is left never less than nothing.
        assert!(spent.foreign >= 0.0);
    }
}
