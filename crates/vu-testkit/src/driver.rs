// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A split-virtqueue driver. Its bookkeeping catches what a back end can do wrong: a head that is returned twice or
//! was never offered, a used length beyond the writable bytes, and an interrupt that does not come.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use crate::chains::{Descriptor, NEXT, WRITE, link};
use crate::event::Event;
use crate::frontend::RingAddress;
use crate::memory::{GuestMemory, GuestSlice};

/// What a driver can find wrong with a device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The used ring names a head that is not with the device.
    #[error(
        "queue {queue}: used entry {entry} returns head {id}, which the device does not hold (returned twice?)"
    )]
    NotHeld {
        /// Queue index.
        queue: u32,
        /// Free-running index of the used entry.
        entry: u16,
        /// The head.
        id: u32,
    },
    /// The used length exceeds the writable bytes of the chain.
    #[error("queue {queue}: head {id} comes back with length {len}, more than its {writable} writable bytes")]
    TooLong {
        /// Queue index.
        queue: u32,
        /// The head.
        id: u32,
        /// Used length.
        len: u32,
        /// Writable bytes of the chain.
        writable: u64,
    },
    /// The deadline passed with requests outstanding.
    #[error("queue {queue}: {missing} requests did not come back within the deadline")]
    Deadline {
        /// Queue index.
        queue: u32,
        /// How many are missing.
        missing: usize,
    },
    /// The deadline passed and the used ring has entries that were never signalled.
    #[error("queue {queue}: requests came back without the interrupt that the driver asked for")]
    LostInterrupt {
        /// Queue index.
        queue: u32,
    },
}

/// One entry of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain.
    pub id: u32,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// Where the three parts of a ring stand in guest memory, for a queue of `size` entries from `start` on.
#[must_use]
pub fn ring_layout(start: u64, size: u16) -> (RingAddress, u64) {
    let descriptor = start;
    let available = descriptor + 16 * u64::from(size);
    let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(4);
    let end = used + 6 + 8 * u64::from(size);
    (
        RingAddress {
            descriptor,
            available,
            used,
        },
        end.next_multiple_of(crate::memory::PAGE),
    )
}

/// A virtqueue seen from the driver.
#[derive(Debug)]
pub struct Queue {
    /// Index of the queue.
    pub index: u32,
    /// Number of entries.
    pub size: u16,
    /// Where it stands.
    pub address: RingAddress,
    /// Kick: driver to device.
    pub kick: Event,
    /// Call: device to driver.
    pub call: Event,
    /// Error: device to front end.
    pub err: Event,
    table: GuestSlice,
    available: GuestSlice,
    used: GuestSlice,
    event_idx: bool,
    next_available: u16,
    published: u16,
    next_used: u16,
    free: VecDeque<u16>,
    chains: Vec<Held>,
    outstanding: usize,
}

/// What the driver remembers of a chain that the device holds.
#[derive(Clone, Debug, Default)]
struct Held {
    descriptors: Vec<u16>,
    writable: u64,
}

impl Queue {
    /// A fresh queue at `start` with eventfds, its indices at `base` (0 for a new ring).
    ///
    /// # Errors
    /// When no eventfd is to be had.
    pub fn new(memory: &GuestMemory, index: u32, start: u64, size: u16, base: u16) -> std::io::Result<Self> {
        let (address, _) = ring_layout(start, size);
        let entries = usize::from(size);
        let queue = Self {
            index,
            size,
            address,
            kick: Event::new()?,
            call: Event::new()?,
            err: Event::new()?,
            table: memory.slice(address.descriptor, 16 * entries),
            available: memory.slice(address.available, 6 + 2 * entries),
            used: memory.slice(address.used, 6 + 8 * entries),
            event_idx: false,
            next_available: base,
            published: base,
            next_used: base,
            free: (0..size).collect(),
            chains: vec![Held::default(); entries],
            outstanding: 0,
        };
        queue.set_available_flags(0);
        queue.set_available_index(base);
        queue.used.store_u16(0, 0, Ordering::Relaxed);
        queue.used.store_u16(2, base, Ordering::Relaxed);
        // A used ring starts zeroed; a ring that goes on has the index at which the device waits.
        queue.used.store_u16(4 + 8 * entries, base, Ordering::Relaxed);
        queue.set_used_event(base);
        Ok(queue)
    }

    /// Tells the driver whether EVENT_IDX was negotiated.
    pub fn set_event_idx(&mut self, on: bool) {
        self.event_idx = on;
    }

    /// Number of chains that the device holds.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Number of free descriptors.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// The index that the driver writes next into the available ring.
    #[must_use]
    pub fn available_index(&self) -> u16 {
        self.next_available
    }

