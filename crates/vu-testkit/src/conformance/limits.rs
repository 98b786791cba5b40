// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a daemon may cost: memory, descriptors, CPU time, log lines.

use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result};
use crate::chains::Descriptor;
use crate::frontend::FrontEnd;
use crate::guest::{NOWHERE, Options};
use crate::process;

pub(super) fn idle_costs_nothing(cx: &mut Cx) -> Result<()> {
    let pid = cx.need_pid()?;
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    guest.lane().burst(&*profile, 100, 64)?;
    let before = (process::cpu_ticks(pid)?, process::cpu_time(pid)?);
    std::thread::sleep(cx.settings.idle);
    let after = (process::cpu_ticks(pid)?, process::cpu_time(pid)?);
    let spent = after.1 - before.1;
    ensure!(
        after.0 == before.0 || spent.as_millis() < 1,
        "{spent:?} of CPU time in {:?} of idling",
        cx.settings.idle
    );
    guest.lane().round_trip(&*profile, 64).context("after idling")
}

pub(super) fn a_thousand_connections_leave_nothing_behind(cx: &mut Cx) -> Result<()> {
    let pid = cx.need_pid()?;
    let connect = |cx: &Cx, round: usize| -> Result<()> {
        let front = FrontEnd::connect(&cx.socket(), cx.settings.deadline);
        let front = front.with_context(|| format!("connection {round} was refused"))?;
        front
            .get_features()
            .map(drop)
            .with_context(|| format!("connection {round}"))
    };
    for round in 0..50 {
        connect(cx, round)?;
    }
    cx.still_serves()?;
    let idle = |cx: &Cx| -> Result<(usize, u64)> {
        // While this one is served, whatever belonged to those before is gone.
        let front = cx.connect()?;
        front.get_features()?;
        Ok((process::open_fds(pid)?, process::resident(pid)?))
    };
    let before = idle(cx)?;
    for round in 0..1000 {
        connect(cx, round)?;
    }
    let after = idle(cx)?;
    ensure!(
        after.0 <= before.0,
        "open descriptors: {} before, {} after 1000 connections",
        before.0,
        after.0
    );
    let grown = after.1.saturating_sub(before.1);
    ensure!(
        grown < 256 << 10,
        "the daemon grew by {} KiB in 1000 connections",
        grown >> 10
    );
    cx.still_serves()
}

pub(super) fn running_guests_leave_nothing_behind(cx: &mut Cx) -> Result<()> {
    let pid = cx.need_pid()?;
    let profile = cx.profile.clone();
    let mut seen = Vec::new();
    for round in 0..60 {
        let mut guest = cx.usual_guest()?;
        guest.lane().burst(&*profile, 50, 64)?;
        if round >= 10 {
            seen.push((process::open_fds(pid)?, process::resident(pid)?));
        }
    }
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    ensure!(
        last.0 <= first.0,
        "open descriptors: {} with guest 10, {} with guest 59",
        first.0,
        last.0
    );
    ensure!(
        last.1 < first.1 + (512 << 10),
        "resident: {} KiB, then {} KiB",
        first.1 >> 10,
        last.1 >> 10
    );
    Ok(())
}

/// T17: what a guest does wrong in a loop must not fill the host's disk with log lines.
pub(super) fn bad_requests_do_not_flood_the_log(cx: &mut Cx) -> Result<()> {
    const CHAINS: u64 = 100_000;
    let start = cx.daemon()?.log().lines();
    let began = Instant::now();
    let mut guest = cx.guest(Options {
        size: 1024,
        ..Options::default()
    })?;
    let lane = guest.lane();
    let mut sent = 0;
    while sent < CHAINS {
        for _ in 0..1000 {
            lane.queue.add(&[Descriptor::writable(NOWHERE, 64)], None);
        }
        lane.queue.submit();
        let end = lane.end();
        lane.queue
            .wait_all(end)
            .with_context(|| format!("after {sent} bad chains"))?;
        sent += 1000;
    }
    drop(guest);
    cx.still_serves()?;
    let lines = cx.daemon()?.log().lines() - start;
    let allowed = 50 + 20 * (1 + began.elapsed().as_secs());
    ensure!(
        lines <= allowed,
        "{lines} log lines for {CHAINS} bad chains in {:?}",
        began.elapsed()
    );
    Ok(())
}

/// Threads that a bounded pool may have.
const POOL: usize = 64;

pub(super) fn threads_do_not_grow_with_requests(cx: &mut Cx) -> Result<()> {
    let pid = cx.need_pid()?;
    let threads = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count()) };
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    guest.lane().burst(&*profile, 100, 64)?;
    let before = threads()?;
    guest.lane().burst(&*profile, 10_000, 16)?;
    let after = threads()?;
    // A pool, the kernel's for io_uring among them, may fill up; a thread per request would be thousands.
    ensure!(
        after <= before + POOL,
        "{before} threads before 10000 requests, {after} after"
    );
    Ok(())
}
