// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One descriptor chain: walked and checked once when it is popped, owned from then on, answered exactly once.

use std::ops::Range;
use std::sync::Arc;

use crate::cursor::{Reader, Writer};
use crate::flow::{Head, Run};
use crate::group::Group;
use crate::memory::{Buffers, GuestSlice, Memory};
use crate::ring::Ring;
use crate::segments::Segments;
use crate::turn;

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;
const DESCRIPTOR: u32 = 16;

/// Most entries of an indirect table. A driver must not exceed the ring size (virtio 1.3, 2.7.5.3.1), but
/// Linux does with small rings; this is the bound that other devices grant.
const MAX_INDIRECT: u32 = 1024;

/// What is wrong with a chain. It is completed with length 0, and its virtqueue goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainFault {
    #[error("descriptor {0} does not exist")]
    Index(u16),
    #[error("the chain has a loop")]
    Loop,
    #[error("buffer {0:#x}+{1:#x} is not mapped")]
    Unmapped(u64, u32),
    #[error("buffer {0:#x} has length 0")]
    Empty(u64),
    #[error("a device-readable buffer follows a device-writable one")]
    Order,
    #[error("the buffers exceed 4 GiB")]
    TooLong,
    #[error("indirect table of {0} bytes")]
    IndirectLength(u32),
    #[error("an indirect descriptor has a next one")]
    IndirectNext,
    #[error("an indirect table within an indirect table")]
    Nested,
    #[error("an indirect descriptor, which was not negotiated")]
    IndirectRefused,
}

impl ChainFault {
    /// Names of the classes, which are counted.
    pub(crate) const CLASSES: [&str; 10] = [
        "index",
        "loop",
        "unmapped",
        "empty",
        "order",
        "too_long",
        "indirect_length",
        "indirect_next",
        "nested",
        "indirect_refused",
    ];

    /// Its place in [`Self::CLASSES`].
    pub(crate) fn class(self) -> usize {
        match self {
            Self::Index(_) => 0,
            Self::Loop => 1,
            Self::Unmapped(..) => 2,
            Self::Empty(_) => 3,
            Self::Order => 4,
            Self::TooLong => 5,
            Self::IndirectLength(_) => 6,
            Self::IndirectNext => 7,
            Self::Nested => 8,
            Self::IndirectRefused => 9,
        }
    }
}

