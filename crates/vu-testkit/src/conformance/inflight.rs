// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The in-flight region and recovery after a crash (vhost-user, "Inflight I/O tracking").

use std::os::fd::AsFd;

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result};
use crate::driver::Used;
use crate::frontend::Inflight;
use crate::frontend::wire::protocol;
use crate::guest::{Guest, Options};
use crate::memory::Mapping;

/// Bytes before the array of descriptor states, and of one such state.
const HEAD: usize = 16;
const STATE: usize = 16;

/// A view of one queue's part of the region.
struct View {
    map: Mapping,
    start: usize,
}

impl View {
    fn new(region: &Inflight, queue: u16) -> Result<Self> {
        let len = usize::try_from(region.mmap_size)?;
        let map = Mapping::new(region.file.as_fd(), region.mmap_offset, len)?;
        let stride = (HEAD + STATE * usize::from(region.queue_size)).next_multiple_of(64);
        // The specification leaves the distance of the queues' parts open; only the first is certain.
        ensure!(
            len >= HEAD + STATE * usize::from(region.queue_size),
            "the region has {len} bytes"
        );
        Ok(Self {
            map,
            start: stride * usize::from(queue),
        })
    }

    fn u16(&self, at: usize) -> u16 {
        let mut bytes = [0; 2];
        self.map.read(self.start + at, &mut bytes);
        u16::from_ne_bytes(bytes)
    }

    fn set_u16(&self, at: usize, value: u16) {
        self.map.write(self.start + at, &value.to_ne_bytes());
    }

    fn in_flight(&self, head: u16) -> bool {
        self.map.load_u8(self.start + HEAD + STATE * usize::from(head)) != 0
    }

    fn set_state(&self, head: u16, in_flight: bool, next: u16, counter: u64) {
        let at = self.start + HEAD + STATE * usize::from(head);
        self.map.write(at, &[u8::from(in_flight)]);
        self.map.write(at + 6, &next.to_ne_bytes());
        self.map.write(at + 8, &counter.to_ne_bytes());
    }
}

const VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;

