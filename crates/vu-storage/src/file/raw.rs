// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`RawFile`]: an open file or block device, and how one request is carried out on it by calls that wait.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use vu_common::Segments;

use super::limits::Facts;
use super::probe::Kind;
use super::sys::{self, Direction, RangeIoctl};
use crate::{Limits, Op, Request};

/// Most bytes that a bounce buffer or a buffer of zeroes has.
const CHUNK: usize = 256 << 10;
/// Longest range that is punched or zeroed while a thread of a device waits for it: some milliseconds.
const LONGEST_INLINE: u64 = 16 << 20;

/// An open file or block device and the facts about it. Shared by all engines of a disk.
#[derive(Debug)]
pub(super) struct RawFile {
    pub(super) file: File,
    /// For people.
    pub(super) path: PathBuf,
    /// A block device, not a regular file.
    pub(super) device: bool,
    /// With `O_DIRECT`: what addresses in memory must be aligned to; otherwise 1.
    pub(super) memory_align: usize,
    /// With `O_DIRECT`: what offsets and lengths must be aligned to; otherwise 1.
    pub(super) offset_align: usize,
    /// A write may wait although a read does not.
    pub(super) slow_writes: bool,
    /// What it says of itself.
    pub(super) limits: Limits,
    /// Bytes it holds, a multiple of the logical block size.
    pub(super) capacity: AtomicU64,
    /// Whether `fallocate` is not known to lack `FALLOC_FL_ZERO_RANGE`.
    pub(super) zero_range: AtomicBool,
}

impl RawFile {
    /// Takes over an open file of which `facts` are known, for use by `engine`.
    pub(super) fn new(file: File, path: &Path, facts: &Facts, engine: Kind) -> Self {
        let mut limits = facts.limits.clone();
        if engine == Kind::Inline {
            for range in [&mut limits.discard, &mut limits.write_zeroes]
                .into_iter()
                .flatten()
            {
                range.max_len = range.max_len.min(LONGEST_INLINE);
            }
        }
        Self {
            file,
            path: path.into(),
            device: facts.device,
            memory_align: facts.memory_align,
            offset_align: facts.offset_align,
            slow_writes: facts.slow_writes,
            limits,
            capacity: AtomicU64::new(0),
            zero_range: AtomicBool::new(true),
        }
    }

