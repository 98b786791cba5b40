// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Vectored calls on a socket straight out of and into [`Segments`].
//!
//! UNSAFETY: hands pointers to guest memory to `sendmsg` and `readv`.
#![allow(
    unsafe_code,
    reason = "system calls that take raw pointers; see the module's text"
)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use vu_common::Segments;

/// Most pieces that one call takes (`IOV_MAX`).
const MAX_PIECES: usize = 1024;

/// Room for the pieces of one call, kept to save the allocation. Empty between calls.
#[derive(Default)]
pub(super) struct Scratch(Vec<libc::iovec>);

// SAFETY: the pointers in it are used only within the call that put them there.
unsafe impl Send for Scratch {}

impl Scratch {
    fn clear(&mut self) {
        self.0.clear();
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MAX_PIECES
    }

    fn push(&mut self, base: *const u8, len: usize) {
        if len > 0 && !self.is_full() {
            self.0.push(libc::iovec {
                iov_base: base.cast_mut().cast(),
                iov_len: len,
            });
        }
    }

    fn push_segments(&mut self, data: &Segments, range: Range<usize>) {
        let (mut skip, mut left) = (range.start, range.end.saturating_sub(range.start));
        for piece in data.iovecs() {
            if left == 0 || self.is_full() {
                return;
            }
            let len = piece.iov_len.saturating_sub(skip).min(left);
            self.push(piece.iov_base.cast::<u8>().wrapping_add(skip), len);
            skip = skip.saturating_sub(piece.iov_len);
            left -= len;
        }
    }

    fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.iov_len).sum()
    }
}

/// Bytes to be sent.
pub(super) enum Out<'a> {
    /// Our own.
    Bytes(&'a [u8]),
    /// Those of `range`.
    Data(&'a Segments, Range<usize>),
}

/// Sends as much of `pieces`, without their first `skip` bytes, as one call takes; returns how many bytes that
/// were, and whether it was all that the call was given.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    scratch: &mut Scratch,
    mut skip: usize,
    pieces: impl Iterator<Item = Out<'a>>,
) -> io::Result<(usize, bool)> {
    scratch.clear();
    for piece in pieces {
        if scratch.is_full() {
            break;
        }
        let len = match &piece {
            Out::Bytes(bytes) => bytes.len(),
            Out::Data(_, range) => range.len(),
        };
        let from = skip.min(len);
        skip -= from;
        match piece {
            Out::Bytes(bytes) => scratch.push(bytes[from..].as_ptr(), len - from),
            Out::Data(data, range) => scratch.push_segments(data, range.start + from..range.end),
        }
    }
    let message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: scratch.0.as_mut_ptr(),
        msg_iovlen: scratch.0.len() as _,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    };
    // SAFETY: the pieces are borrowed by `pieces` for `'a`, which outlives the call; the call only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    let all = scratch.len();
    scratch.clear();
    let sent = usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())?;
    Ok((sent, sent == all))
}

/// Receives into `data`, then into `ahead`, as much as there is; returns how many bytes that were, and whether
/// it was all that the call had room for. 0 bytes is the end of the stream.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    scratch: &mut Scratch,
    data: Option<(&Segments, Range<usize>)>,
    ahead: &mut [u8],
) -> io::Result<(usize, bool)> {
    scratch.clear();
    let mut complete = true;
    if let Some((data, range)) = data {
        let len = range.len();
        scratch.push_segments(data, range);
        complete = scratch.len() == len;
    }
    // Only what follows all of the data belongs there.
    if complete {
        scratch.push(ahead.as_mut_ptr(), ahead.len());
    }
    let (pieces, count) = (scratch.0.as_ptr(), scratch.0.len() as libc::c_int);
    // SAFETY: the pieces are those of `data`, guest memory that is reached by raw pointers only and lives as long
    // as `data`, and `ahead`, which is borrowed for writing; both outlive the call.
    let got = unsafe { libc::readv(socket.as_raw_fd(), pieces, count) };
    let room = scratch.len();
    scratch.clear();
    let got = usize::try_from(got).map_err(|_negative| io::Error::last_os_error())?;
    Ok((got, got == room))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use vu_common::Segments;

    use super::{Out, Scratch, receive, send};

    #[test]
    fn any_part_is_sent_and_received_in_order() {
        let bytes: Vec<u8> = (0..64).collect();
        let scattered = || Segments::of_ranges(bytes.clone(), &[0..3, 10..11, 20..26]);
        let want = [0, 1, 2, 10, 20, 21, 22, 23, 24, 25];
        let mut scratch = Scratch::default();
        for skip in 0..=14 {
            let (a, b) = UnixStream::pair().unwrap();
            let data = scattered();
            let pieces = [Out::Bytes(b"ab"), Out::Data(&data, 1..9), Out::Bytes(b"cdef")];
            let got = send(a.as_fd(), &mut scratch, skip, pieces.into_iter());
            let all = [b"ab", &want[1..9], b"cdef"].concat();
            assert_eq!(got.unwrap(), (14 - skip, true), "{skip}");
            if skip == 14 {
                continue;
            }
            let into = Segments::of_ranges(vec![9; 64], &[5..6, 9..12, 30..40]);
            let mut ahead = [9; 14];
            let data = 2..2 + (14 - skip) / 2;
            let got = receive(b.as_fd(), &mut scratch, Some((&into, data.clone())), &mut ahead);
            assert_eq!(got.unwrap(), (14 - skip, false), "{skip}");
            let mut landed = vec![0; 14];
            into.copy_to(0, &mut landed);
            let (straight, rest) = all[skip..].split_at(data.len());
            assert_eq!(landed[data.clone()], *straight);
            assert!(
                landed[..2]
                    .iter()
                    .chain(&landed[data.end..])
                    .all(|byte| *byte == 9)
            );
            assert_eq!(ahead[..rest.len()], *rest);
        }
    }

    #[test]
    fn more_pieces_than_a_call_takes_are_left_for_the_next() {
        let ranges: Vec<_> = (0..1500).map(|i| i * 2..i * 2 + 1).collect();
        let data = Segments::of_ranges((0..3000).map(|i| (i / 2) as u8).collect(), &ranges);
        let into = Segments::of_ranges(vec![0; 3000], &ranges);
        let (a, b) = UnixStream::pair().unwrap();
        let mut scratch = Scratch::default();
        let mut out = |skip| {
            send(
                a.as_fd(),
                &mut scratch,
                skip,
                [Out::Data(&data, 0..1500)].into_iter(),
            )
        };
        assert_eq!(out(0).unwrap(), (1024, true));
        assert_eq!(out(1024).unwrap(), (476, true));
        let mut ahead = [0; 8];
        let mut at = 0;
        while at < 1500 {
            let (got, _) = receive(b.as_fd(), &mut scratch, Some((&into, at..1500)), &mut ahead).unwrap();
            at += got;
        }
        let mut bytes = vec![0; 1500];
        into.copy_to(0, &mut bytes);
        assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        assert_eq!(ahead, [0; 8]);
    }
}