/// A descriptor as it was when it was read (virtio 1.3, 2.7.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Reads a descriptor once: what the driver changes later is not seen.
    pub(crate) fn load(table: &GuestSlice, offset: usize) -> Self {
        Self::from_words(table.load_u64(offset), table.load_u64(offset.wrapping_add(8)))
    }

    /// Reads an entry of an indirect table, which may lie at any address.
    fn read(table: &GuestSlice, index: u32) -> Self {
        let mut bytes = [0; DESCRIPTOR as usize];
        table.read(index.wrapping_mul(DESCRIPTOR) as usize, &mut bytes);
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: [u8; DESCRIPTOR as usize]) -> Self {
        let all = u128::from_le_bytes(bytes);
        Self::from_words(all as u64, (all >> 64) as u64)
    }

    fn from_words(addr: u64, rest: u64) -> Self {
        Self {
            addr,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

/// Collects the buffers of a chain and keeps the rules that concern all of them.
pub(crate) struct Walk<'a> {
    memory: &'a Memory,
    slices: Vec<GuestSlice>,
    readable: usize,
    readable_len: u32,
    writable_len: u32,
}

impl<'a> Walk<'a> {
    /// Walks the chain that starts at `head`; `slices` is an empty vector to be reused. On a fault it
    /// comes back with it.
    pub(crate) fn run(
        ring: &'a Ring,
        head: u16,
        slices: Vec<GuestSlice>,
    ) -> Result<Self, (ChainFault, Vec<GuestSlice>)> {
        let mut walk = Walk {
            memory: ring.memory(),
            slices,
            readable: 0,
            readable_len: 0,
            writable_len: 0,
        };
        match walk.direct(ring, head) {
            Ok(()) => Ok(walk),
            Err(fault) => Err((fault, walk.slices)),
        }
    }

    fn direct(&mut self, ring: &Ring, head: u16) -> Result<(), ChainFault> {
        let mut index = head;
        for _ in 0..ring.size() {
            let desc = ring.descriptor(index)?;
            if desc.flags & F_INDIRECT != 0 {
                return self.indirect(ring, desc);
            }
            self.push(desc)?;
            if desc.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = desc.next;
        }
        Err(ChainFault::Loop)
    }

    fn indirect(&mut self, ring: &Ring, desc: Descriptor) -> Result<(), ChainFault> {
        if !ring.layout().indirect {
            return Err(ChainFault::IndirectRefused);
        }
        if desc.flags & F_NEXT != 0 {
            return Err(ChainFault::IndirectNext);
        }
        let limit = u32::from(ring.size()).max(MAX_INDIRECT);
        let entries = desc.len / DESCRIPTOR;
        if entries == 0 || !desc.len.is_multiple_of(DESCRIPTOR) || entries > limit {
            return Err(ChainFault::IndirectLength(desc.len));
        }
        // As good as always in one piece; if not, or if only its used part is mapped, entry by entry.
        let whole = self.memory.slice(desc.addr, desc.len);
        let mut index = 0_u32;
        for _ in 0..entries {
            if index >= entries {
                return Err(ChainFault::Index(index as u16));
            }
            let entry = match &whole {
                Some(table) => Descriptor::read(table, index),
                None => self.table_entry(desc.addr, index)?,
            };
            if entry.flags & F_INDIRECT != 0 {
                return Err(ChainFault::Nested);
            }
            self.push(entry)?;
            if entry.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = u32::from(entry.next);
        }
        Err(ChainFault::Loop)
    }

    /// One entry of an indirect table, which may lie unaligned and across two regions.
    fn table_entry(&self, table: u64, index: u32) -> Result<Descriptor, ChainFault> {
        let offset = u64::from(index.wrapping_mul(DESCRIPTOR));
        let addr = table
            .checked_add(offset)
            .ok_or(ChainFault::Unmapped(table, DESCRIPTOR))?;
        let mut bytes = [0_u8; DESCRIPTOR as usize];
        let mut rest = &mut bytes[..];
        let mapped = self.memory.resolve(addr, DESCRIPTOR, |slice| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(slice.len());
            slice.read(0, part);
            rest = tail;
        });
        if !mapped {
            return Err(ChainFault::Unmapped(addr, DESCRIPTOR));
        }
        Ok(Descriptor::from_bytes(bytes))
    }

    fn push(&mut self, desc: Descriptor) -> Result<(), ChainFault> {
        let Descriptor { addr, len, flags, .. } = desc;
        if len == 0 {
            return Err(ChainFault::Empty(addr));
        }
        let writable = flags & F_WRITE != 0;
        if !writable && self.writable_len > 0 {
            return Err(ChainFault::Order);
        }
        let total = if writable {
            &mut self.writable_len
        } else {
            &mut self.readable_len
        };
        *total = total.checked_add(len).ok_or(ChainFault::TooLong)?;
        let slices = &mut self.slices;
        if !self.memory.resolve(addr, len, |slice| slices.push(slice)) {
            return Err(ChainFault::Unmapped(addr, len));
        }
        if !writable {
            self.readable = self.slices.len();
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Parts {
        // Most devices read a header first.
        if self.readable > 0
            && let Some(first) = self.slices.first()
        {
            first.prefetch(0);
        }
        Parts {
            buffers: Buffers {
                slices: self.slices,
                readable: self.readable,
            },
            readable_len: self.readable_len,
            writable_len: self.writable_len,
        }
    }
}

/// What a walk found.
pub(crate) struct Parts {
    pub(crate) buffers: Buffers,
    pub(crate) readable_len: u32,
    pub(crate) writable_len: u32,
}

/// An answered chain on its way to the used ring.
pub(crate) struct Done {
    pub(crate) run: Arc<Run>,
    pub(crate) head: Head,
    pub(crate) written: u32,
    pub(crate) buffers: Buffers,
}

/// One request: a popped descriptor chain, checked, and owned until it is completed.
///
/// It may be kept or sent to another thread. A chain that is dropped is completed with length 0, since a
/// driver must get each of its buffers back; that is a bug of the device, so debug builds panic.
pub struct Chain {
    /// Holds the memory that the buffers lie in. `None` once it is answered.
    run: Option<Arc<Run>>,
    head: Head,
    queue: usize,
    parts: Parts,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("queue", &self.queue)
            .field("head", &self.head.index)
            .field("readable_len", &self.parts.readable_len)
            .field("writable_len", &self.parts.writable_len)
            .finish()
    }
}

impl Chain {
    pub(crate) fn new(run: Arc<Run>, head: Head, parts: Parts) -> Self {
        Self {
            queue: run.queue.index(),
            run: Some(run),
            head,
            parts,
        }
    }

    /// Whether it was popped from a virtqueue of `group`.
    pub(crate) fn is_of(&self, group: &Arc<Group>) -> bool {
        self.run
            .as_ref()
            .is_some_and(|run| Arc::ptr_eq(run.queue.group(), group))
    }

    /// Index of the virtqueue that it was popped from.
    pub fn queue(&self) -> usize {
        self.queue
    }

    /// Bytes in the device-readable part.
    pub fn readable_len(&self) -> usize {
        self.parts.readable_len as usize
    }

    /// Bytes in the device-writable part.
    pub fn writable_len(&self) -> usize {
        self.parts.writable_len as usize
    }

    /// A cursor at the start of the device-readable part.
    pub fn reader(&mut self) -> Reader<'_> {
        Reader::new(&self.parts.buffers, self.parts.readable_len as usize)
    }

    /// A cursor at the start of the device-writable part.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(&self.parts.buffers, self.parts.writable_len as usize)
    }

    /// Makes `into` the bytes `range` of the device-readable part; what lies beyond its end is left out.
    pub fn readable_segments(&self, range: Range<usize>, into: &mut Segments) {
        self.segments(false, range, into);
    }

    /// Makes `into` the bytes `range` of the device-writable part; what lies beyond its end is left out.
    pub fn writable_segments(&self, range: Range<usize>, into: &mut Segments) {
        self.segments(true, range, into);
    }

    /// Adds the bytes `range` of the device-readable part to `into`; what lies beyond its end is left out.
    pub fn add_readable_segments(&self, range: Range<usize>, into: &mut Segments) {
        self.add_segments(false, range, into);
    }

    /// Adds the bytes `range` of the device-writable part to `into`; what lies beyond its end is left out.
    pub fn add_writable_segments(&self, range: Range<usize>, into: &mut Segments) {
        self.add_segments(true, range, into);
    }

    fn add_segments(&self, writable: bool, range: Range<usize>, into: &mut Segments) {
        if let Some(run) = &self.run {
            into.append(&run.memory, self.parts.buffers.part(writable), range);
        }
    }

    fn segments(&self, writable: bool, range: Range<usize>, into: &mut Segments) {
        if let Some(run) = &self.run {
            into.fill(&run.memory, self.parts.buffers.part(writable), range);
        }
    }

    /// Gives the chain back to the driver, of whose writable bytes the first `written` are now valid.
    ///
    /// `written` is cut to [`writable_len`](Self::writable_len).
    pub fn complete(mut self, written: u32) {
        if let Some(done) = self.take_done(written) {
            turn::finish(done);
        }
    }

    /// Takes the chain apart, to be answered or put back.
    pub(crate) fn into_done(mut self, written: u32) -> Option<Done> {
        self.take_done(written)
    }

    fn take_done(&mut self, written: u32) -> Option<Done> {
        self.run.take().map(|run| Done {
            run,
            head: self.head,
            written: written.min(self.parts.writable_len),
            buffers: std::mem::take(&mut self.parts.buffers),
        })
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let Some(done) = self.take_done(0) else { return };
        // After a stop the chain belongs to nobody any more: dropping it is right.
        let leaked = done.run.is_current();
        turn::finish(done);
        if leaked {
            log::error!(
                "queue {}: a chain was dropped unanswered: a bug of this device",
                self.queue
            );
            debug_assert!(std::thread::panicking(), "a chain was dropped unanswered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ChainFault, Descriptor, F_INDIRECT, F_NEXT, F_WRITE, Parts, Walk};
    use crate::memory::tests::{guest, put};
    use crate::ring::{Layout, Ring};

    /// Sixteen entries at 0, other tables and buffers in two regions that touch at 0x4000.
    const LAYOUT: Layout = Layout {
        size: 16,
        desc: 0,
        avail: 0x100,
        used: 0x200,
        event_idx: true,
        indirect: true,
    };
    const TABLE: u64 = 0x1000;

    fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
        Descriptor {
            addr,
            len,
            flags,
            next,
        }
    }

    fn walk(layout: Layout, direct: &[Descriptor], table: &[Descriptor]) -> Result<Parts, ChainFault> {
        let memory = guest(&[(0, 0x4000), (0x4000, 0x1000)]);
        for (base, descriptors) in [(0, direct), (TABLE, table)] {
            for (at, d) in descriptors.iter().enumerate() {
                let rest = u64::from(d.len) | u64::from(d.flags) << 32 | u64::from(d.next) << 48;
                let bytes = [d.addr.to_le_bytes(), rest.to_le_bytes()].concat();
                put(&memory, base + 16 * at as u64, &bytes);
            }
        }
        let ring = Ring::new(layout, memory.clone(), 0).expect("the ring is mapped");
        let walk = Walk::run(&ring, 0, Vec::new()).map_err(|(fault, _)| fault)?;
        Ok(walk.finish())
    }

    fn lens(parts: &Parts, writable: bool) -> Vec<usize> {
        parts.buffers.part(writable).iter().map(|s| s.len()).collect()
    }

    #[test]
    fn buffers_are_found_through_both_kinds_of_tables_and_across_regions() {
        let direct = [
            desc(0x2000, 5, F_NEXT, 3),
            desc(0, 0, 0, 0),
            desc(0, 0, 0, 0),
            // The flag F_WRITE means nothing here.
            desc(TABLE, 32, F_INDIRECT | F_WRITE, 0),
        ];
        let table = [desc(0x3ffe, 6, F_NEXT | F_WRITE, 1), desc(0x4100, 7, F_WRITE, 0)];
        let parts = walk(LAYOUT, &direct, &table).expect("a good chain");
        assert_eq!((parts.readable_len, parts.writable_len), (5, 13));
        assert_eq!(
            (lens(&parts, false), lens(&parts, true)),
            (vec![5], vec![2, 4, 7])
        );
    }

    #[test]
    fn each_fault_has_its_name() {
        let good = desc(0x2000, 4, 0, 0);
        let indirect = |len| desc(TABLE, len, F_INDIRECT, 0);
        let cases: [(&[Descriptor], &[Descriptor], ChainFault); 15] = [
            (&[desc(0x2000, 4, F_NEXT, 16)], &[], ChainFault::Index(16)),
            (&[desc(0x2000, 4, F_NEXT, 0)], &[], ChainFault::Loop),
            (&[desc(0x4fff, 2, 0, 0)], &[], ChainFault::Unmapped(0x4fff, 2)),
            (&[desc(u64::MAX, 2, 0, 0)], &[], ChainFault::Unmapped(u64::MAX, 2)),
            (&[desc(0x2000, 0, 0, 0)], &[], ChainFault::Empty(0x2000)),
            (
                &[desc(0x2000, 4, F_NEXT | F_WRITE, 1), good],
                &[],
                ChainFault::Order,
            ),
            (&[indirect(0)], &[], ChainFault::IndirectLength(0)),
            (&[indirect(17)], &[], ChainFault::IndirectLength(17)),
            (&[indirect(1025 * 16)], &[], ChainFault::IndirectLength(1025 * 16)),
            (
                &[desc(TABLE, 16, F_INDIRECT | F_NEXT, 1), good],
                &[good],
                ChainFault::IndirectNext,
            ),
            (&[indirect(16)], &[indirect(16)], ChainFault::Nested),
            (
                &[indirect(32)],
                &[desc(0x2000, 4, F_NEXT, 2)],
                ChainFault::Index(2),
            ),
            (&[indirect(32)], &[desc(0x2000, 4, F_NEXT, 0)], ChainFault::Loop),
            (
                &[desc(0x4ff8, 16, F_INDIRECT, 0)],
                &[],
                ChainFault::Unmapped(0x4ff8, 16),
            ),
            (
                &[desc(u64::MAX - 15, 32, F_INDIRECT, 0)],
                &[],
                ChainFault::Unmapped(u64::MAX - 15, 16),
            ),
        ];
        for (direct, table, fault) in cases {
            assert_eq!(walk(LAYOUT, direct, table).err(), Some(fault));
        }
        let refused = Layout {
            indirect: false,
            ..LAYOUT
        };
        let fault = walk(refused, &[indirect(16)], &[good]).err();
        assert_eq!(fault, Some(ChainFault::IndirectRefused));
    }

    #[test]
    fn a_table_may_be_longer_than_the_ring_and_lie_anywhere() {
        let mut table = vec![desc(0x2000, 1, F_NEXT, 0); 64];
        for (at, entry) in table.iter_mut().enumerate() {
            entry.next = at as u16 + 1;
        }
        table[63].flags = 0;
        let parts = walk(LAYOUT, &[desc(TABLE, 64 * 16, F_INDIRECT, 0)], &table).expect("a good chain");
        assert_eq!(parts.readable_len, 64);
    }
}
