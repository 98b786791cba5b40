// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Facts`]: what the host says of an open file, by statx, ioctls, sysfs and trials that change nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{AtFlags, Statx, StatxFlags};

use super::raw::{self, PUNCH};
use super::sysfs::Device;
use super::{OpenError, Options, host, sys};
use crate::{Limits, Range};

/// Bounds of a logical block. Linux takes none larger as a driver.
const BLOCK: (u32, u32) = (512, 65536);
/// Largest physical block told of a file: no file system in a guest likes more than a page.
const LARGEST_PHYSICAL: u32 = 4096;
/// Largest range of a request that the kernel does by itself.
const LARGEST_RANGE: u64 = 1 << 30;
/// `STATX_DIOALIGN` and `STATX_ATTR_DAX` of linux/stat.h.
const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);
const ATTR_DAX: u64 = 0x20_0000;

/// What is known of an open file.
pub(super) struct Facts {
    /// A block device.
    pub(super) device: bool,
    /// What makes it as fast as memory, if it is.
    pub(super) memory: Option<&'static str>,
    /// It can say "not now".
    pub(super) nowait: bool,
    /// A write may wait although a read does not.
    pub(super) slow_writes: bool,
    /// See [`RawFile`](super::raw::RawFile).
    pub(super) memory_align: usize,
    pub(super) offset_align: usize,
    /// What the disk will say of itself.
    pub(super) limits: Limits,
    /// Of a block device.
    pub(super) sysfs: Option<Device>,
}

impl Facts {
    pub(super) fn of(file: &File, path: &Path, options: &Options) -> Result<Self, OpenError> {
        let failed = |source| host(path, "cannot tell its properties", source);
        let fd = file.as_fd();
        let device = file.metadata().map_err(failed)?.file_type().is_block_device();
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | DIOALIGN)
            .map_err(|error| failed(error.into()))?;
        let (own, below) = (
            Device::of(stat.stx_rdev_major, stat.stx_rdev_minor),
            Device::of(stat.stx_dev_major, stat.stx_dev_minor),
        );
        let sysfs = own.filter(|_| device);
        let memory = memory_like(fd, &stat, sysfs.as_ref()).map_err(failed)?;
        let least = if device {
            rustix::fs::ioctl_blksszget(fd).map_err(|error| failed(error.into()))?
        } else {
            BLOCK.0
        };
        // A file in memory takes O_DIRECT and ignores it; a device in memory does not.
        let (memory_align, offset_align) = if options.direct && (device || memory.is_none()) {
            direct_alignment(&stat, least, device).ok_or_else(|| OpenError::NoDirect(path.into()))?
        } else {
            (1, 1)
        };
        let logical = block_size(path, options, least, offset_align)?;
        let mut limits = Limits {
            read_only: options.read_only,
            logical_block: logical,
            physical_block: logical,
            minimum_io: 0,
            optimal_io: 0,
            rotational: sysfs
                .as_ref()
                .or(below.as_ref())
                .and_then(|disk| disk.queue::<u8>("rotational"))
                .map(|answer| answer == 1),
            discard: None,
            write_zeroes: None,
            secure_erase: None,
        };
        if device {
            of_device(fd, sysfs.as_ref(), &mut limits).map_err(failed)?;
        } else {
            of_file(fd, &stat, &mut limits);
        }
        if !options.discard {
            limits.discard = None;
        }
        Ok(Self {
            device,
            memory,
            slow_writes: !device && !options.direct && is_ext(fd).map_err(failed)?,
            nowait: raw::knows_nowait(fd, memory_align.max(offset_align)).map_err(failed)?,
            memory_align,
            offset_align,
            limits,
            sysfs,
        })
    }
}

