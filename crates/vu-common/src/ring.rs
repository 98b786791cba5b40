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
/// How many chains ahead descriptors are fetched from the driver's CPU.
const AHEAD: u16 = 4;

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
    /// The available index as it was when it was last read: that many heads are there without looking.
    seen_avail: u16,
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
            seen_avail: next_avail,
            next_used,
        })
    }

    /// Goes on from another available index.
    pub(crate) fn rewind(&mut self, next_avail: u16) {
        self.next_avail = next_avail;
        self.seen_avail = next_avail;
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

    /// Number of heads that the driver made available and we have not popped; there may be more by now,
    /// unless it is 0.
    pub(crate) fn available(&mut self) -> Result<u16, RingFault> {
        let (next, size) = (self.next_avail, self.layout.size);
        if self.seen_avail == next {
            let avail = self.avail.load_u16(2, Ordering::Acquire);
            if avail.wrapping_sub(next) > size {
                return Err(RingFault::AvailIndex { avail, next, size });
            }
            self.seen_avail = avail;
            (0..AHEAD).for_each(|ahead| self.prefetch(next.wrapping_add(ahead)));
        }
        Ok(self.seen_avail.wrapping_sub(next))
    }

    /// The next head; call only if `available` is not 0.
    pub(crate) fn take_head(&mut self) -> Result<u16, RingFault> {
        let at = self.slot(self.next_avail).wrapping_mul(2).wrapping_add(HEADER);
        let head = self.avail.load_u16(at, Ordering::Relaxed);
        if head >= self.layout.size {
            return Err(RingFault::Head(head));
        }
        self.prefetch(self.next_avail.wrapping_add(AHEAD));
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(head)
    }

    /// Has the CPU fetch the first descriptor of the chain at `position` of the available ring, if there is one.
    fn prefetch(&self, position: u16) {
        if position.wrapping_sub(self.next_avail) < self.seen_avail.wrapping_sub(self.next_avail) {
            let at = self.slot(position).wrapping_mul(2).wrapping_add(HEADER);
            let head = self.avail.load_u16(at, Ordering::Relaxed);
            if head < self.layout.size {
                self.desc.prefetch(usize::from(head).wrapping_mul(16));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::{Layout, Ring, RingFault};
    use crate::dirty::DirtyLog;
    use crate::memory::tests::{guest, put};

    const LAYOUT: Layout = Layout {
        size: 4,
        desc: 0,
        avail: 0x40,
        used: 0x50,
        event_idx: true,
        indirect: true,
    };

    fn fault(layout: Layout) -> Option<RingFault> {
        Ring::new(layout, guest(&[(0, 0x1000), (0x1000, 0x1000)]), 0).err()
    }

    #[test]
    fn a_ring_has_to_be_mapped_aligned_and_in_one_region() {
        assert_eq!(fault(LAYOUT), None);
        assert_eq!(fault(Layout { size: 0, ..LAYOUT }), Some(RingFault::NoSize));
        let misplaced = [
            (
                Layout { desc: 8, ..LAYOUT },
                RingFault::Unaligned("descriptor table", 8),
            ),
            (
                Layout {
                    avail: 0x41,
                    ..LAYOUT
                },
                RingFault::Unaligned("available ring", 0x41),
            ),
            (
                Layout { used: 0x52, ..LAYOUT },
                RingFault::Unaligned("used ring", 0x52),
            ),
            (
                Layout {
                    desc: 0xff0,
                    ..LAYOUT
                },
                RingFault::Unmapped("descriptor table", 0xff0),
            ),
            (
                Layout {
                    avail: 0x1ff4,
                    ..LAYOUT
                },
                RingFault::Unmapped("available ring", 0x1ff4),
            ),
            (
                Layout {
                    used: 0x1fdc,
                    ..LAYOUT
                },
                RingFault::Unmapped("used ring", 0x1fdc),
            ),
        ];
        for (layout, expected) in misplaced {
            assert_eq!(fault(layout), Some(expected));
        }
        // Without event indices it is two bytes shorter.
        let short = Layout {
            used: 0x1fdc,
            event_idx: false,
            ..LAYOUT
        };
        assert_eq!(fault(short), None);
    }

    #[test]
    fn impossible_indices_are_faults_and_all_count_modulo_65536() {
        let memory = guest(&[(0, 0x1000)]);
        let mut ring = Ring::new(LAYOUT, memory.clone(), 0xfffe).expect("ring");
        put(&memory, 0x42, &2_u16.to_le_bytes());
        assert_eq!(ring.available(), Ok(4));
        put(&memory, 0x44, &[1, 0, 4, 0, 2, 0, 3, 0]);
        assert_eq!((ring.take_head(), ring.take_head()), (Ok(2), Ok(3)));
        assert_eq!((ring.take_head(), ring.next_avail), (Ok(1), 1));
        assert_eq!(ring.take_head(), Err(RingFault::Head(4)));
        put(&memory, 0x42, &6_u16.to_le_bytes());
        assert_eq!(ring.available(), Ok(1), "as many as were there before");
        ring.rewind(1);
        let (avail, next, size) = (6, 1, 4);
        assert_eq!(ring.available(), Err(RingFault::AvailIndex { avail, next, size }));
    }

    #[test]
    fn an_interrupt_is_wanted_when_the_used_event_is_passed() {
        let (memory, log) = (guest(&[(0, 0x1000)]), DirtyLog::default());
        let mut ring = Ring::new(LAYOUT, memory.clone(), 0).expect("ring");
        for (old, new, event, wanted) in [
            (0, 1, 0, true),
            (0, 1, 1, false),
            (1, 3, 2, true),
            (0, 4, 0xffff, false),
            (0xffff, 1, 0xffff, true),
            (0xfffe, 0xffff, 0, false),
        ] {
            put(&memory, 0x4c, &u16::to_le_bytes(event));
            ring.next_used = new;
            assert_eq!(ring.publish(old, &log), wanted, "{old} to {new}, event {event}");
        }
        let flags = Layout {
            event_idx: false,
            ..LAYOUT
        };
        let ring = Ring::new(flags, memory.clone(), 0).expect("ring");
        for flag in [0, 1] {
            put(&memory, 0x40, &u16::to_le_bytes(flag));
            assert_eq!(ring.publish(0, &log), flag == 0);
        }
    }
}
