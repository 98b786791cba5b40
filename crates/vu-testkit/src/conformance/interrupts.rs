// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Notifications in both directions.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result};
use crate::driver::Queue;
use crate::event::Event;
use crate::frontend::wire::feature;
use crate::guest::{Guest, Options};

const WITHOUT_EVENT_IDX: u64 = feature::VERSION_1 | feature::INDIRECT_DESC | feature::PROTOCOL_FEATURES;

pub(super) fn none_is_lost_with_event_idx(cx: &mut Cx) -> Result<()> {
    cx.need_feature(feature::EVENT_IDX, "EVENT_IDX")?;
    none_is_lost(cx, Options::default())
}

pub(super) fn none_is_lost_without_event_idx(cx: &mut Cx) -> Result<()> {
    none_is_lost(
        cx,
        Options {
            features: WITHOUT_EVENT_IDX,
            ..Options::default()
        },
    )
}

pub(super) fn none_is_lost_when_the_call_is_a_socket(cx: &mut Cx) -> Result<()> {
    none_is_lost(
        cx,
        Options {
            call_by_socket: true,
            ..Options::default()
        },
    )
}

fn none_is_lost(cx: &Cx, options: Options) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(options)?;
    for _ in 0..500 {
        guest.lane().round_trip(&*profile, 32)?;
    }
    guest.lane().burst(&*profile, 1000, 32)
}

/// Serves `count` requests without looking at interrupts; gives the number of interrupts that came.
fn interrupts(cx: &Cx, guest: &mut Guest, count: usize, prepare: impl Fn(&Queue)) -> Result<u64> {
    let profile = cx.profile.clone();
    let lane = guest.lane();
    // Devices may signal the first completion of a ring in any case.
    lane.round_trip(&*profile, 32)?;
    lane.queue.call.drain();
    prepare(&lane.queue);
    for _ in 0..count {
        lane.place_next(&*profile, 32);
    }
    lane.queue.submit();
    let end = lane.end();
    while lane.queue.outstanding() > 0 {
        lane.queue.poll(end)?;
    }
    // Stopping the ring is the barrier: whatever the back end wanted to signal is signalled.
    let index = lane.queue.index;
    guest.front.get_vring_base(index)?;
    Ok(guest.lane().queue.call.drain())
}

pub(super) fn used_event_far_ahead_gives_silence(cx: &mut Cx) -> Result<()> {
    cx.need_feature(feature::EVENT_IDX, "EVENT_IDX")?;
    let mut guest = cx.usual_guest()?;
    let count = interrupts(cx, &mut guest, 20, |queue| queue.set_used_event(1000))?;
    ensure!(
        count == 0,
        "{count} interrupts, the driver asked for none before entry 1000"
    );
    Ok(())
}

pub(super) fn used_event_reached_gives_an_interrupt(cx: &mut Cx) -> Result<()> {
    cx.need_feature(feature::EVENT_IDX, "EVENT_IDX")?;
    for event in [0, 9, 19] {
        let mut guest = cx.usual_guest()?;
        let count = interrupts(cx, &mut guest, 20, |queue| queue.set_used_event(1 + event))?;
        ensure!(
            count == 1,
            "{count} interrupts for 20 requests with used_event {event}"
        );
    }
    Ok(())
}

pub(super) fn no_interrupt_flag_gives_silence(cx: &mut Cx) -> Result<()> {
    let mut guest = cx.guest(Options {
        features: WITHOUT_EVENT_IDX,
        ..Options::default()
    })?;
    let count = interrupts(cx, &mut guest, 20, |queue| queue.set_available_flags(1))?;
    ensure!(
        count == 0,
        "{count} interrupts in spite of VIRTQ_AVAIL_F_NO_INTERRUPT"
    );
    Ok(())
}

pub(super) fn no_interrupt_flag_is_ignored_with_event_idx(cx: &mut Cx) -> Result<()> {
    cx.need_feature(feature::EVENT_IDX, "EVENT_IDX")?;
    let mut guest = cx.usual_guest()?;
    let profile = cx.profile.clone();
    guest.lane().queue.set_available_flags(1);
    for _ in 0..50 {
        guest.lane().round_trip(&*profile, 32)?;
    }
    Ok(())
}

