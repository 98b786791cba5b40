// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory: the table of regions, and slices of it that stay valid while their table is held.
//!
//! UNSAFETY: guest memory is shared with another process, so it is reached by raw pointers and never by
//! references. This is the only file that follows such a pointer; what it hands out is bounds-checked.
#![allow(
    unsafe_code,
    reason = "guest memory is reached by raw pointers; see the module's text"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use crate::sigbus::Guard;

/// Most regions of one guest: what QEMU and the kernel's vhost use.
pub(crate) const MAX_REGIONS: usize = 509;

/// Why a region cannot be taken into the table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegionError {
    #[error("region {0:#x}+{1:#x} is empty or wraps around")]
    Range(u64, u64),
    #[error("region {0:#x}+{1:#x} overlaps another one")]
    Overlap(u64, u64),
    #[error("there are already {MAX_REGIONS} regions")]
    TooMany,
    #[error("no such region: {0:#x}+{1:#x}")]
    Unknown(u64, u64),
    #[error("cannot map region {0:#x}+{1:#x}")]
    Map(u64, u64, #[source] vm_memory::mmap::MmapRegionError),
}

/// One region as the front end describes it (vhost-user "Memory region description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionInfo {
    pub(crate) guest_addr: u64,
    pub(crate) size: u64,
    /// Address in the front end's own address space; ring addresses are given in these.
    pub(crate) user_addr: u64,
    pub(crate) mmap_offset: u64,
}

#[derive(Clone)]
struct Region {
    info: RegionInfo,
    /// Where it is mapped here.
    host: usize,
    guard: Arc<Guard>,
    _mapping: Arc<GuestRegionMmap>,
}

/// An immutable table of mapped regions, sorted by guest address. A change makes a new table; whoever
/// still holds the old one keeps its mappings alive.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    /// The number of regions.
    pub(crate) fn len(&self) -> usize {
        self.regions.len()
    }

    /// The table with one more region, mapped from `file`.
    pub(crate) fn with(&self, info: RegionInfo, file: File) -> Result<Self, RegionError> {
        let range = (info.guest_addr, info.size);
        let end = info.guest_addr.checked_add(info.size);
        let wraps = end.is_none()
            || info.user_addr.checked_add(info.size).is_none()
            || info.mmap_offset.checked_add(info.size).is_none();
        let size = usize::try_from(info.size).unwrap_or(0);
        if size == 0 || wraps {
            return Err(RegionError::Range(range.0, range.1));
        }
        let overlaps = |r: &Region| {
            r.info.guest_addr < info.guest_addr.saturating_add(info.size)
                && info.guest_addr < r.info.guest_addr.saturating_add(r.info.size)
        };
        if self.regions.iter().any(overlaps) {
            return Err(RegionError::Overlap(range.0, range.1));
        }
        if self.regions.len() >= MAX_REGIONS {
            return Err(RegionError::TooMany);
        }
        let page = page_size(file.as_fd());
        let map = MmapRegion::from_file(FileOffset::new(file, info.mmap_offset), size)
            .map_err(|e| RegionError::Map(range.0, range.1, e))?;
        let host = map.as_ptr() as usize;
        let guard = Arc::new(Guard::new(host, size, page));
        let mapping = GuestRegionMmap::new(map, GuestAddress(info.guest_addr))
            .ok_or(RegionError::Range(range.0, range.1))?;
        let mut regions = self.regions.clone();
        let at = regions.partition_point(|r| r.info.guest_addr < info.guest_addr);
        regions.insert(
            at,
            Region {
                info,
                host,
                guard,
                _mapping: Arc::new(mapping),
            },
        );
        Ok(Self { regions })
    }

    /// The table without the region of this guest address and size.
    pub(crate) fn without(&self, guest_addr: u64, size: u64) -> Result<Self, RegionError> {
        let mut regions = self.regions.clone();
        let at = regions
            .iter()
            .position(|r| r.info.guest_addr == guest_addr && r.info.size == size)
            .ok_or(RegionError::Unknown(guest_addr, size))?;
        regions.remove(at);
        Ok(Self { regions })
    }

    /// Guest address of an address in the front end's address space.
    pub(crate) fn guest_addr(&self, user_addr: u64) -> Option<u64> {
        self.regions.iter().find_map(|r| {
            let offset = user_addr.checked_sub(r.info.user_addr)?;
            (offset < r.info.size).then(|| r.info.guest_addr.checked_add(offset))?
        })
    }

    /// The host's view of `len` bytes at guest address `addr`, which may straddle regions that touch.
    ///
    /// Calls `each` for every contiguous part in order. False if part of the range is not mapped.
    pub(crate) fn resolve(&self, mut addr: u64, len: u32, mut each: impl FnMut(GuestSlice)) -> bool {
        let mut left = u64::from(len);
        while left > 0 {
            let at = self.regions.partition_point(|r| r.info.guest_addr <= addr);
            let Some(region) = at.checked_sub(1).and_then(|i| self.regions.get(i)) else {
                return false;
            };
            let offset = addr.wrapping_sub(region.info.guest_addr);
            let Some(room) = region.info.size.checked_sub(offset).filter(|r| *r > 0) else {
                return false;
            };
            let part = left.min(room);
            let host = region.host.wrapping_add(offset as usize) as *mut u8;
            let Some(ptr) = NonNull::new(host) else {
                return false;
            };
            each(GuestSlice {
                ptr,
                len: part as usize,
                guest_addr: addr,
            });
            left = left.wrapping_sub(part);
            addr = match addr.checked_add(part) {
                Some(next) => next,
                None => return left == 0,
            };
        }
        true
    }

    /// `len` bytes at `addr` that lie in one region.
    pub(crate) fn slice(&self, addr: u64, len: u32) -> Option<GuestSlice> {
        let mut found = None;
        let mut parts = 0_u32;
        let mapped = self.resolve(addr, len, |slice| {
            found = Some(slice);
            parts = parts.wrapping_add(1);
        });
        found.filter(|_| mapped && parts == 1)
    }

    /// Whether the front end truncated a file under one of the regions.
    pub(crate) fn truncated(&self) -> bool {
        self.regions.iter().any(|r| r.guard.hit())
    }
}

