// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory regions that come, go and adjoin.

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result, refused};
use super::lifecycle::under_load;
use crate::chains::Placement;
use crate::frontend::wire::protocol;
use crate::guest::{ADJACENT, Options, USUAL_PROTOCOL, default_layout};
use crate::memory::{GuestMemory, RegionSpec};

/// Where additional regions go.
const EXTRA: u64 = 1 << 36;
const EXTRA_SIZE: u64 = 1 << 16;

pub(super) fn buffers_may_straddle_adjacent_regions(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    for before in [1, 7, 64, 1000] {
        let lane = guest.lane();
        let request = lane.next_request(&*profile, 2048);
        lane.use_buffers(ADJACENT - before, 0x8000);
        let result = lane.round_trip_of(&*profile, request, lane.framing(&*profile), Placement::Direct);
        result.with_context(|| format!("a buffer with {before} bytes before the seam"))?;
    }
    Ok(())
}

pub(super) fn slots_are_at_least_8(cx: &mut Cx) -> Result<()> {
    let guest = cx.guest_with_slots()?;
    let slots = guest.front.get_max_mem_slots()?;
    ensure!(slots >= 8, "{slots} memory slots");
    Ok(())
}

pub(super) fn regions_added_one_by_one_are_used(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest_with_slots()?;
    let count = guest.front.get_max_mem_slots()?.min(32) - guest.memory.regions().len() as u64;
    for number in 0..count {
        let addr = EXTRA + number * 2 * EXTRA_SIZE;
        let region = guest.memory.add(RegionSpec {
            guest_addr: addr,
            size: EXTRA_SIZE,
            offset: 0x1000,
        })?;
        guest
            .front
            .add_mem_reg(&region)
            .with_context(|| format!("region {number}"))?;
        guest.lane().use_buffers(addr, EXTRA_SIZE);
        guest
            .lane()
            .round_trip(&*profile, 2048)
            .with_context(|| format!("buffers in region {number}"))?;
    }
    for number in (0..count).rev() {
        let region = guest
            .memory
            .remove(EXTRA + number * 2 * EXTRA_SIZE)
            .expect("added above");
        guest
            .front
            .rem_mem_reg(&region)
            .with_context(|| format!("removing region {number}"))?;
    }
    guest
        .lane()
        .use_buffers(crate::guest::BUFFERS, crate::guest::BUFFERS_SIZE);
    guest.lane().burst(&*profile, 20, 64)
}

pub(super) fn a_table_of_8_regions_is_used(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut layout = default_layout();
    while layout.len() < 8 {
        layout.push(RegionSpec::new(
            EXTRA + layout.len() as u64 * 2 * EXTRA_SIZE,
            EXTRA_SIZE,
        ));
    }
    let last = layout[7].guest_addr;
    let mut guest = cx.guest(Options {
        layout,
        ..Options::default()
    })?;
    guest.lane().use_buffers(last, EXTRA_SIZE);
    guest.lane().burst(&*profile, 20, 64)
}

pub(super) fn a_table_of_32_regions_is_used_or_refused(cx: &mut Cx) -> Result<()> {
    let front = cx.negotiated()?;
    let layout: Vec<_> = (0..32)
        .map(|number| RegionSpec::new(number * 2 * EXTRA_SIZE, EXTRA_SIZE))
        .collect();
    refused(front.set_mem_table(&GuestMemory::new(&layout)?))?;
    drop(front);
    cx.still_serves()
}

pub(super) fn slots_change_under_load(cx: &mut Cx) -> Result<()> {
    cx.need_protocol(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
    let options = Options {
        protocol: USUAL_PROTOCOL | protocol::CONFIGURE_MEM_SLOTS,
        ..Options::default()
    };
    under_load(cx, options, |guest, _, round| {
        if round % 2 == 0 {
            let region = guest.memory.add(RegionSpec::new(EXTRA, EXTRA_SIZE))?;
            return Ok(guest.front.add_mem_reg(&region)?);
        }
        let region = guest.memory.remove(EXTRA).expect("added in the step before");
        Ok(guest.front.rem_mem_reg(&region)?)
    })
}

pub(super) fn table_changes_under_load(cx: &mut Cx) -> Result<()> {
    under_load(cx, Options::default(), |guest, _, round| {
        if round % 2 == 0 {
            guest.memory.add(RegionSpec::new(EXTRA, EXTRA_SIZE))?;
        } else {
            let _gone = guest.memory.remove(EXTRA);
        }
        Ok(guest.front.set_mem_table(&guest.memory)?)
    })
}

/// Memory that is pulled away while requests use it: their heads come back all the same.
pub(super) fn memory_in_use_may_be_removed(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for _ in 0..10 {
        let mut guest = cx.guest_with_slots()?;
        let region = guest.memory.add(RegionSpec::new(EXTRA, 1 << 20))?;
        guest.front.add_mem_reg(&region)?;
        let lane = guest.lane();
        lane.use_buffers(EXTRA, 1 << 20);
        for _ in 0..20 {
            lane.place_next(&*profile, 16 << 10);
        }
        lane.queue.submit();
        guest.front.rem_mem_reg(&region)?;
        let lane = guest.lane();
        let end = lane.end();
        lane.queue
            .wait_all(end)
            .context("heads of requests whose memory was removed")?;
        lane.use_buffers(crate::guest::BUFFERS, crate::guest::BUFFERS_SIZE);
        lane.burst(&*profile, 20, 64).context("after the removal")?;
    }
    cx.still_serves()
}

pub(super) fn removed_memory_is_not_touched(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest_with_slots()?;
    let region = guest.memory.add(RegionSpec::new(EXTRA, EXTRA_SIZE))?;
    guest.front.add_mem_reg(&region)?;
    guest.lane().use_buffers(EXTRA, EXTRA_SIZE);
    guest.lane().round_trip(&*profile, 64)?;
    guest.front.rem_mem_reg(&region)?;
    let lane = guest.lane();
    let pending = lane.place_next(&*profile, 64);
    lane.queue.submit();
    let end = lane.end();
    let used = lane.queue.wait(end).context("a request whose memory is gone")?;
    ensure!(
        used.len == 0,
        "a request whose memory is gone comes back with length {}",
        used.len
    );
    let wrote = guest
        .lane()
        .check(&*profile, &pending, crate::driver::Used { id: used.id, len: 64 })
        .is_ok();
    ensure!(!wrote, "memory was written after REM_MEM_REG");
    Ok(())
}

pub(super) fn senseless_regions_are_refused_without_hanging_up(cx: &mut Cx) -> Result<()> {
    let guest = cx.guest_with_slots()?;
    let overlapping = crate::memory::Region::new(RegionSpec::new(ADJACENT + 0x1000, EXTRA_SIZE))?;
    ensure!(
        guest.front.add_mem_reg(&overlapping).is_err(),
        "a region that overlaps another is accepted"
    );
    guest
        .front
        .get_features()
        .context("after an overlapping region")?;
    let unknown = crate::memory::Region::new(RegionSpec::new(EXTRA, EXTRA_SIZE))?;
    ensure!(
        guest.front.rem_mem_reg(&unknown).is_err(),
        "a region that was never added is removed"
    );
    guest
        .front
        .get_features()
        .context("after the removal of an unknown region")?;
    drop(guest);
    cx.still_serves()
}
