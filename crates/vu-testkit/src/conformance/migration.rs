// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty log, and the device's state.

use std::io::Read as _;
use std::os::fd::AsFd;

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result, skip};
use crate::chains::Placement;
use crate::frontend::wire::{feature, protocol};
use crate::guest::{ADJACENT, ADJACENT_SIZE, Guest, Options};
use crate::memory::{Mapping, PAGE};

/// A log that covers the lowest bytes of the guest, at an offset of its file.
struct DirtyLog {
    map: Mapping,
}

const LOG_OFFSET: u64 = 0x1000;
/// As far as these tests reach, and more: one bit for each page.
const LOG_SIZE: u64 = (ADJACENT + 2 * ADJACENT_SIZE) / PAGE / 8;

impl DirtyLog {
    fn start(guest: &Guest) -> Result<Self> {
        let file = rustix::fs::memfd_create("dirty-log", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, LOG_OFFSET + 0x1000)?;
        let map = Mapping::new(file.as_fd(), LOG_OFFSET, 0x1000)?;
        guest.front.set_log_base(file.as_fd(), LOG_SIZE, LOG_OFFSET)?;
        Ok(Self { map })
    }

    fn dirty(&self, addr: u64) -> bool {
        let page = addr / PAGE;
        let byte = usize::try_from(page / 8).expect("the page is among those of the log");
        self.map.load_u8(byte) >> (page % 8) & 1 == 1
    }

    fn clear(&self) {
        self.map.write(0, &[0; LOG_SIZE as usize]);
    }
}

/// A guest whose buffers the log covers, with logging on.
fn logged_guest(cx: &Cx, size: u16) -> Result<(Guest, DirtyLog)> {
    cx.need_feature(feature::LOG_ALL, "LOG_ALL")?;
    cx.need_protocol(protocol::LOG_SHMFD, "LOG_SHMFD")?;
    let layout = vec![
        crate::memory::RegionSpec::new(crate::guest::RINGS, crate::guest::RINGS_SIZE),
        crate::memory::RegionSpec::new(ADJACENT, ADJACENT_SIZE),
    ];
    let mut guest = cx.guest(Options {
        size,
        layout,
        ..Options::default()
    })?;
    guest.lane().use_buffers(ADJACENT, ADJACENT_SIZE);
    let log = DirtyLog::start(&guest)?;
    guest.front.set_features(guest.features | feature::LOG_ALL)?;
    let (memory, queue) = (guest.memory.clone(), &guest.lanes[guest.request_index()].queue);
    guest
        .front
        .set_vring_addr(queue.index, &memory, queue.address, Some(queue.address.used))?;
    Ok((guest, log))
}

pub(super) fn each_written_page_is_marked(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let (mut guest, log) = logged_guest(cx, 64)?;
    for round in 0..16 {
        log.clear();
        let start = ADJACENT + round * 0x8000 + 0xff0;
        let lane = guest.lane();
        lane.use_buffers(start, 0x6000);
        let request = lane.next_request(&*profile, 0x2800);
        let len = request.writable as u64;
        let mut before = vec![0; 0x8000];
        let pending = lane.place(request, lane.framing(&*profile), Placement::Direct);
        lane.memory.read(start & !0xfff, &mut before);
        lane.queue.submit();
        let used = lane.queue.wait(lane.end())?;
        lane.check(&*profile, &pending, used)?;
        let mut after = vec![0; 0x8000];
        lane.memory.read(start & !0xfff, &mut after);
        for page in 0..8 {
            let range = page * 0x1000..(page + 1) * 0x1000;
            let written = before[range.clone()] != after[range];
            let marked = log.dirty((start & !0xfff) + page as u64 * PAGE);
            ensure!(
                !written || marked,
                "page {page} of a buffer of {len:#x} bytes was written and not marked"
            );
        }
        ensure!(
            log.dirty(lane.queue.address.used),
            "the used ring was written and not marked"
        );
        ensure!(
            !log.dirty(ADJACENT + ADJACENT_SIZE - PAGE),
            "a page that nobody wrote is marked"
        );
    }
    Ok(())
}