/// The page size with which a file is mapped: its huge page size on hugetlbfs, else the machine's.
fn page_size(file: BorrowedFd<'_>) -> usize {
    const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
    match rustix::fs::fstatfs(file) {
        Ok(fs) if fs.f_type == HUGETLBFS_MAGIC => fs.f_bsize as usize,
        _ => rustix::param::page_size(),
    }
}

/// A contiguous piece of guest memory as the host sees it.
///
/// Valid as long as the [`Memory`] that it came from lives: the owners of slices (`Chain`, `Done`, `Ring`)
/// hold that table beside them and hand out no slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestSlice {
    ptr: NonNull<u8>,
    len: usize,
    guest_addr: u64,
}

// SAFETY: the pointer leads to a shared mapping, which is the same in each thread of the process, and
// every access to it goes through the raw copies and atomics below.
unsafe impl Send for GuestSlice {}
// SAFETY: as for Send; there is no access by reference.
unsafe impl Sync for GuestSlice {}

impl GuestSlice {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn guest_addr(&self) -> u64 {
        self.guest_addr
    }

    pub(crate) fn is_aligned(&self, align: usize) -> bool {
        self.ptr.addr().get().is_multiple_of(align)
    }

    /// Pointer to `size` bytes at `offset`. An offset that does not fit is a bug of ours, never the guest's.
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(
            offset.checked_add(size).is_some_and(|end| end <= self.len),
            "access beyond a guest slice"
        );
        // SAFETY: just checked to be within the mapping.
        unsafe { self.ptr.as_ptr().add(offset) }
    }

    /// Has the CPU fetch the line at `offset` meanwhile. Nothing happens on CPUs other than x86-64.
    pub(crate) fn prefetch(&self, offset: usize) {
        let at = self.at(offset, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, which faults at no address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// Copies from guest memory at `offset`.
    pub(crate) fn read(&self, offset: usize, dst: &mut [u8]) {
        // SAFETY: both sides are valid for that many bytes, and a guest mapping never overlaps our own memory.
        unsafe { ptr::copy_nonoverlapping(self.at(offset, dst.len()), dst.as_mut_ptr(), dst.len()) }
    }

    /// Copies to guest memory at `offset`.
    pub(crate) fn write(&self, offset: usize, src: &[u8]) {
        // SAFETY: as in `read`, with the direction reversed.
        unsafe { ptr::copy_nonoverlapping(src.as_ptr(), self.at(offset, src.len()), src.len()) }
    }

    /// An `iovec` of this slice from `offset` on, for a system call.
    pub(crate) fn iovec(&self, offset: usize, len: usize) -> libc::iovec {
        libc::iovec {
            iov_base: self.at(offset, len).cast(),
            iov_len: len,
        }
    }

    pub(crate) fn load_u16(&self, offset: usize, order: Ordering) -> u16 {
        self.atomic_u16(offset).load(order)
    }

    pub(crate) fn store_u16(&self, offset: usize, value: u16, order: Ordering) {
        self.atomic_u16(offset).store(value, order);
    }

    pub(crate) fn load_u64(&self, offset: usize) -> u64 {
        self.atomic_u64(offset).load(Ordering::Relaxed)
    }

    pub(crate) fn store_u64(&self, offset: usize, value: u64) {
        self.atomic_u64(offset).store(value, Ordering::Relaxed);
    }

    pub(crate) fn store_u8(&self, offset: usize, value: u8) {
        let ptr = self.at(offset, 1);
        // SAFETY: in bounds; a byte is always aligned.
        unsafe { std::sync::atomic::AtomicU8::from_ptr(ptr) }.store(value, Ordering::Release);
    }

    pub(crate) fn or_u8(&self, offset: usize, bits: u8) {
        let ptr = self.at(offset, 1);
        // SAFETY: in bounds; a byte is always aligned, and the other process uses atomic accesses too.
        unsafe { std::sync::atomic::AtomicU8::from_ptr(ptr) }.fetch_or(bits, Ordering::Relaxed);
    }

    fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        let ptr = self.at(offset, 2).cast::<u16>();
        assert!(ptr.is_aligned(), "unaligned ring");
        // SAFETY: in bounds and aligned; the other side accesses the field atomically as well.
        unsafe { AtomicU16::from_ptr(ptr) }
    }

    fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        let ptr = self.at(offset, 8).cast::<u64>();
        assert!(ptr.is_aligned(), "unaligned descriptor");
        // SAFETY: in bounds and aligned; a torn view of a hostile guest's own writes harms nobody.
        unsafe { AtomicU64::from_ptr(ptr) }
    }
}

