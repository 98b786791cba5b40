// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Starting, stopping, resetting and reconnecting.

use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result, skip};
use crate::driver::Queue;
use crate::frontend::wire::{feature, protocol, request, u32s};
use crate::frontend::{Error, FrontEnd};
use crate::guest::{Guest, Load, Options};

/// Stops the request queue: what was taken is completed, the index tells exactly that, and nothing moves afterwards.
fn stop(guest: &mut Guest) -> Result<u16> {
    let queue = guest.lane().queue.index;
    let base = guest.front.get_vring_base(queue)?;
    let used = guest.lane().queue.used_index();
    ensure!(
        base == u32::from(used),
        "GET_VRING_BASE says {base}, the used ring stands at {used}"
    );
    guest.front.get_features()?;
    let later = guest.lane().queue.used_index();
    ensure!(
        later == used,
        "the used ring moved from {used} to {later} after GET_VRING_BASE"
    );
    Ok(used)
}

fn start(guest: &mut Guest, base: u16) -> Result<()> {
    let index = guest.request_index();
    guest.start_ring(index, base)?;
    guest.enable(index, true)?;
    guest.lane().queue.force_kick();
    Ok(())
}

pub(super) fn stopping_drains_and_restarting_continues(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size: 256,
        ..Options::default()
    })?;
    for round in 0..20 {
        let lane = guest.lane();
        let batch: Vec<_> = (0..60).map(|_| lane.place_next(&*profile, 16 << 10)).collect();
        lane.queue.submit();
        let base = stop(&mut guest).with_context(|| format!("stop {round}"))?;
        start(&mut guest, base)?;
        guest
            .lane()
            .settle(&*profile, batch)
            .with_context(|| format!("after restart {round} at {base}"))?;
    }
    Ok(())
}

pub(super) fn stopping_with_requests_in_flight_is_prompt(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let Some(slow) = profile.slow(cx.daemon()?.launch()) else {
        return skip("the device has no way to be slow");
    };
    cx.respawn_as(&slow)?;
    let mut guest = cx.usual_guest()?;
    let lane = guest.lane();
    for _ in 0..16 {
        lane.place_next(&*profile, 64);
    }
    lane.queue.submit();
    lane.queue
        .wait(lane.end())
        .context("the first request, which even a slow device serves")?;
    let began = Instant::now();
    stop(&mut guest)?;
    let took = began.elapsed();
    ensure!(
        took.as_secs() < 3,
        "GET_VRING_BASE took {took:?} with requests in flight"
    );
    drop(guest);
    let began = Instant::now();
    let deadline = cx.settings.deadline;
    let daemon = cx.daemon()?;
    daemon.process().terminate();
    daemon
        .process()
        .wait(deadline)
        .context("SIGTERM with requests in flight")?;
    ensure!(
        began.elapsed().as_secs() < 5,
        "SIGTERM took {:?}",
        began.elapsed()
    );
    Ok(())
}

pub(super) fn hanging_up_with_requests_in_flight_is_harmless(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for _ in 0..20 {
        let mut guest = cx.guest(Options {
            size: 256,
            ..Options::default()
        })?;
        let lane = guest.lane();
        for _ in 0..60 {
            lane.place_next(&*profile, 16 << 10);
        }
        lane.queue.submit();
    }
    cx.still_serves()
}

pub(super) fn nothing_is_served_after_hanging_up(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    guest.lane().round_trip(&*profile, 16)?;
    let Guest { front, mut lanes, .. } = guest;
    drop(front);
    // When the next connection is answered, the back end has dealt with the end of the last one.
    let next = cx.connect()?;
    next.get_features()?;
    let lane = &mut lanes[usize::from(profile.request_queue())];
    let before = lane.queue.used_index();
    lane.place_next(&*profile, 16);
    lane.queue.publish();
    lane.queue.force_kick();
    next.get_features()?;
    drop(next);
    cx.still_serves()?;
    let after = lane.queue.used_index();
    ensure!(
        before == after,
        "a guest that hung up was served: used index {before} -> {after}"
    );
    Ok(())
}

pub(super) fn a_kick_before_enabling_is_not_lost(cx: &mut Cx) -> Result<()> {
    enabling(cx, true)
}

pub(super) fn enabling_serves_what_waits_without_a_kick(cx: &mut Cx) -> Result<()> {
    enabling(cx, false)
}

fn enabling(cx: &Cx, kick: bool) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        enable: false,
        ..Options::default()
    })?;
    if guest.features & feature::PROTOCOL_FEATURES == 0 {
        return skip("PROTOCOL_FEATURES is not offered");
    }
    let pending = guest.lane().place_next(&*profile, 64);
    guest.lane().queue.publish();
    if kick {
        guest.lane().queue.force_kick();
    }
    guest.front.get_features()?;
    let index = guest.request_index();
    guest.enable(index, true)?;
    let lane = guest.lane();
    let used = lane.queue.wait(lane.end())?;
    lane.check(&*profile, &pending, used)
}

pub(super) fn disabling_and_enabling_loses_nothing(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let index = guest.request_index();
    for _ in 0..20 {
        guest.enable(index, false)?;
        let lane = guest.lane();
        let batch: Vec<_> = (0..8).map(|_| lane.place_next(&*profile, 64)).collect();
        lane.queue.publish();
        lane.queue.force_kick();
        guest.front.get_features()?;
        guest.enable(index, true)?;
        guest.lane().settle(&*profile, batch)?;
    }
    Ok(())
}