fn tracked_guest(cx: &Cx, size: u16) -> Result<Guest> {
    cx.need_protocol(protocol::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
    cx.guest(Options {
        size,
        inflight: true,
        ..Options::default()
    })
}

fn region(guest: &Guest) -> &Inflight {
    guest.inflight.as_ref().expect("tracked_guest asked for it")
}

pub(super) fn the_region_has_the_layout_of_the_specification(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for size in [4, 64, 256] {
        let mut guest = tracked_guest(cx, size)?;
        guest.lane().burst(&*profile, 100, 16)?;
        let queue = guest.lane().queue.index;
        guest.front.get_vring_base(queue)?;
        let used = guest.lane().queue.used_index();
        let least = (HEAD + STATE * usize::from(size)) * usize::from(profile.queues());
        let bytes = region(&guest).mmap_size;
        ensure!(
            bytes >= least as u64,
            "{bytes} bytes for {} queues of {size}",
            profile.queues()
        );
        if profile.request_queue() != 0 {
            continue;
        }
        let view = View::new(region(&guest), 0)?;
        ensure!(view.u16(VERSION) == 1, "version {}", view.u16(VERSION));
        ensure!(
            view.u16(DESC_NUM) == size,
            "desc_num {} of a ring of {size}",
            view.u16(DESC_NUM)
        );
        ensure!(
            view.u16(USED_IDX) == used,
            "used_idx {} and the ring {used}",
            view.u16(USED_IDX)
        );
        let left: Vec<u16> = (0..size).filter(|head| view.in_flight(*head)).collect();
        ensure!(
            left.is_empty(),
            "heads {left:?} are marked in flight on an idle ring"
        );
    }
    Ok(())
}

/// Under load heads are seen in flight, or a crash would find nothing to resubmit.
pub(super) fn heads_are_marked_while_they_are_served(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    if profile.request_queue() != 0 {
        return super::context::skip("the layout of a region with several queues is the back end's own");
    }
    let mut guest = tracked_guest(cx, 64)?;
    let view = View::new(region(&guest), 0)?;
    let lane = guest.take_lane();
    let end = lane.end();
    let load = crate::guest::Load::start(lane, profile, 32 << 10);
    let mut seen = false;
    while !seen && std::time::Instant::now() < end && !load.failed() {
        seen = (0..64).any(|head| view.in_flight(head));
    }
    load.stop()?;
    ensure!(seen, "no head was ever marked in flight under load");
    let left: Vec<u16> = (0..64).filter(|head| view.in_flight(*head)).collect();
    ensure!(
        left.is_empty(),
        "heads {left:?} are marked in flight after the load"
    );
    Ok(())
}

/// A guest that has been served and whose ring of requests is stopped, so that its region can be forged.
fn stopped_guest(cx: &Cx) -> Result<Guest> {
    let profile = &cx.profile;
    if profile.request_queue() != 0 {
        return super::context::skip("the layout of a region with several queues is the back end's own");
    }
    let mut guest = tracked_guest(cx, 64)?;
    guest.lane().burst(&**profile, 40, 16)?;
    let queue = guest.lane().queue.index;
    guest.front.get_vring_base(queue)?;
    Ok(guest)
}

/// A crash forged by hand: five requests of eight were taken, in an order of their own; three more wait in the ring.
pub(super) fn requests_in_flight_are_resubmitted_in_order(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = stopped_guest(cx)?;
    let lane = guest.lane();
    let batch: Vec<_> = (0..8).map(|_| lane.place_next(&*profile, 16)).collect();
    lane.queue.publish();
    let view = View::new(region(&guest), 0)?;
    let order = [3, 0, 4, 1, 2];
    for (rank, position) in order.into_iter().enumerate() {
        view.set_state(batch[position].head, true, 0, 1000 + rank as u64);
    }
    let front = cx.connect_after_drop(&mut guest)?;
    guest.reconnect(front)?;
    let lane = guest.lane();
    let end = lane.end();
    let used: Vec<Used> = lane
        .queue
        .wait_all(end)
        .context("requests in flight and those behind them")?;
    let mut heads: Vec<u32> = used.iter().map(|used| used.id).collect();
    let mut expected: Vec<u32> = order
        .iter()
        .chain(&[5, 6, 7])
        .map(|at| u32::from(batch[*at].head))
        .collect();
    if !profile.in_order() {
        heads.sort_unstable();
        expected.sort_unstable();
    }
    ensure!(
        heads == expected,
        "the heads came back as {heads:?}, the counters say {expected:?}"
    );
    guest
        .lane()
        .burst(&*profile, 40, 16)
        .context("after the recovery")
}

/// A crash between "used.idx" and "inflight = 0": the last batch is not resubmitted.
pub(super) fn the_last_batch_is_not_resubmitted(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = stopped_guest(cx)?;
    // Pretend that the region lags two completions behind the used ring.
    let used = guest.lane().queue.used_index();
    let view = View::new(region(&guest), 0)?;
    let done = [used.wrapping_sub(1), used.wrapping_sub(2)].map(|at| guest.lanes[0].queue.used_entry(at).id);
    let done = done.map(|id| u16::try_from(id).unwrap_or(0));
    view.set_state(done[0], true, done[1], 2001);
    view.set_state(done[1], true, 0, 2000);
    view.set_u16(LAST_BATCH_HEAD, done[0]);
    view.set_u16(USED_IDX, used.wrapping_sub(2));
    // Requests behind it, on heads that are not those two.
    let lane = guest.lane();
    let mut batch = Vec::new();
    while batch.len() < 3 {
        let pending = lane.place_next(&*profile, 16);
        ensure!(
            !done.contains(&pending.head),
            "the driver reuses heads too early for this test"
        );
        batch.push(pending);
    }
    lane.queue.publish();
    let front = cx.connect_after_drop(&mut guest)?;
    guest.reconnect(front)?;
    guest
        .lane()
        .settle(&*profile, batch)
        .context("after a crash in the middle of a completion")?;
    guest.lane().burst(&*profile, 40, 16)
}

pub(super) fn a_killed_daemon_loses_and_repeats_nothing(cx: &mut Cx) -> Result<()> {
    cx.daemon()?;
    let profile = cx.profile.clone();
    let mut guest = tracked_guest(cx, 256)?;
    for round in 0..8 {
        let lane = guest.lane();
        let batch: Vec<_> = (0..60).map(|_| lane.place_next(&*profile, 32 << 10)).collect();
        let before = lane.queue.used_index();
        lane.queue.submit();
        let end = lane.end();
        // Somewhere in the middle: the more rounds, the later.
        while lane.queue.used_index().wrapping_sub(before) < 1 + round * 6 && std::time::Instant::now() < end
        {
            std::hint::spin_loop();
        }
        cx.crash()?;
        guest.reconnect(cx.connect()?)?;
        guest
            .lane()
            .settle(&*profile, batch)
            .with_context(|| format!("after kill {round}"))?;
    }
    guest.lane().burst(&*profile, 100, 64)
}

/// With a slow device requests are certainly in flight at the crash.
pub(super) fn a_killed_slow_daemon_resumes_what_it_held(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let fast = cx.daemon()?.launch().clone();
    let Some(slow) = profile.slow(&fast) else {
        return super::context::skip("the device has no way to be slow");
    };
    cx.respawn_as(&slow)?;
    let mut guest = tracked_guest(cx, 64)?;
    let lane = guest.lane();
    let batch: Vec<_> = (0..16).map(|_| lane.place_next(&*profile, 64)).collect();
    lane.queue.submit();
    let end = lane.end();
    while lane.queue.used_index() == 0 {
        ensure!(
            std::time::Instant::now() < end,
            "even the first request is not served"
        );
        std::thread::yield_now();
    }
    cx.daemon()?.process().kill()?;
    cx.respawn_as(&fast)?;
    guest.reconnect(cx.connect()?)?;
    guest
        .lane()
        .settle(&*profile, batch)
        .context("what the killed daemon held")?;
    guest.lane().burst(&*profile, 40, 16)
}

/// What a hostile front end writes into the region must not lead anywhere.
pub(super) fn a_senseless_region_does_no_harm(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for pattern in [0xff_u8, 0x01, 0x80] {
        let mut guest = tracked_guest(cx, 64)?;
        guest.lane().burst(&*profile, 40, 16)?;
        let bytes = usize::try_from(region(&guest).mmap_size)?;
        let queue = guest.lane().queue.index;
        guest.front.get_vring_base(queue)?;
        let view = View::new(region(&guest), 0)?;
        view.map.write(HEAD, &vec![pattern; bytes - HEAD]);
        let front = cx.connect_after_drop(&mut guest)?;
        // The back end may refuse the region, hang up, or recover what it can; it must not end or hang.
        if guest.reconnect(front).is_ok() {
            let _ = guest.front.get_features();
        }
        drop(guest);
        cx.still_serves()
            .with_context(|| format!("after a region full of {pattern:#x}"))?;
    }
    let front = cx.negotiated()?;
    for (size, offset, queues, entries) in [
        (0, 0, 1, 64),
        (64, 0, 1, 64),
        (u64::MAX, 0, 1, 64),
        (4096, u64::MAX - 4095, 1, 64),
        (4096, 1, 1, 64),
        (4096, 0, 0, 0),
    ] {
        let file = rustix::fs::memfd_create("inflight", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, 4096)?;
        let region = Inflight {
            file,
            mmap_size: size,
            mmap_offset: offset,
            queues,
            queue_size: entries,
        };
        let front = if front.get_features().is_ok() {
            &front
        } else {
            &cx.negotiated()?
        };
        super::context::refused(front.set_inflight_fd(&region))?;
    }
    drop(front);
    cx.still_serves()
}
