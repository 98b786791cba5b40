// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory that is not what it seems (T4, T23).

use anyhow::Context as _;

use crate::conformance::{Cx, Result};
use crate::frontend::wire::{VERSION, protocol, request, u32s, u64s};
use crate::guest::{BUFFERS, RINGS};
use crate::memory::{Region, RegionSpec};

/// T23: the file behind a region shrinks; touching it is SIGBUS. `addr` names the region.
fn truncated(cx: &Cx, addr: u64) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let lane = guest.lane();
    lane.round_trip(&*profile, 64)?;
    for _ in 0..8 {
        lane.place_next(&*profile, 4096);
    }
    lane.queue.publish();
    let regions = guest.memory.regions();
    let region = regions
        .iter()
        .find(|region| region.spec.guest_addr == addr)
        .expect("a region of the usual guest");
    region.truncate()?;
    // From here on this process must not touch the region either.
    guest.lane().queue.force_kick();
    let _ = guest.front.get_features();
    let queue = guest.lane().queue.index;
    let _ = guest.front.get_vring_base(queue);
    drop(guest);
    cx.still_serves()
}

pub(crate) fn file_of_the_buffers_is_truncated(cx: &mut Cx) -> Result<()> {
    truncated(cx, BUFFERS)
}

pub(crate) fn file_of_the_rings_is_truncated(cx: &mut Cx) -> Result<()> {
    truncated(cx, RINGS)
}

fn region_bytes(fields: [u64; 4]) -> Vec<u8> {
    u64s(&fields)
}

/// Regions that wrap, are empty, are larger than their file, or not aligned.
const ODD: &[[u64; 4]] = &[
    [0, 0, 0x1000, 0],
    [0, u64::MAX, 0x1000, 0],
    [u64::MAX - 0xfff, 0x2000, 0x1000, 0],
    [0, 0x2000, u64::MAX - 0xfff, 0],
    [0, 0x1000, 0x1000, u64::MAX - 0xfff],
    [0, 0x1000, 0x1000, 1],
    [1, 0x1001, 0x1001, 0x10],
    [0, 1 << 46, 1 << 46, 0],
    [u64::MAX, 1, u64::MAX, u64::MAX],
];

pub(crate) fn table_with_senseless_regions(cx: &mut Cx) -> Result<()> {
    let file = Region::new(RegionSpec::new(0, 0x4000))?;
    for fields in ODD {
        let front = cx.negotiated()?;
        let mut payload = u32s(&[1, 0]);
        payload.extend(region_bytes(*fields));
        let _ = front.command("SET_MEM_TABLE", request::SET_MEM_TABLE, &payload, &[file.file()]);
        drop(front);
        cx.still_serves()
            .with_context(|| format!("after the region {fields:#x?}"))?;
    }
    Ok(())
}

pub(crate) fn slot_with_a_senseless_region(cx: &mut Cx) -> Result<()> {
    cx.need_protocol(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
    let file = Region::new(RegionSpec::new(0, 0x4000))?;
    for fields in ODD {
        let mut front = cx.negotiated()?;
        let offered = front.get_protocol_features()?;
        front.set_protocol_features(offered & (protocol::REPLY_ACK | protocol::CONFIGURE_MEM_SLOTS))?;
        let mut payload = u64s(&[0]);
        payload.extend(region_bytes(*fields));
        let _ = front.command("ADD_MEM_REG", request::ADD_MEM_REG, &payload, &[file.file()]);
        // A ring address that only such a region could hold.
        let _ = front.set_vring_addr_raw(0, 0, [fields[2], fields[2].wrapping_add(0x800), fields[2], 0]);
        let _ = front.command("REM_MEM_REG", request::REM_MEM_REG, &payload, &[]);
        drop(front);
        cx.still_serves()
            .with_context(|| format!("after the region {fields:#x?}"))?;
    }
    Ok(())
}

pub(crate) fn table_whose_count_and_descriptors_disagree(cx: &mut Cx) -> Result<()> {
    let file = Region::new(RegionSpec::new(0, 0x4000))?;
    for (count, regions, fds) in [
        (0, 0, 0),
        (1, 1, 0),
        (1, 1, 3),
        (2, 1, 2),
        (1, 2, 1),
        (u32::MAX, 1, 1),
        (8, 8, 1),
        (64, 64, 8),
    ] {
        let front = cx.negotiated()?;
        let mut payload = u32s(&[count, 0]);
        for number in 0..regions {
            payload.extend(region_bytes([
                number * 0x10000,
                0x4000,
                0x7000_0000 + number * 0x10000,
                0,
            ]));
        }
        let attached = vec![file.file(); fds];
        let _ = front.send(request::SET_MEM_TABLE, VERSION, &payload, &attached);
        drop(front);
        cx.still_serves()
            .with_context(|| format!("after {count} announced, {regions} sent, {fds} descriptors"))?;
    }
    Ok(())
}

/// Files that cannot be mapped: a pipe, a directory, a socket.
pub(crate) fn regions_of_files_that_cannot_be_mapped(cx: &mut Cx) -> Result<()> {
    use std::os::fd::AsFd;
    let (reader, _writer) = std::io::pipe()?;
    let directory = std::fs::File::open("/")?;
    let (socket, _other) = std::os::unix::net::UnixStream::pair()?;
    for fd in [reader.as_fd(), directory.as_fd(), socket.as_fd()] {
        let front = cx.negotiated()?;
        let mut payload = u32s(&[1, 0]);
        payload.extend(region_bytes([0, 0x4000, 0x7000_0000, 0]));
        let _ = front.command("SET_MEM_TABLE", request::SET_MEM_TABLE, &payload, &[fd]);
        drop(front);
        cx.still_serves()?;
    }
    Ok(())
}
