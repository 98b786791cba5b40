// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers that a device keeps until something happens, as those of a queue of events.

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result, skip};
use crate::chains::{Framing, Placement, Request};
use crate::devices::{Parking, Profile};
use crate::driver::Queue;
use crate::frontend::wire::{feature, protocol};
use crate::guest::{Guest, Options, Pending};

fn parking(cx: &Cx) -> Result<Parking> {
    cx.profile
        .parking()
        .map_or_else(|| skip("the device keeps no buffers"), Ok)
}

fn ask(guest: &mut Guest, profile: &dyn Profile, requests: &[Request]) -> Result<()> {
    for request in requests {
        guest
            .lane()
            .round_trip_of(profile, request.clone(), Framing::Whole, Placement::Direct)?;
    }
    Ok(())
}

/// Has the device keep all buffers.
fn park(guest: &mut Guest, profile: &dyn Profile, parking: &Parking) -> Result<Vec<Pending>> {
    ask(guest, profile, &parking.prepare).context("before any buffer is parked")?;
    let lane = &mut guest.lanes[usize::from(parking.queue)];
    let place = |buffer: &Request| lane.place(buffer.clone(), Framing::Whole, Placement::Direct);
    let parked = parking.buffers.iter().map(place).collect();
    lane.queue.submit();
    stay(guest, profile, parking)?;
    Ok(parked)
}

/// Other requests are answered meanwhile, and no buffer comes back.
fn stay(guest: &mut Guest, profile: &dyn Profile, parking: &Parking) -> Result<()> {
    let before = used(guest, parking);
    for _ in 0..20 {
        guest
            .lane()
            .round_trip(profile, 64)
            .context("while another queue's buffers are parked")?;
    }
    let after = used(guest, parking);
    ensure!(
        before == after,
        "a parked buffer came back: used index {before} -> {after}"
    );
    Ok(())
}

fn used(guest: &Guest, parking: &Parking) -> u16 {
    guest.lanes[usize::from(parking.queue)].queue.used_index()
}

/// Has the device give all buffers back: each once, with something in it.
fn release(guest: &mut Guest, profile: &dyn Profile, parking: &Parking, parked: &[Pending]) -> Result<()> {
    ask(guest, profile, &parking.release).context("while buffers are parked")?;
    let lane = &mut guest.lanes[usize::from(parking.queue)];
    let end = lane.end();
    // The driver half finds a head that comes back twice.
    let used = lane
        .queue
        .wait_all(end)
        .context("parked buffers that were released")?;
    let mut heads: Vec<u32> = used.iter().map(|used| used.id).collect();
    let mut expected: Vec<u32> = parked.iter().map(|pending| pending.head.into()).collect();
    heads.sort_unstable();
    expected.sort_unstable();
    ensure!(
        heads == expected,
        "of the buffers {expected:?} came back {heads:?}"
    );
    let empty = used.iter().find(|used| used.len == 0);
    ensure!(empty.is_none(), "{empty:?} came back empty");
    guest
        .lane()
        .burst(profile, 20, 64)
        .context("after parked buffers came back")
}

