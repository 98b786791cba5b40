// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What waits for the other side, bounded by the credit of its sender: bytes, and where messages end among them.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// The end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    /// How many bytes of the backlog are before it, counted from the end before.
    len: usize,
    eor: bool,
}

/// Bytes from the guest that the host has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: VecDeque<u8>,
    ends: VecDeque<End>,
    /// Bytes of a message that has no end yet.
    open: usize,
}

impl Backlog {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.ends.is_empty()
    }

    /// Adds bytes to the message that is open.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.open = self.open.saturating_add(bytes.len());
    }

    /// A message ends here.
    pub(crate) fn end_message(&mut self, eor: bool) {
        let len = std::mem::take(&mut self.open);
        self.ends.push_back(End { len, eor });
    }

    /// Forgets the message that is open.
    pub(crate) fn forget_open(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.bytes.truncate(self.bytes.len().saturating_sub(open));
    }

    /// Messages that wait, each of which takes memory even when it has no bytes.
    pub(crate) fn messages(&self) -> usize {
        self.ends.len()
    }

    /// Gives bytes to `write` while it takes all of them; how many it took.
    ///
    /// # Errors
    /// What `write` says, unless it has taken something before.
    pub(crate) fn drain(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut total = 0_usize;
        while !self.bytes.is_empty() {
            let (first, second) = self.bytes.as_slices();
            let offered = self.bytes.len();
            match write(&[IoSlice::new(first), IoSlice::new(second)]) {
                Ok(taken) => {
                    self.bytes.drain(..taken.min(offered));
                    total = total.saturating_add(taken);
                    if taken < offered {
                        break;
                    }
                }
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            }
        }
        self.open = self.bytes.len();
        self.shrink();
        Ok(total)
    }

    /// Gives whole messages to `write`, with whether each ends a record; how many bytes it took.
    ///
    /// # Errors
    /// What `write` says, unless it has taken something before.
    pub(crate) fn drain_messages(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>], bool) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut total = 0_usize;
        while let Some(&End { len, eor }) = self.ends.front() {
            let (first, second) = self.bytes.as_slices();
            let head = first.get(..len.min(first.len())).unwrap_or_default();
            let tail = second.get(..len.saturating_sub(head.len())).unwrap_or_default();
            match write(&[IoSlice::new(head), IoSlice::new(tail)], eor) {
                Ok(_) => {
                    self.ends.pop_front();
                    self.bytes.drain(..len.min(self.bytes.len()));
                    total = total.saturating_add(len);
                }
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            }
        }
        self.shrink();
        Ok(total)
    }

    /// Forgets everything; how many bytes that were.
    pub(crate) fn clear(&mut self) -> usize {
        let len = self.bytes.len();
        *self = Self::default();
        len
    }

    /// A connection that is idle holds no memory.
    fn shrink(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = VecDeque::new();
        }
        if self.ends.is_empty() {
            self.ends = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};

    use super::Backlog;

    fn join(parts: &[IoSlice<'_>]) -> Vec<u8> {
        parts.iter().flat_map(|part| part.iter().copied()).collect()
    }

    #[test]
    fn bytes_leave_in_order_as_far_as_they_are_taken() {
        let mut backlog = Backlog::default();
        backlog.push(b"abc");
        backlog.push(b"def");
        let mut seen = Vec::new();
        let taken = backlog.drain(|parts| {
            seen.extend(join(parts));
            seen.truncate(4);
            Ok(4)
        });
        assert_eq!((taken.unwrap(), &seen[..]), (4, &b"abcd"[..]));
        let refused = backlog.drain(|_| Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        backlog.push(b"g");
        let taken = backlog.drain(|parts| Ok(join(parts).len()));
        assert_eq!(taken.unwrap(), 3);
        assert!(backlog.is_empty());
    }

    #[test]
    fn a_message_leaves_whole_and_only_when_it_has_ended() {
        let mut backlog = Backlog::default();
        backlog.push(b"ab");
        let mut seen = Vec::new();
        let mut take = |parts: &[IoSlice<'_>], eor| {
            seen.push((join(parts), eor));
            Ok(0)
        };
        assert_eq!(backlog.drain_messages(&mut take).unwrap(), 0);
        backlog.push(b"c");
        backlog.end_message(false);
        backlog.end_message(true);
        backlog.push(b"x");
        backlog.forget_open();
        backlog.push(b"d");
        assert_eq!(backlog.drain_messages(&mut take).unwrap(), 3);
        backlog.end_message(false);
        assert_eq!(backlog.drain_messages(&mut take).unwrap(), 1);
        assert_eq!(
            seen,
            [
                (b"abc".to_vec(), false),
                (b"".to_vec(), true),
                (b"d".to_vec(), false)
            ]
        );
        assert!(backlog.is_empty());
    }

    #[test]
    fn an_error_after_some_messages_waits_for_the_next_try() {
        let mut backlog = Backlog::default();
        for byte in [b"a", b"b"] {
            backlog.push(byte);
            backlog.end_message(false);
        }
        let mut answers = vec![Err(io::ErrorKind::BrokenPipe), Ok(1)];
        let mut take = |_: &[IoSlice<'_>], _| answers.pop().unwrap().map_err(io::Error::from);
        assert_eq!(backlog.drain_messages(&mut take).unwrap(), 1);
        assert_eq!(backlog.messages(), 1);
        assert_eq!(backlog.clear(), 1);
    }
}
