// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Indirect tables that no sane driver builds (T8).

use super::{Fate, chain};
use crate::chains::{Descriptor, INDIRECT, NEXT, link};
use crate::conformance::{Cx, Result};
use crate::driver::write_indirect;
use crate::frontend::wire::feature;
use crate::guest::{ADJACENT, BUFFERS, BUFFERS_SIZE, Lane, NOWHERE};

fn buffer(lane: &mut Lane) -> Descriptor {
    Descriptor::writable(lane.allocate(64, 16), 64)
}

/// Writes `table` as it is; gives the descriptor that refers to it.
fn raw_table(lane: &mut Lane, table: &[Descriptor]) -> Descriptor {
    let addr = lane.allocate(16 * table.len() as u64, 16);
    let bytes: Vec<u8> = table
        .iter()
        .flat_map(|descriptor| descriptor.to_bytes())
        .collect();
    lane.memory.write(addr, &bytes);
    Descriptor::indirect(
        addr,
        u32::try_from(table.len()).expect("a table has at most 65536 entries"),
    )
}

fn send(cx: &Cx, fate: Fate, build: impl FnOnce(&mut Lane) -> Vec<Descriptor>) -> Result<()> {
    cx.need_feature(feature::INDIRECT_DESC, "INDIRECT_DESC")?;
    chain(cx, fate, |lane| {
        let descriptors = build(lane);
        lane.queue.add_raw(&descriptors)
    })
}

pub(crate) fn table_unmapped(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |_| vec![Descriptor::indirect(NOWHERE, 4)])
}

pub(crate) fn table_partly_unmapped(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let addr = BUFFERS + BUFFERS_SIZE - 16;
        let first = buffer(lane).then(1);
        lane.memory.write(addr, &first.to_bytes());
        vec![Descriptor::indirect(addr, 2)]
    })
}

pub(crate) fn table_of_length_0(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        vec![Descriptor::indirect(lane.allocate(16, 16), 0)]
    })
}

pub(crate) fn table_of_length_17(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = buffer(lane);
        let descriptor = raw_table(lane, &[inner, inner]);
        vec![Descriptor {
            len: 17,
            ..descriptor
        }]
    })
}

pub(crate) fn table_of_length_15(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = buffer(lane);
        let descriptor = raw_table(lane, &[inner]);
        vec![Descriptor {
            len: 15,
            ..descriptor
        }]
    })
}

pub(crate) fn table_of_4_gib(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let addr = lane.allocate(64, 16);
        vec![Descriptor {
            addr,
            len: 0xffff_fff0,
            flags: INDIRECT,
            next: 0,
        }]
    })
}

pub(crate) fn table_within_a_table(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = buffer(lane);
        let nested = raw_table(lane, &[inner]);
        vec![raw_table(lane, &[nested])]
    })
}

pub(crate) fn table_that_refers_to_itself(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let addr = lane.allocate(16, 16);
        let own = Descriptor::indirect(addr, 1);
        lane.memory.write(addr, &own.to_bytes());
        vec![own]
    })
}

pub(crate) fn table_with_a_next(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = buffer(lane);
        let descriptor = raw_table(lane, &[inner]);
        vec![descriptor.then(1), buffer(lane)]
    })
}

pub(crate) fn loop_of_one(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = buffer(lane).then(0);
        vec![raw_table(lane, &[inner])]
    })
}

pub(crate) fn loop_of_two(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = [buffer(lane).then(1), buffer(lane).then(0)];
        vec![raw_table(lane, &inner)]
    })
}

pub(crate) fn next_outside_the_table(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = [buffer(lane).then(2), buffer(lane)];
        vec![raw_table(lane, &inner)]
    })
}

pub(crate) fn readable_after_writable(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let readable = Descriptor::readable(lane.allocate(64, 16), 64);
        let inner = link(&[buffer(lane), readable]);
        vec![raw_table(lane, &inner)]
    })
}

pub(crate) fn readable_table_after_writable(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let readable = Descriptor::readable(lane.allocate(64, 16), 64);
        let table = raw_table(lane, &[readable]);
        vec![buffer(lane).then(1), table]
    })
}

pub(crate) fn unmapped_buffer(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Refused, |lane| {
        let inner = link(&[buffer(lane), Descriptor::writable(NOWHERE, 64)]);
        vec![raw_table(lane, &inner)]
    })
}

/// More entries than the ring has, in a table that a lenient device may well serve.
pub(crate) fn chain_longer_than_the_ring(cx: &mut Cx) -> Result<()> {
    send(cx, Fate::Returned, |lane| {
        let count = u32::from(lane.queue.size) + 1;
        let start = lane.allocate(u64::from(count) * 4, 16);
        let pieces: Vec<_> = (0..count)
            .map(|index| Descriptor::writable(start + u64::from(index) * 4, 4))
            .collect();
        let table = lane.allocate(u64::from(count) * 16, 16);
        vec![write_indirect(&lane.memory, table, &pieces)]
    })
}

/// 65535 entries over one 64 KiB buffer: 4 GiB of writable bytes out of 1 MiB of guest memory, in two shapes.
fn amplified(cx: &Cx, fate: Fate, looped: bool, piece: u32) -> Result<()> {
    send(cx, fate, |lane| {
        let last = u16::MAX - 1;
        let shape = |index: u16| {
            let descriptor = Descriptor::writable(BUFFERS + (2 << 20), piece);
            match index {
                _ if looped => Descriptor {
                    flags: descriptor.flags | NEXT,
                    ..descriptor.then(0)
                },
                index if index == last => descriptor,
                index => descriptor.then(index + 1),
            }
        };
        let table: Vec<_> = (0..=last).map(shape).collect();
        let bytes: Vec<u8> = table
            .iter()
            .flat_map(|descriptor| descriptor.to_bytes())
            .collect();
        // The table fills the adjacent region: nothing else uses that in this case.
        lane.memory.write(ADJACENT, &bytes);
        vec![Descriptor::indirect(ADJACENT, u32::from(last) + 1)]
    })
}

pub(crate) fn amplification_by_a_loop(cx: &mut Cx) -> Result<()> {
    amplified(cx, Fate::Refused, true, 1 << 16)
}

pub(crate) fn amplification_by_a_long_table(cx: &mut Cx) -> Result<()> {
    amplified(cx, Fate::Returned, false, 1 << 16)
}

/// "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total."
pub(crate) fn more_than_4_gib_in_total(cx: &mut Cx) -> Result<()> {
    amplified(cx, Fate::Refused, false, 1 << 20)
}
