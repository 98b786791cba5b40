// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Segments`]: memory of a guest, or our own, in the form that vectored system calls and `io_uring` take.
//!
//! UNSAFETY: hands raw pointers to guest memory to system calls, and copies through them. Each pointer is
//! made from a checked slice, and its mapping is held beside it.
#![allow(
    unsafe_code,
    reason = "guest memory is reached by raw pointers; see the module's text"
)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::Arc;

use crate::memory::{GuestSlice, Memory, read_vectored};

/// An `iovec` that may cross threads.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Piece(libc::iovec);

// SAFETY: the memory is reached by raw pointers only and lives as long as the `Keep` beside it, whichever thread uses it.
unsafe impl Send for Piece {}
// SAFETY: as for Send.
unsafe impl Sync for Piece {}

/// Memory of our own that may be written through shared handles, as a guest's is.
struct Own(*mut [u8]);

// SAFETY: it is reached by raw pointers only, and freed when the last handle goes.
unsafe impl Send for Own {}
// SAFETY: as for Send: shared handles lead to raw copies, never to references.
unsafe impl Sync for Own {}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `Segments::of_ranges`, and freed only here.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// What keeps the pieces valid.
#[derive(Clone)]
enum Keep {
    Guest { _memory: Arc<Memory> },
    Own { _bytes: Arc<Own> },
}

/// Pieces of memory that one I/O request reads or writes, in order. They stay valid while this lives, on
/// whatever thread; clear and fill it again to save the allocation.
#[derive(Clone, Default)]
pub struct Segments {
    keep: Option<Keep>,
    /// What keeps pieces that were appended after the memory table had changed.
    more: Vec<Arc<Memory>>,
    pieces: Vec<Piece>,
    len: usize,
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segments({} bytes in {})", self.len, self.pieces.len())
    }
}

impl From<Vec<u8>> for Segments {
    /// Memory of our own; [`copy_to`](Self::copy_to) reads what an engine put there.
    fn from(bytes: Vec<u8>) -> Self {
        let all = 0..bytes.len();
        Self::of_ranges(bytes, std::slice::from_ref(&all))
    }
}

impl Segments {
    /// Memory of our own, of which `ranges` are the pieces, in this order. What lies beyond its end is left out.
    pub fn of_ranges(bytes: Vec<u8>, ranges: &[Range<usize>]) -> Self {
        let len = bytes.len();
        let raw = Box::into_raw(bytes.into_boxed_slice());
        let own = Arc::new(Own(raw));
        let mut segments = Self::default();
        for range in ranges {
            let end = range.end.min(len);
            if range.start < end {
                let base = raw.cast::<u8>().wrapping_add(range.start);
                segments.push(base, end.wrapping_sub(range.start));
            }
        }
        segments.keep = Some(Keep::Own { _bytes: own });
        segments
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, none of them empty, for a system call. They must not be used once `self` has gone.
    pub fn iovecs(&self) -> &[libc::iovec] {
        // SAFETY: `Piece` is a transparent wrapper of `iovec`.
        unsafe { &*(ptr::from_ref::<[Piece]>(&self.pieces) as *const [libc::iovec]) }
    }

    /// Whether each piece starts at and is a multiple of `align` bytes, a power of two.
    pub fn is_aligned(&self, align: usize) -> bool {
        let mask = align.wrapping_sub(1);
        self.pieces
            .iter()
            .all(|Piece(v)| (v.iov_base.addr() | v.iov_len) & mask == 0)
    }

    /// Forgets the pieces and what kept them, not the room for them.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.keep = None;
        self.more.clear();
        self.len = 0;
    }

    /// One `writev(2)` of all pieces to `fd`; how many bytes it took.
    ///
    /// # Errors
    /// What the system call says, `WouldBlock` among it.
    pub fn write_to(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: the pieces are valid for as long as `self` lives; the kernel answers EFAULT for pages that have gone.
        result(unsafe { libc::writev(fd.as_raw_fd(), self.iovecs().as_ptr(), self.count()) })
    }

    /// One `readv(2)` from `fd` into the pieces; how many bytes came, 0 at the end of the file.
    ///
    /// # Errors
    /// What the system call says, `WouldBlock` among it.
    pub fn read_from(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        read_vectored(fd, self.iovecs())
    }