/// What makes the file as fast as memory: its file system, or its device.
fn memory_like(fd: BorrowedFd<'_>, stat: &Statx, sysfs: Option<&Device>) -> io::Result<Option<&'static str>> {
    if let Some(device) = sysfs {
        let kinds = [
            ("zram", "zram"),
            ("ram", "a RAM disk"),
            ("pmem", "persistent memory"),
        ];
        let found = kinds.iter().find(|(prefix, _)| device.name().starts_with(prefix));
        return Ok(found.map(|(_, kind)| *kind));
    }
    if stat.stx_attributes.bits() & ATTR_DAX != 0 {
        return Ok(Some("DAX"));
    }
    Ok(match rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff {
        0x0102_1994 => Some("tmpfs"),
        0x8584_58f6 => Some("ramfs"),
        0x9584_58f6 => Some("hugetlbfs"),
        _ => None,
    })
}

/// Whether it lies on ext2, ext3 or ext4. These cannot say "not now" to a write to the page cache, and no trial
/// would leave the file as it was.
fn is_ext(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff == 0xef53)
}

/// What `O_DIRECT` demands of addresses in memory, and of offsets and lengths; `None` if it is not to be had.
fn direct_alignment(stat: &Statx, least: u32, device: bool) -> Option<(usize, usize)> {
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(DIOALIGN);
    let (memory, offset) = match (known, device) {
        (true, _) => (stat.stx_dio_mem_align, stat.stx_dio_offset_align),
        (false, true) => (least, least),
        // Older kernels do not say it of files: a page always does.
        (false, false) => (4096, 4096),
    };
    (memory > 0 && offset > 0).then_some((memory as usize, offset as usize))
}

/// The logical block size: what was asked for, or the least that can be had.
fn block_size(path: &Path, options: &Options, least: u32, offset_align: usize) -> Result<u32, OpenError> {
    let direct = u32::try_from(offset_align).unwrap_or(u32::MAX);
    // The page cache divides a device's blocks, O_DIRECT does not.
    let floor = BLOCK.0.max(direct);
    let size = options.block_size.unwrap_or(least.max(floor));
    if size.is_power_of_two() && (floor..=BLOCK.1).contains(&size) {
        return Ok(size);
    }
    Err(OpenError::BlockSize {
        path: path.into(),
        size,
        least: floor,
        most: BLOCK.1,
    })
}

fn of_file(fd: BorrowedFd<'_>, stat: &Statx, limits: &mut Limits) {
    let block = stat.stx_blksize;
    if block.is_power_of_two() {
        limits.physical_block = block.min(LARGEST_PHYSICAL).max(limits.logical_block);
    }
    if limits.read_only || !knows_holes(fd, stat) {
        return;
    }
    let range = Some(Range {
        max_len: LARGEST_RANGE,
        alignment: limits.physical_block,
    });
    (limits.discard, limits.write_zeroes) = (range, range);
}

/// Whether holes can be punched, by a trial beyond the end of the file.
fn knows_holes(fd: BorrowedFd<'_>, stat: &Statx) -> bool {
    let beyond = stat.stx_size.next_multiple_of(1 << 21);
    match rustix::fs::fallocate(fd, PUNCH, beyond, 4096) {
        Ok(()) => true,
        // A sealed file may not grow, and would not by a hole either.
        Err(rustix::io::Errno::PERM) => true,
        Err(_) => false,
    }
}

fn of_device(fd: BorrowedFd<'_>, sysfs: Option<&Device>, limits: &mut Limits) -> io::Result<()> {
    limits.physical_block = rustix::fs::ioctl_blkpbszget(fd)?.max(limits.logical_block);
    (limits.minimum_io, limits.optimal_io) = sys::device_io_sizes(fd);
    if limits.read_only {
        return Ok(());
    }
    let granularity = sysfs
        .and_then(|disk| disk.queue::<u32>("discard_granularity"))
        .filter(|bytes| *bytes >= limits.logical_block)
        .unwrap_or(limits.logical_block);
    let range = |max_len: u64| {
        (max_len > 0).then_some(Range {
            max_len,
            alignment: granularity,
        })
    };
    let most = |attribute| sysfs.and_then(|disk| disk.queue::<u64>(attribute)).unwrap_or(0);
    limits.discard = range(most("discard_max_bytes"));
    limits.write_zeroes = range(most("write_zeroes_max_bytes"));
    // The kernel divides what is too long for the device.
    limits.secure_erase = sys::has_secure_discard(fd).then_some(Range {
        max_len: LARGEST_RANGE,
        alignment: granularity,
    });
    Ok(())
}
