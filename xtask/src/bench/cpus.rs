// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CPUs: some for the driver, others for the daemons, so that neither takes the other's time.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vu_testkit::spawn::{Daemon, Launch};

/// CPUs for the driver and for the daemons: from the lower and the upper half of those that we may use, `count` each; the
/// same one for both where there is no other.
pub(super) fn split(count: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let allowed = sched_getaffinity(None).context("the CPUs that we may use")?;
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let (lower, upper) = match all.len() {
        1 => (&all[..], &all[..]),
        len => all.split_at(len / 2),
    };
    let take = |half: &[usize]| half.iter().copied().take(count).collect();
    Ok((take(lower), take(upper)))
}

/// Keeps this thread, and the threads and processes that it starts from now on, on these CPUs.
pub(super) fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on the CPUs {cpus:?}"))
}

/// Starts a daemon on these CPUs: it inherits them from us.
pub(super) fn spawn(launch: &Launch, cpus: &[usize]) -> Result<Daemon> {
    let before = sched_getaffinity(None).context("the CPUs that we may use")?;
    pin(cpus)?;
    let daemon = Daemon::spawn(launch);
    sched_setaffinity(None, &before).context("back to the CPUs of before")?;
    daemon
}
