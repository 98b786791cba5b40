// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls that have no safe wrapper: vectored I/O into [`Segments`], block device ioctls, OFD locks.
//!
//! UNSAFETY: hands pointers to guest memory to system calls, and calls ioctls and fcntls with arguments.
#![allow(
    unsafe_code,
    reason = "system calls that take raw pointers; see the module's text"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vu_common::Segments;

/// Most pieces that one vectored call takes (`IOV_MAX`).
pub(super) const MAX_PIECES: usize = 1024;

/// What [`transfer`] does to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the file to memory.
    Read,
    /// From memory to the file; `true` for `RWF_DSYNC`.
    Write(bool),
}

/// One `preadv2` or `pwritev2` of as much of `data` as it takes; returns how many bytes were moved.
pub(super) fn transfer(
    fd: BorrowedFd<'_>,
    direction: Direction,
    data: &Segments,
    offset: u64,
) -> io::Result<usize> {
    let pieces = data.iovecs();
    let (fd, offset) = (fd.as_raw_fd(), position(offset)?);
    // SAFETY: the pieces are valid while `data` lives, which is longer than the call. Their bytes belong to a
    // guest or are reached by raw pointers only, so no reference sees them change.
    let moved = unsafe {
        match (direction, pieces) {
            (Direction::Read, [piece]) => libc::pread64(fd, piece.iov_base, piece.iov_len, offset),
            (Direction::Write(false), [piece]) => libc::pwrite64(fd, piece.iov_base, piece.iov_len, offset),
            (Direction::Read, _) => libc::preadv64(fd, pieces.as_ptr(), count(pieces), offset),
            (Direction::Write(durable), _) => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                libc::pwritev2(fd, pieces.as_ptr(), count(pieces), offset, flags)
            }
        }
    };
    usize::try_from(moved).map_err(|_negative| io::Error::last_os_error())
}

fn count(pieces: &[libc::iovec]) -> libc::c_int {
    pieces.len().min(MAX_PIECES) as libc::c_int
}

/// `offset` as the calls take it.
fn position(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// A block device's ioctls on a range: `arg` of `BLKDISCARD` and its like.
#[derive(Clone, Copy, Debug)]
pub(super) enum RangeIoctl {
    /// `BLKDISCARD`.
    Discard,
    /// `BLKSECDISCARD`.
    SecureDiscard,
}

/// Runs `ioctl` on `len` bytes from `offset` on of a block device.
pub(super) fn range_ioctl(fd: BorrowedFd<'_>, ioctl: RangeIoctl, offset: u64, len: u64) -> io::Result<()> {
    let request = match ioctl {
        RangeIoctl::Discard => BLKDISCARD,
        RangeIoctl::SecureDiscard => BLKSECDISCARD,
    };
    let range = [offset, len];
    // SAFETY: both read two u64 from `range`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, range.as_ptr()) })
}

/// Whether a block device knows `BLKSECDISCARD`: asked with a range that it refuses for its alignment only.
pub(super) fn has_secure_discard(fd: BorrowedFd<'_>) -> bool {
    let answer = range_ioctl(fd, RangeIoctl::SecureDiscard, 1, 1);
    answer.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// What the engines call, beyond what every daemon does.
pub(super) const CALLS: &[i64] = &[
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
];
/// What one of them calls beside that.
pub(super) const IO_URING: &[i64] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];
/// The requests of ioctl(2) among them.
pub(super) const IOCTLS: &[u64] = &[BLKDISCARD, BLKSECDISCARD, BLKGETSIZE64];

// linux/fs.h: _IO(0x12, nr) and _IOR(0x12, 114, size_t).
const BLKDISCARD: libc::Ioctl = rustix::ioctl::opcode::none(0x12, 119) as libc::Ioctl;
const BLKIOMIN: libc::Ioctl = rustix::ioctl::opcode::none(0x12, 120) as libc::Ioctl;
const BLKIOOPT: libc::Ioctl = rustix::ioctl::opcode::none(0x12, 121) as libc::Ioctl;
const BLKSECDISCARD: libc::Ioctl = rustix::ioctl::opcode::none(0x12, 125) as libc::Ioctl;
const BLKGETSIZE64: libc::Ioctl = rustix::ioctl::opcode::read::<usize>(0x12, 114) as libc::Ioctl;

/// Bytes of a block device (`BLKGETSIZE64`).
pub(super) fn device_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: it writes one u64 to `bytes`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

/// Smallest and best request sizes of a block device (`BLKIOMIN`, `BLKIOOPT`); 0 if unknown.
pub(super) fn device_io_sizes(fd: BorrowedFd<'_>) -> (u32, u32) {
    let ask = |request| {
        let mut bytes: libc::c_uint = 0;
        // SAFETY: both write one unsigned int to `bytes`, which outlives the call.
        let got = check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut bytes) });
        got.map_or(0, |()| bytes)
    };
    (ask(BLKIOMIN), ask(BLKIOOPT))
}

/// Takes a shared OFD lock on one byte of a file; it goes with the open file.
pub(super) fn share_byte(fd: BorrowedFd<'_>, byte: i64) -> io::Result<()> {
    let flock = one_byte(libc::F_RDLCK, byte);
    // SAFETY: F_OFD_SETLK reads `flock`, which outlives the call.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const flock) })
}

/// Whether another open file has a lock on one byte.
pub(super) fn is_byte_locked(fd: BorrowedFd<'_>, byte: i64) -> io::Result<bool> {
    let mut flock = one_byte(libc::F_WRLCK, byte);
    // SAFETY: F_OFD_GETLK reads and writes `flock`, which outlives the call.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut flock) })?;
    Ok(libc::c_int::from(flock.l_type) != libc::F_UNLCK)
}

fn one_byte(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