pub(super) fn a_new_call_descriptor_is_signalled_at_once(cx: &mut Cx) -> Result<()> {
    let mut guest = cx.usual_guest()?;
    let profile = cx.profile.clone();
    let index = guest.lane().queue.index;
    guest.front.set_vring_call(index, None)?;
    let lane = guest.lane();
    lane.place_next(&*profile, 32);
    lane.queue.submit();
    let end = lane.end();
    lane.queue.poll(end).context("without a call descriptor")?;
    let call = Event::new()?;
    guest.front.set_vring_call(index, Some(call.fd()))?;
    ensure!(
        call.wait_until(end),
        "what happened before SET_VRING_CALL is never signalled"
    );
    Ok(())
}

pub(super) fn a_replaced_call_descriptor_is_used(cx: &mut Cx) -> Result<()> {
    let mut guest = cx.usual_guest()?;
    let profile = cx.profile.clone();
    for _ in 0..20 {
        let call = Event::new()?;
        guest
            .front
            .set_vring_call(guest.lanes[0].queue.index, Some(call.fd()))?;
        guest.lanes[0].queue.call = call;
        guest.lanes[0].queue.call.drain();
        let index = guest.request_index();
        guest.front.set_vring_call(
            guest.lanes[index].queue.index,
            Some(guest.lanes[index].queue.call.fd()),
        )?;
        guest.lane().round_trip(&*profile, 32)?;
    }
    Ok(())
}

pub(super) fn spurious_kicks_do_no_harm(cx: &mut Cx) -> Result<()> {
    let mut guest = cx.usual_guest()?;
    let profile = cx.profile.clone();
    for _ in 0..200 {
        guest.lane().queue.force_kick();
        guest.lane().queue.force_kick();
        guest.lane().round_trip(&*profile, 32)?;
    }
    Ok(())
}

pub(super) fn kicks_that_vanish_before_they_are_read_do_no_harm(cx: &mut Cx) -> Result<()> {
    let mut guest = cx.usual_guest()?;
    let profile = cx.profile.clone();
    for round in 0..50 {
        for _ in 0..100 {
            // The back end wakes up, and finds nothing to read when we are faster.
            guest.lane().queue.force_kick();
            guest.lane().queue.kick.drain();
        }
        let lane = guest.lane();
        lane.place_next(&*profile, 32);
        lane.queue.publish();
        lane.queue.force_kick();
        let end = lane.end();
        lane.queue
            .wait(end)
            .with_context(|| format!("after {} vanished kicks", (round + 1) * 100))?;
    }
    Ok(())
}

pub(super) fn kicks_at_the_end_of_a_batch_are_heard_with_event_idx(cx: &mut Cx) -> Result<()> {
    cx.need_feature(feature::EVENT_IDX, "EVENT_IDX")?;
    kicks_at_the_end_of_a_batch(cx, Options::default())
}

pub(super) fn kicks_at_the_end_of_a_batch_are_heard_without_event_idx(cx: &mut Cx) -> Result<()> {
    kicks_at_the_end_of_a_batch(
        cx,
        Options {
            features: WITHOUT_EVENT_IDX,
            ..Options::default()
        },
    )
}

/// A second request at every moment around the end of the first: between the device's last look at the available ring
/// and its wish for a kick nobody kicks, so it has to look once more.
fn kicks_at_the_end_of_a_batch(cx: &Cx, options: Options) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(options)?;
    let lane = guest.lane();
    for round in 0..20_000_u64 {
        lane.place_next(&*profile, 16);
        lane.queue.submit();
        let moment = Instant::now() + Duration::from_nanos(round * 7919 % 40_000);
        lane.place_next(&*profile, 16);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        lane.queue.submit();
        let end = lane.end();
        while lane.queue.outstanding() > 0 {
            lane.queue
                .poll(end)
                .with_context(|| format!("in round {round}"))?;
        }
        lane.queue.call.drain();
    }
    Ok(())
}

pub(super) fn kick_replaced_on_a_live_ring_is_heard(cx: &mut Cx) -> Result<()> {
    let mut guest = cx.usual_guest()?;
    let profile = cx.profile.clone();
    let index = guest.request_index();
    for round in 0..20 {
        guest
            .lane()
            .round_trip(&*profile, 32)
            .with_context(|| format!("after {round} replacements"))?;
        let kick = Event::new()?;
        guest
            .front
            .set_vring_kick(guest.lanes[index].queue.index, Some(kick.fd()))?;
        let old = std::mem::replace(&mut guest.lanes[index].queue.kick, kick);
        old.signal()?; // a late kick on the old one must not confuse anybody
    }
    guest.lane().burst(&*profile, 100, 32)
}
