// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory: one memfd per region, mapped here and handed to the back end by file descriptor.
// UNSAFETY: a shared mapping is raw memory that another process writes; it is reached by checked pointers only.
#![allow(
    unsafe_code,
    reason = "maps shared memory and reaches it through bounds-checked pointers"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The size of a page, and of the unit of the dirty log (vhost-user, "Migration").
pub const PAGE: u64 = 0x1000;

/// Where a region lies in the guest, how long it is, and where it starts in its file (all in bytes, page aligned).
#[derive(Clone, Copy, Debug)]
pub struct RegionSpec {
    /// Guest physical address of the first byte.
    pub guest_addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Offset of the first byte in the memfd.
    pub offset: u64,
}

impl RegionSpec {
    /// A region of `size` bytes at `guest_addr` that starts at byte 0 of its file.
    #[must_use]
    pub fn new(guest_addr: u64, size: u64) -> Self {
        Self {
            guest_addr,
            size,
            offset: 0,
        }
    }
}

/// A shared mapping of a file, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain shared memory; all access is by atomics or by byte copies that tolerate races with
// the back end, which is another process in any case.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on, shared, for reading and writing.
    ///
    /// # Errors
    /// What `mmap` reports.
    pub fn new(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset,
            )?
        };
        let base = NonNull::new(base.cast()).expect("mmap never returns null without MAP_FIXED");
        Ok(Self { base, len })
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset
            .checked_add(len)
            .expect("offset and length stay far below usize::MAX");
        assert!(
            end <= self.len,
            "access of {len} bytes at {offset:#x} leaves a mapping of {:#x}",
            self.len
        );
        self.base.as_ptr().wrapping_add(offset)
    }

    /// Loads the byte at `offset`.
    #[must_use]
    pub fn load_u8(&self, offset: usize) -> u8 {
        // SAFETY: `at` checked the range; any alignment is right for a byte.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }.load(Ordering::Acquire)
    }

    /// Copies bytes out, starting at `offset`.
    pub fn read(&self, offset: usize, dst: &mut [u8]) {
        let src = self.at(offset, dst.len());
        // SAFETY: `at` checked the range, and `dst` is memory of this process outside the mapping.
        unsafe { src.copy_to_nonoverlapping(dst.as_mut_ptr(), dst.len()) };
    }

    /// Copies bytes in, starting at `offset`.
    pub fn write(&self, offset: usize, src: &[u8]) {
        let dst = self.at(offset, src.len());
        // SAFETY: as in `read`.
        unsafe { dst.copy_from_nonoverlapping(src.as_ptr(), src.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are what `mmap` gave, and nothing borrows the mapping any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// One region of guest memory.
#[derive(Debug)]
pub struct Region {
    /// Where it lies.
    pub spec: RegionSpec,
    file: OwnedFd,
    map: Mapping,
}

impl Region {
    /// Allocates a memfd of `offset + size` bytes and maps its part.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn new(spec: RegionSpec) -> io::Result<Self> {
        let file = memfd_create("guest-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, spec.offset + spec.size)?;
        let map = Mapping::new(file.as_fd(), spec.offset, to_usize(spec.size))?;
        Ok(Self { spec, file, map })
    }

    /// The address of the region in this process: the "user address" of the protocol.
    #[must_use]
    pub fn user_addr(&self) -> u64 {
        self.map.base.as_ptr() as u64
    }

    /// The file behind the region.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Cuts the file to nothing: from now on any access faults with SIGBUS, here as well as in the back end.
    ///
    /// # Errors
    /// What `ftruncate` reports.
    pub fn truncate(&self) -> io::Result<()> {
        Ok(ftruncate(&self.file, 0)?)
    }

    fn offset_of(&self, addr: u64) -> Option<usize> {
        let offset = addr.checked_sub(self.spec.guest_addr)?;
        (offset < self.spec.size).then(|| to_usize(offset))
    }
}

/// A contiguous piece of one region, with atomic access: ring parts are reached through it.
#[derive(Clone, Debug)]
pub struct GuestSlice {
    region: Arc<Region>,
    start: usize,
    len: usize,
}

macro_rules! atomic_access {
    ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
        /// Loads the little-endian field at `offset`, which must be aligned.
        #[must_use]
        pub fn $load(&self, offset: usize, order: Ordering) -> $int {
            let field = self.field(offset, size_of::<$int>());
            // SAFETY: `field` checked range and alignment, and the slice keeps the region mapped during the load.
            let atomic = unsafe { <$atomic>::from_ptr(field.cast()) };
            <$int>::from_le(atomic.load(order))
        }

        /// Stores the little-endian field at `offset`, which must be aligned.
        pub fn $store(&self, offset: usize, value: $int, order: Ordering) {
            let field = self.field(offset, size_of::<$int>());
            // SAFETY: `field` checked range and alignment, and the slice keeps the region mapped during the store.
            let atomic = unsafe { <$atomic>::from_ptr(field.cast()) };
            atomic.store(value.to_le(), order);
        }
    };
}

impl GuestSlice {
    fn field(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset + len <= self.len,
            "field at {offset:#x} leaves a slice of {:#x}",
            self.len
        );
        let pointer = self.region.map.at(self.start + offset, len);
        assert!(
            (pointer as usize).is_multiple_of(len),
            "field at {offset:#x} is not aligned to {len}"
        );
        pointer
    }

    atomic_access!(load_u16, store_u16, u16, AtomicU16);
    atomic_access!(load_u32, store_u32, u32, AtomicU32);
    atomic_access!(load_u64, store_u64, u64, AtomicU64);
}

/// All memory of one guest. Shared by the threads of a test; regions may come and go.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: RwLock<Vec<Arc<Region>>>,
}

