// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ring sizes, and the framing of requests.

use anyhow::{Context as _, bail, ensure};

use super::context::{Cx, Result, skip};
use crate::chains::{Descriptor, Framing, Placement, WRITE};
use crate::driver::write_indirect;
use crate::frontend::Error;
use crate::frontend::wire::{feature, protocol};
use crate::guest::{BUFFERS, Options, default_layout};
use crate::memory::RegionSpec;

fn serves_with_size(cx: &Cx, size: u16) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size,
        ..Options::default()
    })?;
    let count = usize::from(size).min(2048) * 3 + 5;
    guest
        .lane()
        .burst(&*profile, count, 16)
        .with_context(|| format!("{count} requests on a ring of {size}"))
}

pub(super) fn size_1_is_served_or_refused(cx: &mut Cx) -> Result<()> {
    let front = cx.negotiated()?;
    if matches!(front.set_vring_num(0, 1), Err(Error::Refused(..))) {
        front.get_features().context("after the refusal of size 1")?;
        return Ok(());
    }
    drop(front);
    if cx.profile.request(0, 16).readable.is_empty() {
        return serves_with_size(cx, 1);
    }
    Ok(()) // a request with readable and writable bytes does not fit
}

pub(super) fn size_2(cx: &mut Cx) -> Result<()> {
    serves_with_size(cx, 2)
}

pub(super) fn size_4(cx: &mut Cx) -> Result<()> {
    serves_with_size(cx, 4)
}

pub(super) fn size_64(cx: &mut Cx) -> Result<()> {
    serves_with_size(cx, 64)
}

pub(super) fn size_256(cx: &mut Cx) -> Result<()> {
    serves_with_size(cx, 256)
}

pub(super) fn size_1024(cx: &mut Cx) -> Result<()> {
    serves_with_size(cx, 1024)
}

pub(super) fn size_32768(cx: &mut Cx) -> Result<()> {
    serves_with_size(cx, 32768)
}

pub(super) fn sizes_that_do_not_exist_are_refused_without_hanging_up(cx: &mut Cx) -> Result<()> {
    let front = cx.negotiated()?;
    if !front.has(protocol::REPLY_ACK) {
        return skip("REPLY_ACK is not offered");
    }
    for size in [0, 3, 100, 32767, 32769, 65535, 65536, u32::MAX] {
        match front.set_vring_num(0, size) {
            Err(Error::Refused(..)) => {}
            Ok(()) => bail!("a ring of {size} entries is accepted"),
            Err(error) => bail!("a ring of {size} entries: {error}"),
        }
    }
    drop(front);
    cx.still_serves()
}

pub(super) fn indices_wrap(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size: 256,
        ..Options::default()
    })?;
    guest.lane().burst(&*profile, 70_000, 4)
}

pub(super) fn a_ring_may_start_at_any_index(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for base in [1, 63, 64, 32_767, 65_530] {
        let mut guest = cx.usual_guest()?;
        let index = guest.request_index();
        guest.front.get_vring_base(guest.lanes[index].queue.index)?;
        let (size, start) = (
            guest.lanes[index].queue.size,
            guest.lanes[index].queue.address.descriptor,
        );
        let mut queue = crate::driver::Queue::new(
            &guest.memory,
            u32::from(profile.request_queue()),
            start,
            size,
            base,
        )?;
        queue.set_event_idx(guest.features & feature::EVENT_IDX != 0);
        guest.lanes[index].queue = queue;
        guest.start_ring(index, base)?;
        guest.enable(index, true)?;
        guest
            .lane()
            .burst(&*profile, 150, 16)
            .with_context(|| format!("from index {base}"))?;
    }
    Ok(())
}

fn framings(cx: &Cx, placement: Placement) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size: 256,
        ..Options::default()
    })?;
    let size = 48;
    // Requests of a device need not be equally long.
    let requests = (1..=16).map(|number| profile.request(number, size));
    let lengths = requests.map(|request| request.readable.len() + request.writable);
    let total = lengths.max().unwrap_or(0);
    let splits = (1..total).map(Framing::SplitAt);
    for framing in [Framing::Whole, Framing::Pieces(1), Framing::Pieces(7)]
        .into_iter()
        .chain(splits)
    {
        let request = guest.lane().next_request(&*profile, size);
        if framing.cut(&request).len() > 200 {
            continue; // "little sympathy" is due for hundreds of descriptors in one chain
        }
        let result = guest.lane().round_trip_of(&*profile, request, framing, placement);
        result.with_context(|| format!("a request cut {framing:?}, placed {placement:?}"))?;
    }
    Ok(())
}

pub(super) fn framing_does_not_matter(cx: &mut Cx) -> Result<()> {
    framings(cx, Placement::Direct)
}

pub(super) fn framing_does_not_matter_in_indirect_tables(cx: &mut Cx) -> Result<()> {
    cx.need_feature(feature::INDIRECT_DESC, "INDIRECT_DESC")?;
    framings(cx, Placement::Indirect)
}

