// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The in-flight region (vhost-user "Inflight I/O tracking", split virtqueue): memory that outlives a
//! crash of this process and tells the next one which requests were popped and not completed.
//!
//! Per virtqueue: `features: u64, version: u16, desc_num: u16, last_batch_head: u16, used_idx: u16`, then
//! per descriptor `inflight: u8, padding: [u8; 5], next: u16, counter: u64`. The front end can write
//! there, so each value read is bounded.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::memory::{GuestSlice, Mapping};

const HEADER: usize = 16;
const ENTRY: usize = 16;
const VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;

/// Bytes of the region of one virtqueue.
fn stride(queue_size: u16) -> usize {
    HEADER
        .saturating_add(ENTRY.saturating_mul(usize::from(queue_size)))
        .next_multiple_of(64)
}

/// The region of all virtqueues of a device.
pub(crate) struct InflightRegion {
    map: Mapping,
    queue_size: u16,
    queues: u16,
}

impl InflightRegion {
    /// A new, zeroed region and the sealed memfd to pass to the front end.
    pub(crate) fn create(queues: u16, queue_size: u16) -> io::Result<(Self, File, u64)> {
        let size = stride(queue_size).saturating_mul(usize::from(queues));
        let fd = rustix::fs::memfd_create("inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let file = File::from(fd);
        file.set_len(size as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        let map = Mapping::new(&file, 0, size)?;
        Ok((
            Self {
                map,
                queue_size,
                queues,
            },
            file,
            size as u64,
        ))
    }

    /// A region that a front end kept.
    pub(crate) fn open(
        file: &File,
        offset: u64,
        size: u64,
        queues: u16,
        queue_size: u16,
    ) -> io::Result<Self> {
        let need = stride(queue_size).saturating_mul(usize::from(queues));
        let size = usize::try_from(size).unwrap_or(0);
        if queues == 0 || queue_size == 0 || size < need {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the in-flight region is too small",
            ));
        }
        Ok(Self {
            map: Mapping::new(file, offset, need)?,
            queue_size,
            queues,
        })
    }

    /// Forgets all requests: a reset has taken them out of the rings.
    pub(crate) fn clear(&self) {
        let slice = self.map.slice();
        slice.write(0, &vec![0; slice.len()]);
    }

    /// The part of virtqueue `index`, if the region has room for a ring of `size` entries there.
    pub(crate) fn queue(self: &Arc<Self>, index: usize, size: u16) -> Option<InflightQueue> {
        let fits = index < usize::from(self.queues) && size <= self.queue_size;
        let base = stride(self.queue_size).checked_mul(index)?;
        fits.then(|| InflightQueue {
            region: self.clone(),
            base,
            size,
            counter: 0,
        })
    }
}

/// The region of one virtqueue.
pub(crate) struct InflightQueue {
    region: Arc<InflightRegion>,
    base: usize,
    size: u16,
    counter: u64,
}

impl InflightQueue {
    fn bytes(&self) -> &GuestSlice {
        self.region.map.slice()
    }

    fn get(&self, field: usize) -> u16 {
        self.bytes()
            .load_u16(self.base.wrapping_add(field), Ordering::Relaxed)
    }

    fn put(&self, field: usize, value: u16) {
        self.bytes()
            .store_u16(self.base.wrapping_add(field), value, Ordering::Release);
    }

    fn entry(&self, head: u16) -> usize {
        let index = usize::from(head.min(self.size.wrapping_sub(1)));
        self.base
            .wrapping_add(HEADER)
            .wrapping_add(index.wrapping_mul(ENTRY))
    }

    fn is_inflight(&self, head: u16) -> bool {
        let mut flag = [0];
        self.bytes().read(self.entry(head), &mut flag);
        flag == [1]
    }

    fn set_inflight(&self, head: u16, on: bool) {
        self.bytes().store_u8(self.entry(head), u8::from(on));
    }