impl GuestMemory {
    /// Allocates the regions of `layout`.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn new(layout: &[RegionSpec]) -> io::Result<Self> {
        let memory = Self::default();
        for spec in layout {
            memory.add(*spec)?;
        }
        Ok(memory)
    }

    /// Adds a region here; telling the back end is the front end's business.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn add(&self, spec: RegionSpec) -> io::Result<Arc<Region>> {
        let region = Arc::new(Region::new(spec)?);
        self.lock_mut().push(region.clone());
        Ok(region)
    }

    /// Takes the region that starts at `guest_addr` out of the memory.
    #[must_use]
    pub fn remove(&self, guest_addr: u64) -> Option<Arc<Region>> {
        let mut regions = self.lock_mut();
        let position = regions
            .iter()
            .position(|region| region.spec.guest_addr == guest_addr)?;
        Some(regions.remove(position))
    }

    /// The regions, in the order in which they were added.
    #[must_use]
    pub fn regions(&self) -> Vec<Arc<Region>> {
        self.regions
            .read()
            .expect("no thread panics with the lock")
            .clone()
    }

    /// A piece of `len` bytes at `addr` that lies in one region.
    ///
    /// # Panics
    /// When no single region holds it: the test placed a ring wrongly.
    #[must_use]
    pub fn slice(&self, addr: u64, len: usize) -> GuestSlice {
        let region = self
            .region_at(addr)
            .unwrap_or_else(|| panic!("no guest memory at {addr:#x}"));
        let start = region.offset_of(addr).expect("region_at found it by this offset");
        assert!(
            start + len <= to_usize(region.spec.size),
            "{len:#x} bytes at {addr:#x} leave the region"
        );
        GuestSlice { region, start, len }
    }

    /// Copies bytes out of the guest; the range may straddle adjacent regions.
    ///
    /// # Panics
    /// When a byte of the range is not guest memory.
    pub fn read(&self, addr: u64, dst: &mut [u8]) {
        let mut done = 0;
        while done < dst.len() {
            let (region, offset, len) = self.piece(addr + done as u64, dst.len() - done);
            region.map.read(offset, &mut dst[done..done + len]);
            done += len;
        }
    }

    /// Copies bytes into the guest; the range may straddle adjacent regions.
    ///
    /// # Panics
    /// When a byte of the range is not guest memory.
    pub fn write(&self, addr: u64, src: &[u8]) {
        let mut done = 0;
        while done < src.len() {
            let (region, offset, len) = self.piece(addr + done as u64, src.len() - done);
            region.map.write(offset, &src[done..done + len]);
            done += len;
        }
    }

    /// The user address of a guest address: what `SET_VRING_ADDR` speaks.
    #[must_use]
    pub fn user_addr(&self, addr: u64) -> Option<u64> {
        let region = self.region_at(addr)?;
        Some(region.user_addr() + (addr - region.spec.guest_addr))
    }

    fn piece(&self, addr: u64, len: usize) -> (Arc<Region>, usize, usize) {
        let region = self
            .region_at(addr)
            .unwrap_or_else(|| panic!("no guest memory at {addr:#x}"));
        let offset = region.offset_of(addr).expect("region_at found it by this offset");
        let len = len.min(to_usize(region.spec.size) - offset);
        (region, offset, len)
    }

    fn region_at(&self, addr: u64) -> Option<Arc<Region>> {
        let regions = self.regions.read().expect("no thread panics with the lock");
        regions
            .iter()
            .find(|region| region.offset_of(addr).is_some())
            .cloned()
    }

    fn lock_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Region>>> {
        self.regions.write().expect("no thread panics with the lock")
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a region fits in the address space")
}