/// The buffers of one descriptor chain, readable ones first.
#[derive(Default)]
pub(crate) struct Buffers {
    pub(crate) slices: Vec<GuestSlice>,
    pub(crate) readable: usize,
}

impl Buffers {
    pub(crate) fn part(&self, writable: bool) -> &[GuestSlice] {
        let (readable, rest) = self.slices.split_at(self.readable.min(self.slices.len()));
        if writable { rest } else { readable }
    }
}

/// `readv(2)` into guest buffers.
pub(crate) fn read_vectored(fd: BorrowedFd<'_>, parts: &[libc::iovec]) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let count = libc::c_int::try_from(parts.len().min(libc::UIO_MAXIOV as usize)).unwrap_or(0);
    // SAFETY: each iovec was made by `GuestSlice::iovec` and its mapping is held by the caller; the kernel
    // answers EFAULT for pages that have gone.
    let n = unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), count) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(n.unsigned_abs())
    }
}

/// A shared mapping that is not guest memory: the dirty log or the in-flight region.
pub(crate) struct Mapping {
    slice: GuestSlice,
    guard: Guard,
}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on.
    pub(crate) fn new(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let end = offset
            .checked_add(len as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if len == 0 || file.metadata()?.len() < end {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the file is shorter than the mapping",
            ));
        }
        let (prot, flags) = (
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::SHARED,
        );
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let ptr = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, flags, file, offset) }?;
        let ptr = NonNull::new(ptr.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let guard = Guard::new(ptr.as_ptr() as usize, len, page_size(file.as_fd()));
        Ok(Self {
            slice: GuestSlice {
                ptr,
                len,
                guest_addr: 0,
            },
            guard,
        })
    }

    /// The mapped bytes; to be used only while the mapping is held.
    pub(crate) fn slice(&self) -> &GuestSlice {
        &self.slice
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.guard.release();
        // SAFETY: made by `new` with this length, and nobody holds the slice any more.
        let _ = unsafe { rustix::mm::munmap(self.slice.ptr.as_ptr().cast(), self.slice.len) };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Mapping, Memory, RegionError, RegionInfo};
    use std::fs::File;
    use std::sync::Arc;

    fn file(size: u64) -> File {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(fd.expect("memfd"));
        file.set_len(size).expect("size");
        file
    }

    fn info(guest_addr: u64, size: u64) -> RegionInfo {
        RegionInfo {
            guest_addr,
            size,
            user_addr: guest_addr.wrapping_add(0x7000_0000),
            mmap_offset: 0,
        }
    }

    /// Memory of zeroes at these guest addresses and of these sizes.
    pub(crate) fn guest(regions: &[(u64, u64)]) -> Arc<Memory> {
        let add = |memory: Memory, (addr, size): &(u64, u64)| {
            memory.with(info(*addr, *size), file(*size)).expect("a region")
        };
        Arc::new(regions.iter().fold(Memory::default(), add))
    }

    /// Writes to guest memory.
    pub(crate) fn put(memory: &Memory, addr: u64, bytes: &[u8]) {
        let slice = memory.slice(addr, bytes.len() as u32).expect("it is mapped");
        slice.write(0, bytes);
    }

    #[test]
    fn a_range_may_straddle_regions_that_touch_and_no_gap() {
        let memory = guest(&[(0x3000, 0x1000), (0x1000, 0x2000), (0x8000, 0x1000)]);
        let parts = |addr, len| {
            let mut parts = Vec::new();
            memory
                .resolve(addr, len, |s| parts.push((s.guest_addr(), s.len())))
                .then_some(parts)
        };
        assert_eq!(parts(0x2fff, 2), Some(vec![(0x2fff, 1), (0x3000, 1)]));
        assert_eq!(
            parts(0x1000, 0x3000),
            Some(vec![(0x1000, 0x2000), (0x3000, 0x1000)])
        );
        for (addr, len) in [(0xfff, 2), (0x3fff, 2), (0x4000, 1), (0x8fff, 2), (u64::MAX, 1)] {
            assert_eq!(parts(addr, len), None, "{addr:#x}+{len}");
        }
        assert!(memory.slice(0x2fff, 2).is_none(), "two parts are no slice");
        assert!(memory.slice(0x2ffe, 2).is_some());
    }

    #[test]
    fn the_last_byte_of_the_address_space_is_memory_like_any_other() {
        let top = u64::MAX - 0x1fff;
        let memory = guest(&[(top, 0x1000)]);
        assert!(memory.slice(top + 0xfff, 1).is_some());
        assert!(memory.slice(top + 0xfff, 2).is_none());
    }

    #[test]
    fn regions_that_wrap_overlap_or_are_empty_are_refused() {
        let memory = guest(&[(0x1000, 0x1000)]);
        let with = |info| memory.with(info, file(0x1000)).err();
        let wraps = RegionInfo {
            user_addr: u64::MAX,
            ..info(0x8000, 0x1000)
        };
        for bad in [info(0x8000, 0), info(u64::MAX - 0xff, 0x1000), wraps] {
            assert!(matches!(with(bad), Some(RegionError::Range(..))), "{bad:x?}");
        }
        for bad in [info(0x1fff, 1), info(0, 0x1001), info(0x1800, 0x10)] {
            assert!(matches!(with(bad), Some(RegionError::Overlap(..))), "{bad:x?}");
        }
        assert!(with(info(0x2000, 0x1000)).is_none() && with(info(0, 0x1000)).is_none());
        assert!(memory.without(0x1000, 0x1000).is_ok());
        let unknown = memory.without(0x1000, 0x800);
        assert!(matches!(unknown, Err(RegionError::Unknown(..))));
    }

    #[test]
    fn user_addresses_are_those_of_the_front_end() {
        let memory = guest(&[(0x1000, 0x1000)]);
        assert_eq!(memory.guest_addr(0x7000_1fff), Some(0x1fff));
        assert_eq!(memory.guest_addr(0x7000_2000), None);
        assert_eq!(memory.guest_addr(0x1000), None);
    }

    #[test]
    fn a_mapping_is_never_longer_than_its_file() {
        let file = file(0x1000);
        assert!(Mapping::new(&file, 0, 0x1000).is_ok());
        for (offset, len) in [(0, 0), (0, 0x1001), (0x1000, 1), (u64::MAX, 1)] {
            assert!(Mapping::new(&file, offset, len).is_err(), "{offset:#x}+{len:#x}");
        }
    }
}