    /// As many pieces as one system call takes.
    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.pieces.len().min(libc::UIO_MAXIOV as usize)).unwrap_or(0)
    }

    /// Makes `into` the bytes `range` of these; what lies beyond the end is left out.
    pub fn part(&self, range: Range<usize>, into: &mut Self) {
        into.clear();
        into.keep.clone_from(&self.keep);
        self.pieces_of(range, |base, len| into.push(base, len));
    }

    /// Copies the bytes from `offset` on to `dst`; returns how many there were.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) -> usize {
        let mut at = 0_usize;
        self.pieces_of(offset..offset.saturating_add(dst.len()), |base, len| {
            if let Some(room) = dst.get_mut(at..at.saturating_add(len)) {
                // SAFETY: the piece is valid for `len` bytes, and our own buffer never overlaps it.
                unsafe { ptr::copy_nonoverlapping(base, room.as_mut_ptr(), len) };
            }
            at = at.saturating_add(len);
        });
        at
    }

    /// Copies `src` to the bytes from `offset` on; returns how many there was room for.
    pub fn copy_from(&self, offset: usize, src: &[u8]) -> usize {
        let mut at = 0_usize;
        self.pieces_of(offset..offset.saturating_add(src.len()), |base, len| {
            if let Some(bytes) = src.get(at..at.saturating_add(len)) {
                // SAFETY: as in `copy_to`, with the direction reversed.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), base, len) };
            }
            at = at.saturating_add(len);
        });
        at
    }

    /// Sets the bytes `range` to zero.
    pub fn zero(&self, range: Range<usize>) {
        self.pieces_of(range, |base, len| {
            // SAFETY: the piece is valid for `len` bytes.
            unsafe { ptr::write_bytes(base, 0, len) };
        });
    }

    /// Calls `each` for the contiguous parts of `range`.
    fn pieces_of(&self, range: Range<usize>, mut each: impl FnMut(*mut u8, usize)) {
        let mut skip = range.start;
        let mut left = range.end.saturating_sub(range.start);
        for Piece(piece) in &self.pieces {
            if left == 0 {
                return;
            }
            if skip >= piece.iov_len {
                skip = skip.wrapping_sub(piece.iov_len);
                continue;
            }
            let len = left.min(piece.iov_len.wrapping_sub(skip));
            each(piece.iov_base.cast::<u8>().wrapping_add(skip), len);
            left = left.wrapping_sub(len);
            skip = 0;
        }
    }

    fn push(&mut self, base: *mut u8, len: usize) {
        self.pieces.push(Piece(libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        }));
        self.len = self.len.saturating_add(len);
    }

    /// Makes it the bytes `range` of `slices`, which `memory` keeps mapped.
    pub(crate) fn fill(&mut self, memory: &Arc<Memory>, slices: &[GuestSlice], range: Range<usize>) {
        self.clear();
        self.append(memory, slices, range);
    }

    /// Adds the bytes `range` of `slices`, which `memory` keeps mapped.
    pub(crate) fn append(&mut self, memory: &Arc<Memory>, slices: &[GuestSlice], range: Range<usize>) {
        let (mut skip, mut left) = (range.start, range.end.saturating_sub(range.start));
        for slice in slices {
            if left == 0 {
                break;
            }
            if skip >= slice.len() {
                skip = skip.wrapping_sub(slice.len());
                continue;
            }
            let len = left.min(slice.len().wrapping_sub(skip));
            let iovec = slice.iovec(skip, len);
            self.push(iovec.iov_base.cast(), len);
            left = left.wrapping_sub(len);
            skip = 0;
        }
        match &self.keep {
            None => {
                self.keep = Some(Keep::Guest {
                    _memory: memory.clone(),
                });
            }
            Some(Keep::Guest { _memory: kept }) if Arc::ptr_eq(kept, memory) => {}
            Some(_) => self.more.push(memory.clone()),
        }
    }
}

fn result(n: libc::ssize_t) -> io::Result<usize> {
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(n.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::Segments;
    use crate::memory::tests::{guest, put};

    fn three_pieces() -> Segments {
        let memory = guest(&[(0, 0x1000)]);
        put(&memory, 0x10, &[1]);
        put(&memory, 0x20, &[2, 3]);
        put(&memory, 0x30, &[4, 5, 6]);
        let slices = [(0x10, 1), (0x20, 2), (0x30, 3)].map(|(addr, len)| memory.slice(addr, len).unwrap());
        let mut segments = Segments::default();
        segments.fill(&memory, &slices, 0..6);
        segments
    }

    #[test]
    fn parts_and_copies_cross_pieces_and_end_at_the_end() {
        let all = three_pieces();
        for start in 0..7 {
            for end in start..9 {
                let mut part = Segments::default();
                all.part(start..end, &mut part);
                let mut bytes = vec![0; 9];
                let got = part.copy_to(0, &mut bytes);
                assert_eq!(bytes[..got], [1, 2, 3, 4, 5, 6][start..end.min(6)]);
                assert_eq!((part.len(), part.is_empty()), (got, got == 0));
                assert!(part.iovecs().iter().all(|v| v.iov_len > 0));
            }
        }
    }

    #[test]
    fn a_part_shares_the_memory_and_outlives_the_whole() {
        let all = three_pieces();
        let mut part = Segments::default();
        all.part(1..4, &mut part);
        assert_eq!(all.copy_from(2, &[9, 8]), 2);
        all.zero(1..2);
        drop(all);
        let mut bytes = [7; 3];
        assert_eq!((part.copy_to(0, &mut bytes), bytes), (3, [0, 9, 8]));
    }

    #[test]
    fn own_memory_can_be_written_and_alignment_is_that_of_every_piece() {
        let own = Segments::from(vec![1, 2, 3]);
        assert_eq!(own.copy_from(1, &[5, 6, 7]), 2);
        let mut bytes = [0; 3];
        own.copy_to(0, &mut bytes);
        assert_eq!(bytes, [1, 5, 6]);
        assert!(own.is_aligned(1) && !own.is_aligned(2));
        assert!(Segments::from(Vec::new()).iovecs().is_empty());
    }

    #[test]
    fn own_memory_may_be_in_pieces_in_any_order() {
        let own = Segments::of_ranges(vec![1, 2, 3, 4], &[3..9, 0..2, 2..2, 7..8]);
        let mut bytes = [0; 4];
        assert_eq!((own.copy_to(0, &mut bytes), bytes), (3, [4, 1, 2, 0]));
        assert_eq!(own.iovecs().len(), 2);
    }
}