pub(super) fn addresses_sent_again_under_load_lose_nothing(cx: &mut Cx) -> Result<()> {
    under_load(
        cx,
        Options {
            size: 256,
            ..Options::default()
        },
        |guest, queue, round| {
            let log = (round % 2 == 0 && guest.features & feature::LOG_ALL != 0).then_some(0);
            let memory = guest.memory.clone();
            Ok(guest.front.set_vring_addr(queue.0, &memory, queue.1, log)?)
        },
    )
}

pub(super) fn features_sent_again_under_load_lose_nothing(cx: &mut Cx) -> Result<()> {
    under_load(cx, Options::default(), |guest, _, _| {
        Ok(guest.front.set_features(guest.features)?)
    })
}

/// Runs `step` 200 times while another thread keeps the request queue busy.
pub(super) fn under_load(
    cx: &Cx,
    options: Options,
    mut step: impl FnMut(&mut Guest, (u32, crate::frontend::RingAddress), u32) -> Result<()>,
) -> Result<()> {
    let mut guest = cx.guest(options)?;
    let lane = guest.take_lane();
    let queue = (lane.queue.index, lane.queue.address);
    let load = Load::start(lane, cx.profile.clone(), 256);
    let mut result = Ok(());
    for round in 0..200 {
        result = step(&mut guest, queue, round).with_context(|| format!("step {round} under load"));
        if result.is_err() || load.failed() {
            break;
        }
        // A breath, so that requests run between the steps and not only after them.
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    let (lane, count) = load.stop()?;
    result?;
    ensure!(count > 0, "no request was served under load");
    guest.return_lane(lane);
    let profile = cx.profile.clone();
    guest.lane().burst(&*profile, 100, 64).context("after the load")
}

pub(super) fn a_ring_may_move(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let index = guest.request_index();
    for (round, size) in [64, 16, 128, 2, 64].into_iter().enumerate() {
        guest.lane().burst(&*profile, 50, 16)?;
        stop(&mut guest)?;
        let place = 0x10_0000 + 0x1_0000 * round as u64;
        let mut queue = Queue::new(&guest.memory, u32::from(profile.request_queue()), place, size, 0)?;
        queue.set_event_idx(guest.features & feature::EVENT_IDX != 0);
        guest.lanes[index].queue = queue;
        start(&mut guest, 0)?;
    }
    guest.lane().burst(&*profile, 50, 16)
}

pub(super) fn reset_device_gives_a_fresh_device(cx: &mut Cx) -> Result<()> {
    cx.need_protocol(protocol::RESET_DEVICE, "RESET_DEVICE")?;
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let index = guest.request_index();
    for _ in 0..5 {
        guest.lane().burst(&*profile, 50, 16)?;
        guest.front.reset_device()?;
        let address = guest.lane().queue.address.descriptor;
        let mut queue = Queue::new(&guest.memory, u32::from(profile.request_queue()), address, 64, 0)?;
        queue.set_event_idx(guest.features & feature::EVENT_IDX != 0);
        guest.lanes[index].queue = queue;
        guest.front.set_features(guest.features)?;
        guest.front.set_mem_table(&guest.memory)?;
        start(&mut guest, 0)?;
    }
    guest.lane().burst(&*profile, 50, 16)
}

pub(super) fn reset_owner_keeps_the_connection(cx: &mut Cx) -> Result<()> {
    let guest = cx.usual_guest()?;
    guest.front.reset_owner()?;
    guest.front.get_features().context("after RESET_OWNER")?;
    drop(guest);
    cx.still_serves()
}

pub(super) fn reconnecting_20_times_works(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for round in 0..20 {
        let mut guest = cx.usual_guest().with_context(|| format!("connection {round}"))?;
        guest
            .lane()
            .burst(&*profile, 64, 64)
            .with_context(|| format!("on connection {round}"))?;
    }
    cx.still_serves()
}

/// The same memory and rings on a new connection, from the index where the used ring stands.
pub(super) fn a_guest_may_come_back_with_its_rings(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    for round in 0..10 {
        guest
            .lane()
            .burst(&*profile, 64, 64)
            .with_context(|| format!("on connection {round}"))?;
        let front = cx.connect_after_drop(&mut guest)?;
        guest.reconnect(front)?;
    }
    guest.lane().burst(&*profile, 64, 64)
}

pub(super) fn a_second_connection_waits_its_turn(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut first = cx.usual_guest()?;
    let Ok(second) = FrontEnd::connect(&cx.socket(), cx.settings.deadline) else {
        return skip("the back end takes its socket away while it serves");
    };
    for _ in 0..50 {
        first
            .lane()
            .round_trip(&*profile, 64)
            .context("while another connection waits")?;
    }
    drop(first);
    second.get_features().context("the connection that waited")?;
    drop(second);
    cx.still_serves()
}

/// The reason: a front end that resumes on a fresh connection without negotiating waits for acknowledgements that
/// nobody owes it. Better to end at once.
pub(super) fn a_first_message_that_does_not_negotiate_ends_the_connection(cx: &mut Cx) -> Result<()> {
    let front = cx.connect_unseen()?;
    let sent = front.send(
        request::SET_VRING_NUM,
        crate::frontend::wire::VERSION,
        &u32s(&[0, 64]),
        &[],
    );
    let closed = match sent {
        Ok(()) => matches!(front.receive("SET_VRING_NUM"), Err(Error::Closed(_))),
        Err(error) => matches!(error, Error::Closed(_)),
    };
    ensure!(
        closed,
        "SET_VRING_NUM as first message leaves the connection open"
    );
    drop(front);
    cx.still_serves()
}