    /// Puts a chain into the table and its head into the available ring; [`Queue::publish`] shows it to the device.
    /// `writable` counts the device-writable bytes where the descriptors do not tell (indirect tables).
    ///
    /// # Panics
    /// When there are not enough free descriptors.
    pub fn add(&mut self, descriptors: &[Descriptor], writable: Option<u64>) -> u16 {
        assert!(
            descriptors.len() <= self.free.len(),
            "the queue has {} free descriptors",
            self.free.len()
        );
        let indices: Vec<u16> = self.free.drain(..descriptors.len()).collect();
        for (position, descriptor) in descriptors.iter().enumerate() {
            let entry = match indices.get(position + 1) {
                Some(next) => descriptor.then(*next),
                None => *descriptor,
            };
            self.set_descriptor(indices[position], entry);
        }
        let direct = || {
            descriptors
                .iter()
                .filter(|d| d.flags & WRITE != 0)
                .map(|d| u64::from(d.len))
                .sum()
        };
        let head = indices[0];
        self.hold(
            head,
            Held {
                descriptors: indices,
                writable: writable.unwrap_or_else(direct),
            },
        );
        self.push_available(head);
        head
    }

    fn hold(&mut self, head: u16, held: Held) {
        self.chains[usize::from(head)] = held;
        self.outstanding += 1;
    }

    /// Puts descriptors as they are into the table from index 0 on, and index 0 into the available ring; the head is
    /// held by the device afterwards. For chains that no sane driver builds.
    pub fn add_raw(&mut self, descriptors: &[Descriptor]) -> u16 {
        for (index, descriptor) in descriptors.iter().enumerate() {
            self.set_descriptor(
                u16::try_from(index).expect("a table has at most 32768 entries"),
                *descriptor,
            );
        }
        let count = descriptors.len();
        self.free.retain(|index| usize::from(*index) >= count);
        let indices = (0..u16::try_from(count).expect("as above")).collect();
        self.hold(
            0,
            Held {
                descriptors: indices,
                writable: u64::MAX,
            },
        );
        self.push_available(0);
        0
    }

    /// Shows everything added so far to the device.
    pub fn publish(&mut self) {
        self.available
            .store_u16(2, self.next_available, Ordering::Release);
    }

    /// Publishes, and kicks unless the device asked for silence.
    pub fn submit(&mut self) {
        let before = self.published;
        self.publish();
        self.published = self.next_available;
        fence(Ordering::SeqCst);
        if self.wants_kick(before) {
            self.force_kick();
        }
    }

    /// Kicks whether or not the device wants it.
    pub fn force_kick(&self) {
        self.kick
            .signal()
            .expect("a kick eventfd never overflows in a test");
    }

    fn wants_kick(&self, before: u16) -> bool {
        if !self.event_idx {
            return self.used.load_u16(0, Ordering::Relaxed) & 1 == 0;
        }
        let event = self
            .used
            .load_u16(4 + 8 * usize::from(self.size), Ordering::Relaxed);
        let new = self.next_available;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(before)
    }

