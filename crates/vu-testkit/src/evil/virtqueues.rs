// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rings that are broken as a whole (T1, T3, T7).

use anyhow::{Context as _, ensure};

use super::replace_ring;
use crate::conformance::{Cx, Result};
use crate::frontend::Error;
use crate::guest::{Guest, NOWHERE, Options};

/// Breaks the ring with `harm`, expects the queue to be retired, and brings it back to life with a sane ring.
fn retired(cx: &Cx, harm: impl FnOnce(&mut Guest)) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    guest.lane().burst(&*profile, 10, 16)?;
    let before = guest.lane().queue.used_index();
    harm(&mut guest);
    guest.lane().queue.force_kick();
    let lane = guest.lane();
    let signalled = lane.queue.err.wait_until(lane.end());
    ensure!(signalled, "the error descriptor was not signalled");
    let after = lane.queue.used_index();
    ensure!(
        after == before,
        "a broken ring was served: used index {before} -> {after}"
    );
    guest
        .front
        .get_features()
        .context("the connection, after the ring broke")?;
    serves_on_a_sane_ring(cx, guest)
}

/// The same connection serves again once its broken ring is replaced, and so does the next connection.
fn serves_on_a_sane_ring(cx: &Cx, mut guest: Guest) -> Result<()> {
    replace_ring(&mut guest)?;
    guest
        .lane()
        .burst(&*cx.profile, 50, 16)
        .context("on a sane ring, on the same connection")?;
    drop(guest);
    cx.still_serves()
}

pub(crate) fn available_index_jumps_just_beyond_the_ring(cx: &mut Cx) -> Result<()> {
    retired(cx, |guest| {
        let queue = &guest.lane().queue;
        queue.set_available_index(queue.available_index().wrapping_add(queue.size + 1));
    })
}

pub(crate) fn available_index_jumps_far(cx: &mut Cx) -> Result<()> {
    retired(cx, |guest| {
        let queue = &guest.lane().queue;
        queue.set_available_index(queue.available_index().wrapping_add(0x8000));
    })
}

pub(crate) fn available_index_goes_back(cx: &mut Cx) -> Result<()> {
    retired(cx, |guest| {
        let queue = &guest.lane().queue;
        queue.set_available_index(queue.available_index().wrapping_sub(1));
    })
}

/// A head outside the table names nothing that could be returned: the entry is skipped or the queue is retired.
fn odd_head(cx: &Cx, head: u16) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    guest.lane().burst(&*profile, 10, 16)?;
    let queue = &mut guest.lane().queue;
    let before = queue.used_index();
    queue.push_available(head);
    queue.publish();
    queue.force_kick();
    guest
        .front
        .get_features()
        .context("the connection, after the odd head")?;
    let index = guest.lane().queue.index;
    guest
        .front
        .get_vring_base(index)
        .context("GET_VRING_BASE after the odd head")?;
    let after = guest.lane().queue.used_index();
    ensure!(after == before, "head {head} does not exist and was returned");
    serves_on_a_sane_ring(cx, guest)
}

pub(crate) fn head_at_the_ring_size(cx: &mut Cx) -> Result<()> {
    odd_head(cx, 64)
}

pub(crate) fn head_far_outside(cx: &mut Cx) -> Result<()> {
    odd_head(cx, u16::MAX)
}

/// One head offered many times at once: each entry comes back once, or the queue is retired.
pub(crate) fn one_head_many_times(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let lane = guest.lane();
    let pending = lane.place_next(&*profile, 16);
    for _ in 0..40 {
        lane.queue.push_available(pending.head);
    }
    lane.queue.submit();
    guest.front.get_features()?;
    let queue = guest.lane().queue.index;
    guest.front.get_vring_base(queue)?;
    let used = guest.lane().queue.used_index();
    ensure!(used <= 41, "{used} completions for 41 entries");
    drop(guest);
    cx.still_serves()
}

/// Gives the request queue odd addresses: refusing them is right, taking them and retiring the ring as well.
fn odd_addresses(cx: &Cx, pick: impl Fn(&Guest) -> [u64; 4]) -> Result<()> {
    let mut guest = cx.usual_guest()?;
    let index = guest.request_index();
    let queue = guest.lanes[index].queue.index;
    guest.front.get_vring_base(queue)?;
    let addresses = pick(&guest);
    match guest.front.set_vring_addr_raw(queue, 0, addresses) {
        Ok(()) => {
            guest
                .front
                .set_vring_kick(queue, Some(guest.lanes[index].queue.kick.fd()))?;
            guest
                .enable(index, true)
                .or_else(|error| match error.downcast_ref::<Error>() {
                    Some(Error::Refused(..)) => Ok(()),
                    _ => Err(error),
                })?;
            guest.lane().queue.force_kick();
        }
        Err(Error::Refused(..)) => {}
        Err(error) => return Err(error).context("SET_VRING_ADDR"),
    }
    guest
        .front
        .get_features()
        .context("the connection, after odd ring addresses")?;
    serves_on_a_sane_ring(cx, guest)
}

/// User addresses of descriptor table, used ring and available ring.
fn sane(guest: &Guest) -> [u64; 4] {
    let address = guest.lanes[guest.request_index()].queue.address;
    let user = |addr| guest.memory.user_addr(addr).expect("the ring is in memory");
    [
        user(address.descriptor),
        user(address.used),
        user(address.available),
        0,
    ]
}