    /// Carries out all of `request`; returns when it is done.
    pub(super) fn execute(&self, request: &Request) -> io::Result<()> {
        let (offset, len) = (request.offset, request.len);
        match request.op {
            Op::Read => self.transfer(Direction::Read, &request.data, offset),
            Op::Write { durable } => self.transfer(Direction::Write(durable), &request.data, offset),
            Op::Flush => self.flush(),
            Op::Discard => self.discard(offset, len),
            Op::WriteZeroes { unmap, durable } => {
                self.write_zeroes(offset, len, unmap)?;
                if durable { self.flush() } else { Ok(()) }
            }
            Op::SecureErase if self.limits.secure_erase.is_some() => {
                retry(|| sys::range_ioctl(self.fd(), RangeIoctl::SecureDiscard, offset, len))
            }
            Op::SecureErase => Err(ErrorKind::Unsupported.into()),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether the kernel moves `data` as it is, without a bounce buffer.
    pub(super) fn takes(&self, data: &Segments) -> bool {
        self.memory_align == 1 || data.is_aligned(self.memory_align)
    }

    /// Makes the file longer.
    pub(super) fn grow(&self, bytes: u64) -> io::Result<()> {
        let refuse = |what: String| Err(io::Error::new(ErrorKind::Unsupported, what));
        if self.device {
            return refuse("a block device is made larger by its own tools".into());
        }
        if self.limits.read_only {
            return refuse("the disk is read-only".into());
        }
        let block = self.limits.logical_block;
        if !bytes.is_multiple_of(block.into()) {
            return refuse(format!("{bytes} bytes are not whole blocks of {block}"));
        }
        let now = self.file.metadata()?.len();
        if bytes < now {
            return refuse(format!("a disk of {now} bytes can only be made larger"));
        }
        self.file.set_len(bytes)
    }

    /// Looks at the size of the file; returns the capacity.
    pub(super) fn measure(&self) -> io::Result<u64> {
        let bytes = if self.device {
            sys::device_size(self.fd())?
        } else {
            self.file.metadata()?.len()
        };
        let capacity = bytes & !(u64::from(self.limits.logical_block).wrapping_sub(1));
        if self.capacity.swap(capacity, Ordering::Relaxed) != capacity && capacity != bytes {
            log::warn!(
                "{}: its last {} bytes are less than a block of {} and cannot be reached",
                self.path.display(),
                bytes.wrapping_sub(capacity),
                self.limits.logical_block
            );
        }
        Ok(capacity)
    }

    fn flush(&self) -> io::Result<()> {
        retry(|| Ok(rustix::fs::fdatasync(self.fd())?))
    }

    fn transfer(&self, direction: Direction, data: &Segments, offset: u64) -> io::Result<()> {
        if !self.takes(data) {
            return self.bounce(direction, data, offset);
        }
        let mut rest = Segments::default();
        let mut done = 0;
        while done < data.len() {
            let now = if done == 0 {
                data
            } else {
                data.part(done..data.len(), &mut rest);
                &rest
            };
            let at = offset.saturating_add(done as u64);
            let moved = retry(|| sys::transfer(self.fd(), direction, now, at))?;
            done = self.advance(direction, done, moved, data.len())?;
        }
        Ok(())
    }

    /// Where a transfer of `len` bytes stands that had moved `done` of them and now `moved` more.
    pub(super) fn advance(
        &self,
        direction: Direction,
        done: usize,
        moved: usize,
        len: usize,
    ) -> io::Result<usize> {
        let done = done.saturating_add(moved);
        // O_DIRECT stops at the end of the file wherever that is, and refuses to go on from there.
        let stuck = moved == 0 || !done.is_multiple_of(self.offset_align);
        match direction {
            _ if done >= len || !stuck => Ok(done),
            Direction::Read => Err(ErrorKind::UnexpectedEof.into()),
            Direction::Write(_) => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// [`transfer`](Self::transfer) by way of an aligned buffer.
    fn bounce(&self, direction: Direction, data: &Segments, offset: u64) -> io::Result<()> {
        let mut room = Vec::new();
        let buffer = aligned(&mut room, self.memory_align, data.len().min(CHUNK));
        for start in (0..data.len()).step_by(CHUNK) {
            let part = buffer.get_mut(..data.len().saturating_sub(start).min(CHUNK));
            let part = part.unwrap_or_default();
            let at = offset.saturating_add(start as u64);
            match direction {
                Direction::Read => {
                    self.read_own(part, at)?;
                    data.copy_from(start, part);
                }
                Direction::Write(durable) => {
                    data.copy_to(start, part);
                    self.write_own(part, at, durable)?;
                }
            }
        }
        Ok(())
    }

    fn read_own(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let len = bytes.len();
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let moved = retry(|| Ok(rustix::io::pread(self.fd(), &mut *rest, at)?))?;
            done = self.advance(Direction::Read, done, moved, len)?;
        }
        Ok(())
    }

    fn write_own(&self, bytes: &[u8], offset: u64, durable: bool) -> io::Result<()> {
        let flags = if durable {
            ReadWriteFlags::DSYNC
        } else {
            ReadWriteFlags::empty()
        };
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let moved = retry(|| Ok(rustix::io::pwritev2(self.fd(), &[IoSlice::new(rest)], at, flags)?))?;
            done = self.advance(Direction::Write(durable), done, moved, bytes.len())?;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.limits.discard.is_none() {
            return Err(ErrorKind::Unsupported.into());
        }
        if self.device {
            return retry(|| sys::range_ioctl(self.fd(), RangeIoctl::Discard, offset, len));
        }
        self.allocate(PUNCH, offset, len)
    }

    /// Makes `len` bytes zero, by the first way that the file knows.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let unmap = unmap && self.limits.discard.is_some();
        if unmap && let Some(result) = supported(self.allocate(PUNCH, offset, len)) {
            return result;
        }
        // A file that was cut off grows back to what the driver sees of it, as it does by a write.
        let zero = if self.device {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        if self.zero_range.load(Ordering::Relaxed) {
            if let Some(result) = supported(self.allocate(zero, offset, len)) {
                return result;
            }
            self.zero_range.store(false, Ordering::Relaxed);
        }
        let mut room = Vec::new();
        let chunk = usize::try_from(len).map_or(CHUNK, |len| len.min(CHUNK));
        let zeroes = &*aligned(&mut room, self.memory_align, chunk);
        let mut at = offset;
        let end = offset.saturating_add(len);
        while at < end {
            let now = usize::try_from(end.wrapping_sub(at)).map_or(chunk, |left| left.min(chunk));
            self.write_own(zeroes.get(..now).unwrap_or_default(), at, false)?;
            at = at.saturating_add(now as u64);
        }
        Ok(())
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        retry(|| Ok(rustix::fs::fallocate(self.fd(), flags, offset, len)?))
    }
}

/// Gives blocks of a file back; they read as zeroes.
pub(super) const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// `None` if what was tried is unknown to the file.
fn supported(result: io::Result<()>) -> Option<io::Result<()>> {
    match &result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => None,
        // A block device's answer to a range that its blocks do not fit.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
        _ => Some(result),
    }
}

/// Calls again what a signal or a lack of resources broke off.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            result => return result,
        }
    }
}

/// Whether a read that must not wait is something the file knows (`RWF_NOWAIT`).
pub(super) fn knows_nowait(fd: BorrowedFd<'_>, align: usize) -> io::Result<bool> {
    let mut room = Vec::new();
    let bytes = aligned(&mut room, align, align.max(512));
    match rustix::io::preadv2(fd, &mut [IoSliceMut::new(bytes)], 0, ReadWriteFlags::NOWAIT) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes `room` hold `len` zero bytes from an address on that is a multiple of `align`; returns them.
fn aligned(room: &mut Vec<u8>, align: usize, len: usize) -> &mut [u8] {
    room.resize(len.saturating_add(align), 0);
    let start = room.as_ptr().align_offset(align);
    room.get_mut(start..start.saturating_add(len)).unwrap_or_default()
}
