// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several virtqueues that take requests, at once.

use std::ops::Range;

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result, skip};
use crate::frontend::wire::protocol;
use crate::guest::{Guest, Load, Options};

/// The queues of requests, or the case is skipped because there is only one.
fn several(cx: &Cx) -> Result<Range<u16>> {
    let queues = cx.profile.request_queues();
    if queues.len() < 2 {
        return skip("the device has one queue of requests");
    }
    Ok(queues)
}

pub(super) fn all_are_served_at_once(cx: &mut Cx) -> Result<()> {
    let queues = several(cx)?;
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    guest.in_parallel(queues, |lane| {
        lane.burst(&*profile, 5000, 64)?;
        lane.burst(&*profile, 200, 32 << 10)
    })
}

/// A guest whose queue `busy` is under load, while `step` does something with the one before it; then that one serves.
fn beside_load(cx: &Cx, rounds: usize, step: impl Fn(&mut Guest) -> Result<()>) -> Result<()> {
    let queues = several(cx)?;
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let busy = usize::from(queues.start) + 1;
    let load = Load::start(guest.lanes.remove(busy), profile.clone(), 4096);
    let mut result = Ok(());
    for round in 0..rounds {
        result = step(&mut guest).with_context(|| format!("round {round} beside a busy queue"));
        if result.is_err() || load.failed() {
            break;
        }
        guest.lane().burst(&*profile, 20, 64)?;
    }
    let (lane, count) = load.stop().context("the other queue")?;
    result?;
    ensure!(count > 0, "the other queue served nothing");
    guest.lanes.insert(busy, lane);
    guest.in_parallel(queues, |lane| lane.burst(&*profile, 100, 64))
}

pub(super) fn stopping_one_does_not_disturb_another(cx: &mut Cx) -> Result<()> {
    beside_load(cx, 50, |guest| {
        let index = guest.request_index();
        let queue = guest.lane().queue.index;
        let base = guest.front.get_vring_base(queue)?;
        guest.start_ring(index, u16::try_from(base)?)?;
        guest.enable(index, true)
    })
}

pub(super) fn a_broken_one_does_not_disturb_another(cx: &mut Cx) -> Result<()> {
    beside_load(cx, 5, |guest| {
        let lane = guest.lane();
        let index = lane.queue.available_index().wrapping_add(0x4000);
        lane.queue.set_available_index(index);
        lane.queue.force_kick();
        ensure!(
            lane.queue.err.wait_until(lane.end()),
            "the error descriptor was not signalled"
        );
        crate::evil::replace_ring(guest)
    })
}

pub(super) fn a_killed_daemon_loses_and_repeats_nothing_on_any(cx: &mut Cx) -> Result<()> {
    let queues = several(cx)?;
    cx.daemon()?;
    cx.need_protocol(protocol::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size: 256,
        inflight: true,
        ..Options::default()
    })?;
    for round in 0..6 {
        let lanes = &mut guest.lanes[usize::from(queues.start)..usize::from(queues.end)];
        let mut batches = Vec::new();
        for lane in &mut *lanes {
            batches.push(
                (0..40)
                    .map(|_| lane.place_next(&*profile, 32 << 10))
                    .collect::<Vec<_>>(),
            );
        }
        let before = lanes[0].queue.used_index();
        for lane in &mut *lanes {
            lane.queue.submit();
        }
        let end = lanes[0].end();
        while lanes[0].queue.used_index().wrapping_sub(before) < 1 + round * 6
            && std::time::Instant::now() < end
        {
            std::hint::spin_loop();
        }
        cx.crash()?;
        guest.reconnect(cx.connect()?)?;
        let lanes = &mut guest.lanes[usize::from(queues.start)..usize::from(queues.end)];
        for (lane, batch) in lanes.iter_mut().zip(batches) {
            let queue = lane.queue.index;
            lane.settle(&*profile, batch)
                .with_context(|| format!("queue {queue} after kill {round}"))?;
        }
    }
    guest.in_parallel(queues, |lane| lane.burst(&*profile, 100, 64))
}
