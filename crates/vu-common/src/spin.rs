// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a thread looks for work before it sleeps: a window that opens where looking pays, and only there.
//!
//! What counts is the gap between the end of some work and the next. A gap within the window is a hit, and
//! the window doubles; where the next work came so late that no window could have caught it, it halves, and
//! soon there is none. Windows that run out in a row close it for a while. So does anybody else who wants this
//! CPU, as the involuntary context switches tell, since looking takes from whom we may be waiting for; and
//! the longer, the longer that lasts.

// UNSAFETY: rustix does not wrap getrusage(2).
#![allow(unsafe_code, reason = "getrusage(2)")]

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// The shortest window that is worth it: about what going to sleep and waking up cost.
const MIN: Duration = Duration::from_micros(4);
/// Windows that may run out in a row.
const MISSES: u32 = 8;
/// Gaps without a window after that, and after an involuntary context switch, when that comes for the first
/// time; and the most, after it has doubled again and again.
const MISS_PAUSE: u32 = 64;
const SWITCH_PAUSE: u32 = 16;
const LONG_PAUSE: u32 = 512;
/// Time spent looking after which the context switches are counted.
const AUDIT: Duration = Duration::from_millis(1);

/// The window of one thread.
pub(crate) struct Spin {
    max: Duration,
    window: Duration,
    /// The end of the last work, until there is more.
    since: Option<Instant>,
    misses: u32,
    /// Gaps to let pass without a window.
    pause: u32,
    /// The next pause for windows that ran out; short again after a hit.
    miss_pause: u32,
    /// The next pause for a context switch; short again after a time without.
    switch_pause: u32,
    /// Time spent looking since the last audit.
    spent: Duration,
    switches: i64,
}

impl Spin {
    /// A window of at most `max`, of the calling thread. Zero for none ever.
    pub(crate) fn new(max: Duration) -> Self {
        Self {
            max,
            window: Duration::ZERO,
            since: None,
            misses: 0,
            pause: 0,
            miss_pause: MISS_PAUSE,
            switch_pause: SWITCH_PAUSE,
            spent: Duration::ZERO,
            switches: involuntary_switches(),
        }
    }

    /// Whether there may ever be a window.
    pub(crate) fn is_on(&self) -> bool {
        !self.max.is_zero()
    }

    /// Whether the thread would look for work if its work ended now.
    pub(crate) fn would_look(&self) -> bool {
        !self.window.is_zero()
    }

    /// Whether all work has ended and no more has come.
    pub(crate) fn is_resting(&self) -> bool {
        self.since.is_some()
    }

    /// The work has ended.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Whether to look for work at `now`.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        let looks = |since| self.would_look() && now.saturating_duration_since(since) < self.window;
        self.since.is_some_and(looks)
    }

    /// More work has come at `now`.
    pub(crate) fn resume(&mut self, now: Instant) {
        let Some(since) = self.since.take() else { return };
        let gap = now.saturating_duration_since(since);
        self.spent = self.spent.saturating_add(gap.min(self.window));
        if self.spent >= AUDIT && self.is_disturbed() {
            let pause = self.switch_pause;
            self.switch_pause = longer(pause);
            return self.close(pause);
        }
        self.adapt(gap);
    }

    /// Whether the thread had to give way to another one since this was last asked.
    fn is_disturbed(&mut self) -> bool {
        self.spent = Duration::ZERO;
        let switches = involuntary_switches();
        let disturbed = std::mem::replace(&mut self.switches, switches) != switches;
        if !disturbed {
            self.switch_pause = SWITCH_PAUSE;
        }
        disturbed
    }

    fn adapt(&mut self, gap: Duration) {
        let doubled = self.window.saturating_mul(2).clamp(MIN.min(self.max), self.max);
        if self.would_look() && gap <= self.window {
            self.window = doubled;
            (self.misses, self.miss_pause) = (0, MISS_PAUSE);
            return;
        }
        if self.pause > 0 {
            self.pause = self.pause.saturating_sub(1);
            return;
        }
        if self.would_look() {
            self.misses = self.misses.saturating_add(1);
            if self.misses >= MISSES {
                let pause = self.miss_pause;
                self.miss_pause = longer(pause);
                return self.close(pause);
            }
        }
        // A gap that ended a sleep is longer than it would have been without, by the wake-up.
        if gap <= self.max.saturating_mul(2) {
            self.window = doubled;
        } else {
            let half = self.window.checked_div(2).unwrap_or_default();
            self.window = if half < MIN { Duration::ZERO } else { half };
        }
    }

    /// No window for the next `pause` gaps.
    fn close(&mut self, pause: u32) {
        self.window = Duration::ZERO;
        self.misses = 0;
        self.pause = pause;
    }
}