/// A used ring of several pages: each page with an element that was written is marked, not only the one with the index.
pub(super) fn each_page_of_the_used_ring_is_marked(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let (mut guest, log) = logged_guest(cx, 1024)?;
    log.clear();
    guest.lane().burst(&*profile, 1000, 16)?;
    let used = guest.lane().queue.address.used;
    let end = used + 4 + 8 * 1000;
    for page in used / PAGE..=(end - 1) / PAGE {
        ensure!(
            log.dirty(page * PAGE),
            "page {:#x} of the used ring was written and not marked",
            page * PAGE
        );
    }
    Ok(())
}

pub(super) fn logging_ends_when_it_is_switched_off(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let (mut guest, log) = logged_guest(cx, 64)?;
    guest.lane().burst(&*profile, 20, 64)?;
    guest.front.set_features(guest.features & !feature::LOG_ALL)?;
    let (memory, queue) = (guest.memory.clone(), &guest.lanes[guest.request_index()].queue);
    guest
        .front
        .set_vring_addr(queue.index, &memory, queue.address, None)?;
    log.clear();
    guest.lane().burst(&*profile, 20, 64)?;
    let used = guest.lane().queue.address.used;
    ensure!(
        !log.dirty(used) && !log.dirty(ADJACENT),
        "pages are marked after logging was switched off"
    );
    Ok(())
}

pub(super) fn memory_added_while_logging_is_logged(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let (mut guest, log) = logged_guest(cx, 64)?;
    let addr = ADJACENT + ADJACENT_SIZE;
    guest.memory.add(crate::memory::RegionSpec::new(addr, 0x10000))?;
    guest.front.set_mem_table(&guest.memory)?;
    guest.lane().use_buffers(addr, 0x10000);
    guest.lane().round_trip(&*profile, 256)?;
    ensure!(
        log.dirty(addr),
        "a page of memory that came while logging was written and not marked"
    );
    Ok(())
}

pub(super) fn a_log_that_is_too_small_does_no_harm(cx: &mut Cx) -> Result<()> {
    let (guest, _log) = logged_guest(cx, 64)?;
    let file = rustix::fs::memfd_create("dirty-log", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, 0x1000)?;
    for (size, offset) in [
        (1, 0),
        (0, 0),
        (u64::MAX, 0),
        (0x1000, u64::MAX),
        (0x10_0000, 0),
        (16, 0x10_0000),
    ] {
        let _ = guest.front.set_log_base(file.as_fd(), size, offset);
    }
    drop(guest);
    cx.still_serves()
}

pub(super) fn the_state_survives_a_move(cx: &mut Cx) -> Result<()> {
    cx.need_protocol(protocol::DEVICE_STATE, "DEVICE_STATE")?;
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    guest.lane().burst(&*profile, 20, 64)?;
    let queue = guest.lane().queue.index;
    guest.front.get_vring_base(queue)?;
    let (mut reader, writer) = std::io::pipe()?;
    guest.front.set_device_state_fd(false, writer.as_fd())?;
    drop(writer);
    let mut state = Vec::new();
    reader.read_to_end(&mut state)?;
    guest.front.check_device_state().context("after saving")?;
    drop(guest);
    let mut guest = cx.guest(Options {
        enable: false,
        ..Options::default()
    })?;
    let (reader, mut writer) = std::io::pipe()?;
    guest.front.set_device_state_fd(true, reader.as_fd())?;
    drop(reader);
    std::io::Write::write_all(&mut writer, &state)?;
    drop(writer);
    guest.front.check_device_state().context("after loading")?;
    let index = guest.request_index();
    guest.enable(index, true)?;
    guest.lane().burst(&*profile, 20, 64).context("after loading")
}

pub(super) fn a_senseless_state_is_refused(cx: &mut Cx) -> Result<()> {
    cx.need_protocol(protocol::DEVICE_STATE, "DEVICE_STATE")?;
    let guest = cx.guest(Options {
        enable: false,
        ..Options::default()
    })?;
    let (reader, mut writer) = std::io::pipe()?;
    guest.front.set_device_state_fd(true, reader.as_fd())?;
    drop(reader);
    let _ = std::io::Write::write_all(&mut writer, &[0xff; 4096]);
    drop(writer);
    if guest.front.check_device_state().is_ok() {
        return skip("the device takes any state");
    }
    drop(guest);
    cx.still_serves()
}