    /// Takes the next entry of the used ring, if there is one.
    ///
    /// # Errors
    /// When the entry breaks a rule.
    pub fn pop(&mut self) -> Result<Option<Used>, Error> {
        if self.used_index() == self.next_used {
            return Ok(None);
        }
        let used = self.used_entry(self.next_used);
        let (queue, entry, id) = (self.index, self.next_used, used.id);
        let held = self
            .chains
            .get_mut(used.id as usize)
            .map(std::mem::take)
            .unwrap_or_default();
        if held.descriptors.is_empty() {
            return Err(Error::NotHeld { queue, entry, id });
        }
        if u64::from(used.len) > held.writable {
            return Err(Error::TooLong {
                queue,
                id,
                len: used.len,
                writable: held.writable,
            });
        }
        self.free.extend(held.descriptors);
        self.outstanding -= 1;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(used))
    }

    /// Waits for the next used entry, but lets the device sleep on its interrupt until `batch` entries are there or all
    /// that it holds: what a driver does under load.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub fn wait_for(&mut self, batch: usize, end: Instant) -> Result<Used, Error> {
        if let Some(used) = self.pop()? {
            return Ok(used);
        }
        let ahead = u16::try_from(batch.min(self.outstanding).saturating_sub(1)).unwrap_or(0);
        self.set_used_event(self.next_used.wrapping_add(ahead));
        fence(Ordering::SeqCst);
        if self.used_index().wrapping_sub(self.next_used) <= ahead && !self.call.wait_until(end) {
            return Err(Error::Deadline {
                queue: self.index,
                missing: self.outstanding,
            });
        }
        self.call.drain();
        self.wait(end)
    }

    /// Waits for the next used entry, relying on interrupts alone.
    ///
    /// # Errors
    /// When the deadline passes or the entry breaks a rule.
    pub fn wait(&mut self, end: Instant) -> Result<Used, Error> {
        loop {
            if let Some(used) = self.pop()? {
                return Ok(used);
            }
            self.arm();
            if let Some(used) = self.pop()? {
                return Ok(used);
            }
            if !self.call.wait_until(end) {
                return Err(match self.pop()? {
                    Some(_) => Error::LostInterrupt { queue: self.index },
                    None => Error::Deadline {
                        queue: self.index,
                        missing: self.outstanding,
                    },
                });
            }
            self.call.drain();
        }
    }

    /// Waits until the device holds nothing any more; gives all used entries.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub fn wait_all(&mut self, end: Instant) -> Result<Vec<Used>, Error> {
        let mut all = Vec::with_capacity(self.outstanding);
        while self.outstanding > 0 {
            all.push(self.wait(end)?);
        }
        Ok(all)
    }

    /// Waits for the next used entry by looking at the ring, with interrupts ignored.
    ///
    /// # Errors
    /// When the deadline passes or the entry breaks a rule.
    pub fn poll(&mut self, end: Instant) -> Result<Used, Error> {
        loop {
            if let Some(used) = self.pop()? {
                return Ok(used);
            }
            if Instant::now() >= end {
                return Err(Error::Deadline {
                    queue: self.index,
                    missing: self.outstanding,
                });
            }
            std::thread::yield_now();
        }
    }

    /// Asks for an interrupt at the next completion.
    pub fn arm(&self) {
        self.set_used_event(self.next_used);
        fence(Ordering::SeqCst);
    }

    /// The device's index of the used ring.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.used.load_u16(2, Ordering::Acquire)
    }

    /// Sets the index of the used ring, as a test that forges a crash does.
    pub fn forge_used_index(&mut self, index: u16) {
        self.used.store_u16(2, index, Ordering::Release);
    }

    /// Skips used entries up to the device's index without looking at them: for rings beyond repair.
    pub fn skip_used(&mut self) {
        self.next_used = self.used_index();
    }

    /// The entry at a free-running index of the used ring.
    #[must_use]
    pub fn used_entry(&self, index: u16) -> Used {
        let at = 4 + 8 * usize::from(index % self.size);
        Used {
            id: self.used.load_u32(at, Ordering::Relaxed),
            len: self.used.load_u32(at + 4, Ordering::Relaxed),
        }
    }

    /// Writes an entry of the descriptor table.
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        write_descriptor(&self.table, index, descriptor);
    }

    /// The descriptor table, for a thread that scribbles on it.
    #[must_use]
    pub fn table(&self) -> GuestSlice {
        self.table.clone()
    }

    /// Writes a head, good or bad, into the next slot of the available ring.
    pub fn push_available(&mut self, head: u16) {
        let slot = usize::from(self.next_available % self.size);
        self.available.store_u16(4 + 2 * slot, head, Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Sets the available ring's flags.
    pub fn set_available_flags(&self, flags: u16) {
        self.available.store_u16(0, flags, Ordering::SeqCst);
    }

    /// Sets the available ring's index, whether or not that makes sense.
    pub fn set_available_index(&self, index: u16) {
        self.available.store_u16(2, index, Ordering::Release);
    }

    /// Sets `used_event`, the entry of the used ring at which the driver wants an interrupt.
    pub fn set_used_event(&self, index: u16) {
        self.available
            .store_u16(4 + 2 * usize::from(self.size), index, Ordering::SeqCst);
    }
}

/// Writes entry `index` of a descriptor table that is aligned to 8 bytes.
pub fn write_descriptor(table: &GuestSlice, index: u16, descriptor: Descriptor) {
    let at = 16 * usize::from(index);
    table.store_u64(at, descriptor.addr, Ordering::Relaxed);
    table.store_u64(at + 8, descriptor.word(), Ordering::Relaxed);
}

/// Writes an indirect table at `addr` whose descriptors follow one another; gives the descriptor that refers to it.
#[must_use]
pub fn write_indirect(memory: &GuestMemory, addr: u64, descriptors: &[Descriptor]) -> Descriptor {
    let bytes: Vec<u8> = link(descriptors)
        .iter()
        .flat_map(|descriptor| descriptor.to_bytes())
        .collect();
    memory.write(addr, &bytes);
    let entries = u32::try_from(descriptors.len()).expect("at most 65536 descriptors");
    debug_assert!(
        descriptors.iter().all(|descriptor| descriptor.flags & NEXT == 0),
        "link sets NEXT"
    );
    Descriptor::indirect(addr, entries)
}