pub(super) fn buffers_stay_until_they_are_released(cx: &mut Cx) -> Result<()> {
    let (profile, parking) = (cx.profile.clone(), parking(cx)?);
    let mut guest = cx.usual_guest()?;
    for round in 0..20 {
        let parked = park(&mut guest, &*profile, &parking)?;
        release(&mut guest, &*profile, &parking, &parked).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// The index tells that the buffers were not used, and a queue that starts there takes them again.
pub(super) fn a_stopped_queue_gives_its_buffers_back(cx: &mut Cx) -> Result<()> {
    let (profile, parking) = (cx.profile.clone(), parking(cx)?);
    let mut guest = cx.usual_guest()?;
    let index = usize::from(parking.queue);
    let parked = park(&mut guest, &*profile, &parking)?;
    for _ in 0..10 {
        let base = guest.front.get_vring_base(parking.queue.into())?;
        let used = used(&guest, &parking);
        ensure!(
            base == u32::from(used),
            "GET_VRING_BASE says {base}, the used ring stands at {used}"
        );
        // Some drivers of the protocol stop all queues, but the others may go on.
        stay(&mut guest, &*profile, &parking).context("beside a stopped queue")?;
        guest.start_ring(index, used)?;
        guest.enable(index, true)?;
        guest.lanes[index].queue.force_kick();
        stay(&mut guest, &*profile, &parking).context("after the queue started again")?;
    }
    release(&mut guest, &*profile, &parking, &parked)
}

pub(super) fn a_reset_device_forgets_them(cx: &mut Cx) -> Result<()> {
    let (profile, parking) = (cx.profile.clone(), parking(cx)?);
    cx.need_protocol(protocol::RESET_DEVICE, "RESET_DEVICE")?;
    let mut guest = cx.usual_guest()?;
    for _ in 0..5 {
        park(&mut guest, &*profile, &parking)?;
        let before = used(&guest, &parking);
        guest.front.reset_device()?;
        let after = used(&guest, &parking);
        ensure!(
            before == after,
            "a reset used parked buffers: {before} -> {after}"
        );
        guest.front.set_features(guest.features)?;
        guest.front.set_mem_table(&guest.memory)?;
        for index in 0..guest.lanes.len() {
            let (number, place) = (guest.lanes[index].queue.index, guest.lanes[index].queue.address);
            let size = guest.lanes[index].queue.size;
            let mut queue = Queue::new(&guest.memory, number, place.descriptor, size, 0)?;
            queue.set_event_idx(guest.features & feature::EVENT_IDX != 0);
            guest.lanes[index].queue = queue;
            guest.start_ring(index, 0)?;
            guest.enable(index, true)?;
        }
    }
    let parked = park(&mut guest, &*profile, &parking)?;
    release(&mut guest, &*profile, &parking, &parked)
}

/// Buffers come back out of order with respect to what was parked before, so only the in-flight region can tell.
pub(super) fn a_killed_daemon_loses_and_repeats_none(cx: &mut Cx) -> Result<()> {
    let (profile, parking) = (cx.profile.clone(), parking(cx)?);
    cx.daemon()?;
    cx.need_protocol(protocol::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
    let mut guest = cx.guest(Options {
        inflight: true,
        ..Options::default()
    })?;
    for round in 0..8 {
        let parked = park(&mut guest, &*profile, &parking)?;
        // A request or two are on their way when it is killed.
        let lane = guest.lane();
        let batch = (0..2).map(|_| lane.place_next(&*profile, 64)).collect();
        lane.queue.submit();
        cx.crash()?;
        guest.reconnect(cx.connect()?)?;
        guest
            .lane()
            .settle(&*profile, batch)
            .with_context(|| format!("requests in flight at kill {round}"))?;
        // The new daemon may know nothing of what was prepared, and may have given them back for that.
        ask(&mut guest, &*profile, &parking.prepare)?;
        release(&mut guest, &*profile, &parking, &parked).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}

pub(super) fn hanging_up_with_parked_buffers_is_harmless(cx: &mut Cx) -> Result<()> {
    let (profile, parking) = (cx.profile.clone(), parking(cx)?);
    for _ in 0..20 {
        let mut guest = cx.usual_guest()?;
        park(&mut guest, &*profile, &parking)?;
    }
    let mut guest = cx.usual_guest()?;
    let parked = park(&mut guest, &*profile, &parking)?;
    // The same guest comes back with its rings: none of the buffers was used, so all are taken again.
    let front = cx.connect_after_drop(&mut guest)?;
    let unused = used(&guest, &parking);
    guest.reconnect(front)?;
    ask(&mut guest, &*profile, &parking.prepare)?;
    ensure!(
        unused == 0 || used(&guest, &parking) >= unused,
        "the used index went back"
    );
    release(&mut guest, &*profile, &parking, &parked)?;
    drop(guest);
    cx.still_serves()
}
