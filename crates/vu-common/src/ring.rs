// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A running split virtqueue in guest memory (virtio 1.3, section 2.7): its three areas and our two indices.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::chain::{ChainFault, Descriptor};
use crate::dirty::DirtyLog;
use crate::memory::{GuestSlice, Memory};

const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;
/// `flags` and `idx` in front of the rings.
const HEADER: usize = 4;

/// Why a ring cannot run, or cannot run on. Its virtqueue is retired; the connection stays up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingFault {
    #[error("ring size was not set")]
    NoSize,
    #[error("{0} at {1:#x} is not mapped or lies across two regions")]
    Unmapped(&'static str, u64),
    #[error("{0} at {1:#x} is not aligned")]
    Unaligned(&'static str, u64),
    #[error("available index {avail} is more than {size} ahead of {next}")]
    AvailIndex { avail: u16, next: u16, size: u16 },
    #[error("available ring names descriptor {0}, beyond the ring's end")]
    Head(u16),
    #[error("more chains in flight than the ring has entries")]
    TooManyInFlight,
    #[error("the front end truncated the file under its guest's memory")]
    Truncated,
    #[error("the device could not start")]
    Device,
}

/// Where a ring lies (guest addresses) and how it is driven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) size: u16,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
}

/// The running ring. All indices count modulo 2^16 and are masked on use.
pub(crate) struct Ring {
    layout: Layout,
    memory: Arc<Memory>,
    desc: GuestSlice,
    avail: GuestSlice,
    used: GuestSlice,
    pub(crate) next_avail: u16,
    pub(crate) next_used: u16,
}

impl Ring {
    /// Looks the three areas up; the used index in memory is where we go on.
    pub(crate) fn new(layout: Layout, memory: Arc<Memory>, next_avail: u16) -> Result<Self, RingFault> {
        if layout.size == 0 {
            return Err(RingFault::NoSize);
        }
        let size = u32::from(layout.size);
        let area = |name, addr: u64, entry: u32, extra: u32, align: usize| {
            if !addr.is_multiple_of(align as u64) {
                return Err(RingFault::Unaligned(name, addr));
            }
            let len = entry.wrapping_mul(size).wrapping_add(extra);
            let slice = memory.slice(addr, len).ok_or(RingFault::Unmapped(name, addr))?;
            // A region may start at an odd guest address: what counts for our accesses is the host's.
            if !slice.is_aligned(align) {
                return Err(RingFault::Unaligned(name, addr));
            }
            Ok(slice)
        };
        // The event fields at the end exist only with EVENT_IDX.
        let extra = if layout.event_idx { 6 } else { 4 };
        let desc = area("descriptor table", layout.desc, 16, 0, 16)?;
        let avail = area("available ring", layout.avail, 2, extra, 2)?;
        let used = area("used ring", layout.used, 8, extra, 4)?;
        let next_used = used.load_u16(2, Ordering::Acquire);
        Ok(Self {
            layout,
            memory,
            desc,
            avail,
            used,
            next_avail,
            next_used,
        })
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn size(&self) -> u16 {
        self.layout.size
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & self.layout.size.wrapping_sub(1))
    }

    /// Number of heads that the driver made available and we have not popped.
    pub(crate) fn available(&self) -> Result<u16, RingFault> {
        let avail = self.avail.load_u16(2, Ordering::Acquire);
        let (next, size) = (self.next_avail, self.layout.size);
        let ahead = avail.wrapping_sub(next);
        if ahead > size {
            Err(RingFault::AvailIndex { avail, next, size })
        } else {
            Ok(ahead)
        }
    }

    /// The next head; call only if `available` is not 0.
    pub(crate) fn take_head(&mut self) -> Result<u16, RingFault> {
        let at = self.slot(self.next_avail).wrapping_mul(2).wrapping_add(HEADER);
        let head = self.avail.load_u16(at, Ordering::Relaxed);
        if head >= self.layout.size {
            return Err(RingFault::Head(head));
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(head)
    }

    /// Asks the driver for a kick at the next available head, or asks it not to kick.
    pub(crate) fn want_kick(&self, wanted: bool, log: &DirtyLog) {
        if self.layout.event_idx {
            if !wanted {
                return;
            }
            self.store_used(self.avail_event(), self.next_avail, log);
        } else {
            self.store_used(0, if wanted { 0 } else { USED_F_NO_NOTIFY }, log);
        }
        fence(Ordering::SeqCst);
    }

    fn avail_event(&self) -> usize {
        usize::from(self.layout.size).wrapping_mul(8).wrapping_add(HEADER)
    }

    fn store_used(&self, offset: usize, value: u16, log: &DirtyLog) {
        self.used.store_u16(offset, value, Ordering::Release);
        log.mark(self.layout.used.wrapping_add(offset as u64), 2);
    }

    /// Writes one used element, not yet visible to the driver.
    pub(crate) fn write_used(&mut self, head: u16, len: u32, log: &DirtyLog) {
        let at = self.slot(self.next_used).wrapping_mul(8).wrapping_add(HEADER);
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&len.to_le_bytes());
        self.used.write(at, &element);
        log.mark(self.layout.used.wrapping_add(at as u64), 8);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Makes the used elements visible. True if the driver wants an interrupt for those since `old`.
    pub(crate) fn publish(&self, old: u16, log: &DirtyLog) -> bool {
        self.store_used(2, self.next_used, log);
        fence(Ordering::SeqCst);
        if self.layout.event_idx {
            let at = usize::from(self.layout.size).wrapping_mul(2).wrapping_add(HEADER);
            let event = self.avail.load_u16(at, Ordering::Relaxed);
            let new = self.next_used;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.avail.load_u16(0, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// One descriptor of the ring's own table, each field read once.
    pub(crate) fn descriptor(&self, index: u16) -> Result<Descriptor, ChainFault> {
        if index >= self.layout.size {
            return Err(ChainFault::Index(index));
        }
        Ok(Descriptor::load(&self.desc, usize::from(index).wrapping_mul(16)))
    }
}
