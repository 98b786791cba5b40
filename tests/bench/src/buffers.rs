// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory that requests read and write: shared with the back end, and never looked at here.
// UNSAFETY: a shared mapping is raw memory that the back end writes; it is only ever passed on as a pointer.
#![allow(
    unsafe_code,
    reason = "maps shared memory and hands pointers into it to the driver"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use virtio_driver::{VirtioBlkQueue, VirtioBlkTransport};

/// A number of buffers of one size, mapped and touched in advance as those of a running guest are.
pub(crate) struct Buffers {
    base: NonNull<u8>,
    file: OwnedFd,
    size: usize,
    count: usize,
}

// SAFETY: the mapping is never read or written here, and its pointers go to another process.
unsafe impl Send for Buffers {}

impl Buffers {
    pub(crate) fn new(size: usize, count: usize) -> io::Result<Self> {
        let len = size * count;
        let file = memfd_create("bench-buffers", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len as u64)?;
        let (protection, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::POPULATE,
        );
        // SAFETY: no address is asked for, so that the new mapping lies where nothing else does.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, &file, 0)? };
        let base = NonNull::new(base.cast()).expect("mmap never returns null without MAP_FIXED");
        Ok(Self {
            base,
            file,
            size,
            count,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Makes the buffers known to the back end.
    pub(crate) fn map(&self, transport: &mut VirtioBlkTransport) -> io::Result<()> {
        let address = self.base.as_ptr() as usize;
        transport
            .map_mem_region(address, self.size * self.count, self.file.as_raw_fd(), 0)
            .map(drop)
    }

    /// Queues a request that uses the buffer `number`, which comes back with the completion.
    pub(crate) fn queue(
        &self,
        queue: &mut VirtioBlkQueue<'_, usize>,
        number: usize,
        offset: u64,
        write: bool,
    ) -> io::Result<()> {
        assert!(number < self.count, "there are {} buffers", self.count);
        let buffer = self.base.as_ptr().wrapping_add(number * self.size);
        // SAFETY: the buffer lies inside the mapping, which outlives the connection to the back end.
        unsafe {
            if write {
                queue.write_raw(offset, buffer, self.size, number)
            } else {
                queue.read_raw(offset, buffer, self.size, number)
            }
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` gave, and nothing borrows the mapping any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size * self.count) };
    }
}
