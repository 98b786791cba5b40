// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How often to read from a process of the host that writes little at a time: not at each of its writes.
//!
//! Each write that wakes us is a packet and an interrupt for the guest, and the writer pays for the waking. So once some
//! small reads have followed each other closely, without a word of the guest in between, the socket rests: nobody is
//! woken, and what comes in a moment is read in one go. The first time that nothing came, the rest ends.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::time::{Duration, Instant};

/// How long a socket rests. A Unix socket keeps some hundred small writes meanwhile, and its writer does not stop.
pub(crate) const REST: Duration = Duration::from_micros(60);
/// Bytes that are few: half of what a buffer of Linux's driver holds.
const FEW: usize = 2048;
/// Bytes that are so many that a rest was too long.
const MANY: usize = 16 << 10;
/// From one read to the next, when they follow each other closely.
const CLOSE: Duration = Duration::from_micros(50);
/// Reads of few bytes that make a socket rest.
const READS: u32 = 8;

/// The pace of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes since the last read that got fewer than it asked for.
    bytes: usize,
    /// When that was.
    last: Option<Instant>,
    /// Such reads in a row with few bytes.
    reads: u32,
    /// The socket rests, or has rested until now.
    rests: bool,
}

impl Pace {
    /// So many bytes were read, and there may be more.
    pub(crate) fn read(&mut self, len: usize) {
        self.bytes = self.bytes.saturating_add(len);
    }

    /// The guest has said something: the host may be waiting for it, or it for the host.
    pub(crate) fn interrupt(&mut self) {
        self.reads = 0;
    }

    /// No more was to be read at `now`; whether the socket is to rest.
    pub(crate) fn paused(&mut self, now: Instant) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        let since = self
            .last
            .replace(now)
            .map(|last| now.saturating_duration_since(last));
        let follows = self.rests || since.is_some_and(|since| since < CLOSE);
        let few = 1..if self.rests { MANY } else { FEW };
        self.reads = if follows && few.contains(&bytes) {
            self.reads.saturating_add(1)
        } else {
            0
        };
        self.rests = self.reads >= READS;
        self.rests
    }

    /// Whether the socket rests, or has rested until now.
    pub(crate) fn rests(&self) -> bool {
        self.rests
    }
}

#[cfg(test)]
mod tests {
    use super::{CLOSE, FEW, MANY, Pace, READS, REST};
    use std::time::{Duration, Instant};

    /// Reads of these sizes, `gap` apart; whether the socket rests after each.
    fn reads(pace: &mut Pace, now: &mut Instant, gap: Duration, sizes: &[usize]) -> Vec<bool> {
        let read = |size: &usize| {
            *now += gap;
            pace.read(*size);
            pace.paused(*now)
        };
        sizes.iter().map(read).collect()
    }

    /// A pace at which the socket rests.
    fn resting() -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let rests = reads(&mut pace, &mut now, CLOSE / 2, &[64; READS as usize + 1]);
        assert_eq!(rests.iter().position(|rests| *rests), Some(READS as usize));
        (pace, now)
    }

    #[test]
    fn small_reads_in_a_row_make_it_rest_until_nothing_comes() {
        let (mut pace, mut now) = resting();
        assert_eq!(
            reads(&mut pace, &mut now, 2 * REST, &[4000, 64, 0]),
            [true, true, false]
        );
        assert_eq!(reads(&mut pace, &mut now, CLOSE / 2, &[64, 64]), [false, false]);
    }

    #[test]
    fn many_bytes_end_the_rest() {
        let (mut pace, mut now) = resting();
        pace.read(MANY / 2);
        assert_eq!(
            reads(&mut pace, &mut now, REST, &[MANY / 2]),
            [false],
            "both reads count"
        );
    }

    #[test]
    fn a_word_of_the_guest_ends_it() {
        let (mut pace, mut now) = resting();
        pace.interrupt();
        assert_eq!(reads(&mut pace, &mut now, REST, &[64]), [false]);
    }

    #[test]
    fn questions_and_answers_large_reads_and_slow_ones_never_rest() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..100 {
            pace.interrupt();
            assert_eq!(reads(&mut pace, &mut now, Duration::ZERO, &[64]), [false]);
        }
        assert!(!reads(&mut pace, &mut now, Duration::ZERO, &[FEW; 100]).contains(&true));
        assert!(!reads(&mut pace, &mut now, CLOSE, &[64; 100]).contains(&true));
    }
}