pub(super) fn a_chain_may_end_in_an_indirect_table(cx: &mut Cx) -> Result<()> {
    cx.need_feature(feature::INDIRECT_DESC, "INDIRECT_DESC")?;
    framings(cx, Placement::IndirectTail)
}

/// "The device MUST ignore the write-only flag in the descriptor that refers to an indirect table."
pub(super) fn write_flag_on_an_indirect_descriptor_is_ignored(cx: &mut Cx) -> Result<()> {
    indirect_table(cx, 0, WRITE)
}

/// Nothing in the specification aligns an indirect table.
pub(super) fn an_indirect_table_may_stand_at_any_address(cx: &mut Cx) -> Result<()> {
    for shift in [1, 4, 8, 15] {
        indirect_table(cx, shift, 0).with_context(|| format!("a table at 16n + {shift}"))?;
    }
    Ok(())
}

fn indirect_table(cx: &Cx, shift: u64, flags: u16) -> Result<()> {
    cx.need_feature(feature::INDIRECT_DESC, "INDIRECT_DESC")?;
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let lane = guest.lane();
    let request = lane.next_request(&*profile, 64);
    let readable = lane.allocate(request.readable.len() as u64 + 1, 16);
    lane.memory.write(readable, &request.readable);
    let writable = lane.allocate(request.writable as u64, 16);
    lane.memory
        .write(writable, &vec![crate::devices::FILL; request.writable]);
    let mut chain = Vec::new();
    if !request.readable.is_empty() {
        chain.push(Descriptor::readable(
            readable,
            u32::try_from(request.readable.len())?,
        ));
    }
    chain.push(Descriptor::writable(writable, u32::try_from(request.writable)?));
    let table = lane.allocate(64, 16) + shift;
    let mut descriptor = write_indirect(&lane.memory, table, &chain);
    descriptor.flags |= flags;
    lane.queue.add(&[descriptor], Some(request.writable as u64));
    lane.queue.submit();
    let end = lane.end();
    let used = lane.queue.wait(end)?;
    let mut answer = vec![0; request.writable];
    lane.memory.read(writable, &mut answer);
    let result = profile.check(&request, used.len, &answer);
    result.map_err(|text| anyhow::anyhow!("wrong answer: {text}"))
}

pub(super) fn a_full_ring_is_served(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size: 128,
        ..Options::default()
    })?;
    for _ in 0..20 {
        let lane = guest.lane();
        let mut batch = Vec::new();
        while lane.queue.free() >= 4 || (lane.queue.free() > 0 && profile.request(0, 16).readable.is_empty())
        {
            batch.push(lane.place_next(&*profile, 16));
        }
        ensure!(batch.len() >= 32, "the ring takes only {} requests", batch.len());
        lane.queue.submit();
        lane.settle(&*profile, batch)?;
    }
    Ok(())
}

/// The device writes into its buffer and nowhere else: neighbours keep their bytes.
pub(super) fn nothing_is_written_beside_a_buffer(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let lane = guest.lane();
    for size in [1, 2, 3, 8, 63, 500] {
        let start = lane.allocate(4096, 64);
        lane.memory.write(start, &[0x3c; 4096]);
        let request = lane.next_request(&*profile, size);
        let len = request.writable as u64;
        lane.memory.write(start, &request.readable);
        let mut chain = Vec::new();
        if !request.readable.is_empty() {
            chain.push(Descriptor::readable(
                start,
                u32::try_from(request.readable.len())?,
            ));
        }
        let target = start + 2048;
        chain.push(Descriptor::writable(target, u32::try_from(len)?));
        lane.queue.add(&chain, None);
        lane.queue.submit();
        let end = lane.end();
        lane.queue.wait(end)?;
        let mut page = vec![0; 4096];
        lane.memory.read(start, &mut page);
        let touched = |range: std::ops::Range<usize>| page[range].iter().any(|byte| *byte != 0x3c);
        ensure!(
            !touched(request.readable.len()..2048),
            "bytes before a buffer of {len} were written"
        );
        ensure!(
            !touched(2048 + request.writable..4096),
            "bytes behind a buffer of {len} were written"
        );
    }
    Ok(())
}

/// The rings themselves may lie in any region, at any permitted alignment.
pub(super) fn ring_parts_may_lie_in_different_regions(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut layout = default_layout();
    layout.push(RegionSpec::new(BUFFERS * 4, 1 << 20));
    let mut guest = cx.guest(Options {
        layout,
        ..Options::default()
    })?;
    let index = guest.request_index();
    guest.front.get_vring_base(guest.lanes[index].queue.index)?;
    let size = guest.lanes[index].queue.size;
    let start = BUFFERS * 4 + 0x10;
    let mut queue =
        crate::driver::Queue::new(&guest.memory, u32::from(profile.request_queue()), start, size, 0)?;
    queue.set_event_idx(guest.features & feature::EVENT_IDX != 0);
    guest.lanes[index].queue = queue;
    guest.start_ring(index, 0)?;
    guest.enable(index, true)?;
    guest.lane().burst(&*profile, 200, 16)
}