fn longer(pause: u32) -> u32 {
    pause.saturating_mul(2).min(LONG_PAUSE)
}

/// How often this thread had to give way to another one.
fn involuntary_switches() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for one `rusage`, which the call fills in or leaves zeroed.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nivcsw
}

#[cfg(test)]
mod tests {
    use super::{AUDIT, LONG_PAUSE, MIN, MISS_PAUSE, MISSES, SWITCH_PAUSE, Spin};
    use std::time::{Duration, Instant};

    const MAX: Duration = Duration::from_micros(50);

    /// Lets work come after `gap`, `times` times; returns the windows. The machine's other load stays out.
    fn gaps(spin: &mut Spin, gap: Duration, times: u32) -> Vec<Duration> {
        let start = Instant::now();
        let gap = |_| {
            spin.rest(start);
            spin.spent = Duration::ZERO;
            spin.resume(start + gap);
            spin.window
        };
        (0..times).map(gap).collect()
    }

    #[test]
    fn without_a_bound_there_is_never_a_window() {
        let mut spin = Spin::new(Duration::ZERO);
        assert!(!spin.is_on());
        let windows = gaps(&mut spin, Duration::ZERO, 100);
        assert!(windows.iter().all(Duration::is_zero));
    }

    #[test]
    fn short_gaps_open_it_and_long_ones_close_it() {
        let mut spin = Spin::new(MAX);
        let micros = |windows: Vec<Duration>| windows.iter().map(Duration::as_micros).collect::<Vec<_>>();
        let windows = gaps(&mut spin, Duration::from_micros(3), 6);
        assert_eq!(micros(windows), [4, 8, 16, 32, 50, 50]);
        let windows = gaps(&mut spin, Duration::from_millis(1), 6);
        assert_eq!(micros(windows), [25, 12, 6, 0, 0, 0]);
        // After a sleep the gap is longer than the window that it deserves.
        let windows = gaps(&mut spin, MAX * 2, 2);
        assert_eq!(micros(windows), [4, 8]);
    }

    #[test]
    fn windows_that_run_out_in_a_row_cost_less_and_less() {
        let mut spin = Spin::new(MAX);
        let windows = gaps(&mut spin, MAX * 3 / 2, 40_000);
        let looked = |windows: &[Duration]| windows.iter().filter(|w| !w.is_zero()).count();
        assert_eq!(
            looked(&windows[..(MISSES + MISS_PAUSE) as usize]),
            MISSES as usize
        );
        assert!(looked(&windows[20_000..]) < 20_000 * (MISSES as usize + 1) / LONG_PAUSE as usize);
        assert!(windows.iter().all(|w| w.is_zero() || (MIN..=MAX).contains(w)));
        // One hit, and the next pause is short again.
        while !spin.would_look() {
            gaps(&mut spin, MAX * 3 / 2, 1);
        }
        gaps(&mut spin, Duration::ZERO, 1);
        assert_eq!(spin.miss_pause, MISS_PAUSE);
    }

    #[test]
    fn it_is_open_from_the_end_of_the_work_until_it_runs_out_or_more_work_comes() {
        let mut spin = Spin::new(MAX);
        gaps(&mut spin, Duration::ZERO, 10);
        let now = Instant::now();
        assert!(!spin.is_open(now));
        spin.rest(now);
        assert!(spin.is_open(now + MAX / 2) && !spin.is_open(now + MAX));
        spin.resume(now);
        assert!(!spin.is_open(now));
    }

    #[test]
    fn whoever_else_wants_the_cpu_closes_it_for_longer_and_longer() {
        let mut spin = Spin::new(MAX);
        for pause in [SWITCH_PAUSE, 2 * SWITCH_PAUSE, 4 * SWITCH_PAUSE] {
            gaps(&mut spin, Duration::ZERO, 1000);
            assert!(spin.would_look());
            // As if there had been one since.
            spin.switches -= 1;
            spin.spent = AUDIT;
            spin.rest(Instant::now());
            spin.resume(Instant::now());
            assert!(!spin.would_look());
            assert_eq!(spin.pause, pause);
        }
        while spin.is_disturbed() {}
        assert_eq!(spin.switch_pause, SWITCH_PAUSE);
    }
}