pub(crate) fn ring_at_addresses_that_are_not_mapped(cx: &mut Cx) -> Result<()> {
    for part in 0..3 {
        for addr in [0, NOWHERE, u64::MAX, u64::MAX - 15] {
            let pick = |guest: &Guest| {
                let mut addresses = sane(guest);
                addresses[part] = addr;
                addresses
            };
            odd_addresses(cx, pick).with_context(|| format!("part {part} at {addr:#x}"))?;
        }
    }
    Ok(())
}

pub(crate) fn ring_that_is_not_aligned(cx: &mut Cx) -> Result<()> {
    for (part, shift) in [(0, 1), (0, 8), (1, 1), (1, 2), (2, 1)] {
        let pick = |guest: &Guest| {
            let mut addresses = sane(guest);
            addresses[part] += shift;
            addresses
        };
        odd_addresses(cx, pick).with_context(|| format!("part {part} shifted by {shift}"))?;
    }
    Ok(())
}

pub(crate) fn ring_whose_end_is_not_mapped(cx: &mut Cx) -> Result<()> {
    use crate::guest::{BUFFERS, BUFFERS_SIZE};
    for part in 0..3 {
        let pick = |guest: &Guest| {
            let mut addresses = sane(guest);
            let last = BUFFERS + BUFFERS_SIZE - 16;
            addresses[part] = guest.memory.user_addr(last).expect("the last bytes are memory");
            addresses
        };
        odd_addresses(cx, pick).with_context(|| format!("part {part}"))?;
    }
    Ok(())
}

pub(crate) fn ring_parts_that_overlap(cx: &mut Cx) -> Result<()> {
    odd_addresses(cx, |guest| {
        let addresses = sane(guest);
        [addresses[0], addresses[0], addresses[0], 0]
    })
}

/// T7: size and index change under a running ring.
pub(crate) fn size_and_index_change_on_a_live_ring(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for (size, base) in [
        (128, None),
        (4, None),
        (32768, None),
        (1, None),
        (64, Some(7)),
        (64, Some(0xffff)),
    ] {
        let mut guest = cx.usual_guest()?;
        guest.lane().burst(&*profile, 20, 16)?;
        let queue = guest.lane().queue.index;
        let _ = guest.front.set_vring_num(queue, size);
        if let Some(base) = base {
            let _ = guest.front.set_vring_base(queue, base);
        }
        let lane = guest.lane();
        for _ in 0..20 {
            lane.place_next(&*profile, 16);
        }
        lane.queue.publish();
        lane.queue.force_kick();
        let _ = guest.front.get_features();
        drop(guest);
        cx.still_serves()
            .with_context(|| format!("after size {size} and base {base:?} on a live ring"))?;
    }
    Ok(())
}

/// T7: messages for queues that do not exist.
pub(crate) fn queues_that_do_not_exist(cx: &mut Cx) -> Result<()> {
    let event = crate::event::Event::new()?;
    for queue in [
        u32::from(cx.profile.queues()).max(64),
        255,
        256,
        0x1_0000,
        u32::MAX,
    ] {
        let front = cx.negotiated()?;
        let _ = front.set_vring_num(queue, 64);
        let _ = front.set_vring_base(queue, 0);
        let _ = front.set_vring_addr_raw(queue, 0, [0; 4]);
        let _ = front.set_vring_kick(queue & 0xff, Some(event.fd()));
        let _ = front.set_vring_call(queue & 0xff, Some(event.fd()));
        let _ = front.set_vring_err(queue & 0xff, Some(event.fd()));
        let _ = front.set_vring_enable(queue, true);
        let _ = front.get_vring_base(queue);
        drop(front);
        cx.still_serves()
            .with_context(|| format!("after messages for queue {queue}"))?;
    }
    Ok(())
}

/// A ring that is started before anything is known about it.
pub(crate) fn ring_started_before_it_is_known(cx: &mut Cx) -> Result<()> {
    let front = cx.negotiated()?;
    let event = crate::event::Event::new()?;
    let _ = front.set_vring_kick(0, Some(event.fd()));
    let _ = front.set_vring_enable(0, true);
    event.signal()?;
    let _ = front.get_features();
    let _ = front.get_vring_base(0);
    drop(front);
    cx.still_serves()
}

/// Memory is taken away from under a running ring.
pub(crate) fn ring_whose_memory_is_removed(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest_with_slots()?;
    guest.lane().burst(&*profile, 20, 16)?;
    let rings = guest.memory.regions().remove(0);
    let _ = guest.front.rem_mem_reg(&rings);
    for _ in 0..10 {
        guest.lane().queue.force_kick();
        guest
            .front
            .get_features()
            .context("the connection, after the ring's memory went away")?;
    }
    drop(guest);
    cx.still_serves()
}

/// Options of a guest without an error descriptor: nothing to signal must not mean nothing to do.
pub(crate) fn broken_ring_without_an_error_descriptor(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options::default())?;
    let queue = guest.lane().queue.index;
    guest.front.set_vring_err(queue, None)?;
    guest.lane().burst(&*profile, 10, 16)?;
    let lane = guest.lane();
    lane.queue
        .set_available_index(lane.queue.available_index().wrapping_add(0x4000));
    lane.queue.force_kick();
    guest
        .front
        .get_features()
        .context("the connection, after the ring broke")?;
    serves_on_a_sane_ring(cx, guest)
}
