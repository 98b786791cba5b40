// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Byte cursors over a chain: how the driver cut its buffers into descriptors never matters
//! (virtio 1.3, section 2.7.4.1).

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::{Buffers, GuestSlice, read_vectored};

/// Most descriptors that one system call fills.
const MAX_IOVECS: usize = 64;

/// A position in a list of slices.
struct Position<'a> {
    slices: &'a [GuestSlice],
    /// Bytes of the first slice that are behind us.
    offset: usize,
    remaining: usize,
}

impl Position<'_> {
    /// Calls `access` with each piece of the next `len` bytes: the slice, the offset in it, the length.
    fn advance(&mut self, len: usize, mut access: impl FnMut(&GuestSlice, usize, usize)) -> usize {
        let total = len.min(self.remaining);
        let mut left = total;
        while left > 0 {
            let Some((slice, rest)) = self.slices.split_first() else {
                break;
            };
            let part = left.min(slice.len().saturating_sub(self.offset));
            access(slice, self.offset, part);
            self.offset = self.offset.wrapping_add(part);
            left = left.wrapping_sub(part);
            if self.offset == slice.len() {
                self.slices = rest;
                self.offset = 0;
            }
        }
        let done = total.wrapping_sub(left);
        self.remaining = self.remaining.saturating_sub(done);
        done
    }
}

/// Reads the device-readable part of a chain from front to back.
pub struct Reader<'a>(Position<'a>);

impl<'a> Reader<'a> {
    pub(crate) fn new(buffers: &'a Buffers, len: usize) -> Self {
        Self(Position {
            slices: buffers.part(false),
            offset: 0,
            remaining: len,
        })
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.0.remaining
    }

    /// Passes over `len` bytes, or as many as there are; returns how many.
    pub fn skip(&mut self, len: usize) -> usize {
        self.0.advance(len, |_, _, _| {})
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, mut dst: &mut [u8]) -> io::Result<usize> {
        let len = dst.len();
        Ok(self.0.advance(len, |slice, offset, part| {
            let (head, tail) = std::mem::take(&mut dst).split_at_mut(part);
            slice.read(offset, head);
            dst = tail;
        }))
    }
}

/// Writes the device-writable part of a chain from front to back. Writes are short at its end.
pub struct Writer<'a>(Position<'a>);

impl<'a> Writer<'a> {
    pub(crate) fn new(buffers: &'a Buffers, len: usize) -> Self {
        Self(Position {
            slices: buffers.part(true),
            offset: 0,
            remaining: len,
        })
    }

    /// Bytes that there is still room for.
    pub fn remaining(&self) -> usize {
        self.0.remaining
    }

    /// Passes over `len` bytes, or as many as there are, leaving them as they were; returns how many.
    pub fn skip(&mut self, len: usize) -> usize {
        self.0.advance(len, |_, _, _| {})
    }

    /// One `readv(2)` from `fd` straight into the chain: at most `max` bytes. Returns how many came; 0 is
    /// the end of the file, or no room.
    ///
    /// # Errors
    /// What the system call says, `WouldBlock` among it.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let mut parts = [const {
            libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            }
        }; MAX_IOVECS];
        let mut ahead = Position { ..self.0 };
        let mut count = 0;
        while let Some(entry) = parts.get_mut(count) {
            let left = max.saturating_sub(self.0.remaining.saturating_sub(ahead.remaining));
            let room = ahead
                .slices
                .first()
                .map_or(0, |s| s.len().saturating_sub(ahead.offset));
            if ahead.advance(left.min(room), |slice, offset, len| {
                *entry = slice.iovec(offset, len);
            }) == 0
            {
                break;
            }
            count = count.saturating_add(1);
        }
        let done = read_vectored(fd, parts.get(..count).unwrap_or(&[]))?;
        Ok(self.skip(done))
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, mut src: &[u8]) -> io::Result<usize> {
        let len = src.len();
        Ok(self.0.advance(len, |slice, offset, part| {
            let (head, tail) = src.split_at(part);
            slice.write(offset, head);
            src = tail;
        }))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Writer};
    use crate::memory::tests::{guest, put};
    use crate::memory::{Buffers, Memory};
    use std::io::{Read, Write};
    use std::sync::Arc;

    /// Readable pieces of 1, 2 and 3 bytes that say 1 to 6, and writable ones of 2 and 3.
    fn buffers() -> (Arc<Memory>, Buffers) {
        let memory = guest(&[(0, 0x1000)]);
        put(&memory, 0x10, &[1]);
        put(&memory, 0x20, &[2, 3]);
        put(&memory, 0x30, &[4, 5, 6]);
        let pieces = [(0x10, 1), (0x20, 2), (0x30, 3), (0x40, 2), (0x50, 3)];
        let slice = |(addr, len)| memory.slice(addr, len).expect("it is mapped");
        let buffers = Buffers {
            slices: pieces.into_iter().map(slice).collect(),
            readable: 3,
        };
        (memory, buffers)
    }

    #[test]
    fn a_reader_crosses_pieces_and_ends_at_the_end() {
        let (_memory, buffers) = buffers();
        for step in 1..=7 {
            let mut reader = Reader::new(&buffers, 6);
            let mut all = Vec::new();
            let mut part = vec![0; step];
            while let Ok(got) = reader.read(&mut part)
                && got > 0
            {
                all.extend_from_slice(&part[..got]);
                assert_eq!(reader.remaining(), 6 - all.len());
            }
            assert_eq!(all, [1, 2, 3, 4, 5, 6], "in steps of {step}");
        }
        let mut reader = Reader::new(&buffers, 6);
        assert_eq!(reader.skip(2), 2);
        let mut next = [0];
        reader.read_exact(&mut next).expect("four are left");
        assert_eq!((next, reader.skip(usize::MAX), reader.skip(1)), ([3], 3, 0));
    }

    #[test]
    fn a_writer_stays_within_the_writable_part_and_leaves_what_it_skips() {
        let (_memory, buffers) = buffers();
        let mut writer = Writer::new(&buffers, 5);
        writer.write_all(&[7]).expect("there is room");
        assert_eq!(writer.skip(2), 2);
        assert_eq!(writer.write(&[8, 9, 10]).expect("never an error"), 2);
        assert!(writer.write_all(&[11]).is_err());
        let mut bytes = [0; 3];
        buffers.part(true)[0].read(0, &mut bytes[..2]);
        assert_eq!(bytes, [7, 0, 0]);
        buffers.part(true)[1].read(0, &mut bytes);
        assert_eq!(bytes, [0, 8, 9]);
    }
}