    /// Head `head` has been popped.
    pub(crate) fn begin(&mut self, head: u16) {
        self.bytes()
            .store_u64(self.entry(head).wrapping_add(8), self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.set_inflight(head, true);
    }

    /// Head `head` has been put back to the available ring.
    pub(crate) fn forget(&self, head: u16) {
        self.set_inflight(head, false);
    }

    /// Head `head` is about to enter the used ring, as part of the batch that `settle` ends.
    pub(crate) fn link(&self, head: u16) {
        let next = self.entry(head).wrapping_add(6);
        self.bytes()
            .store_u16(next, self.get(LAST_BATCH_HEAD), Ordering::Relaxed);
        self.put(LAST_BATCH_HEAD, head);
    }

    /// The heads of a batch are in the used ring, whose index is now `used_idx`.
    pub(crate) fn settle(&self, heads: &[u16], used_idx: u16) {
        for head in heads {
            self.set_inflight(*head, false);
        }
        self.put(USED_IDX, used_idx);
    }

    /// Takes the region over at the start of a ring whose used index is `used_idx`: the heads to serve
    /// again, in the order in which they were popped.
    pub(crate) fn recover(&mut self, used_idx: u16) -> Vec<u16> {
        if self.get(VERSION) == 0 {
            self.put(DESC_NUM, self.size);
            self.put(USED_IDX, used_idx);
            self.put(VERSION, 1);
            return Vec::new();
        }
        let unsettled = used_idx.wrapping_sub(self.get(USED_IDX)).min(self.size);
        let mut head = self.get(LAST_BATCH_HEAD);
        for _ in 0..unsettled {
            if head >= self.size {
                break;
            }
            self.set_inflight(head, false);
            head = self
                .bytes()
                .load_u16(self.entry(head).wrapping_add(6), Ordering::Relaxed);
        }
        self.put(USED_IDX, used_idx);
        let counter = |head: u16| self.bytes().load_u64(self.entry(head).wrapping_add(8));
        let mut heads: Vec<(u64, u16)> = (0..self.size)
            .filter(|h| self.is_inflight(*h))
            .map(|h| (counter(h), h))
            .collect();
        heads.sort_unstable();
        self.counter = heads.last().map_or(0, |(c, _)| c.wrapping_add(1));
        heads.into_iter().map(|(_, head)| head).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::InflightRegion;
    use std::sync::Arc;

    #[test]
    fn a_crash_between_used_index_and_settling_repeats_nothing() {
        let (region, _file, _) = InflightRegion::create(1, 8).expect("region");
        let region = Arc::new(region);
        let mut before = region.queue(0, 8).expect("queue");
        assert!(before.recover(0).is_empty());
        for head in [3, 1, 5, 7] {
            before.begin(head);
        }
        before.link(1);
        before.settle(&[1], 1);
        before.link(5);
        before.link(3);
        drop(before);
        // The used index says 3, so the batch {5, 3} reached the driver; only 7 is left.
        let mut after = region.queue(0, 8).expect("queue");
        assert_eq!(after.recover(3), [7]);
        // It is served again under its old place, and a new one comes behind it.
        after.begin(0);
        assert_eq!(region.queue(0, 8).expect("queue").recover(3), [7, 0]);
    }

    #[test]
    fn a_crash_before_the_used_index_repeats_the_batch_in_order() {
        let (region, _file, _) = InflightRegion::create(2, 4).expect("region");
        let region = Arc::new(region);
        let mut before = region.queue(1, 4).expect("queue");
        before.recover(100);
        for head in [2, 0] {
            before.begin(head);
            before.link(head);
        }
        assert_eq!(region.queue(1, 4).expect("queue").recover(100), [2, 0]);
        assert!(region.queue(2, 4).is_none());
        assert!(region.queue(0, 8).is_none());
    }

    #[test]
    fn garbage_from_the_front_end_is_bounded() {
        let (region, file, _) = InflightRegion::create(1, 4).expect("region");
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 80], 0).expect("write");
        let heads = Arc::new(region).queue(0, 4).expect("queue").recover(7);
        assert!(heads.len() <= 4);
    }
}
