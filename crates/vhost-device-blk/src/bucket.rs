// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Token buckets: how `--rate-iops`, `--rate-bps` and `--rate-burst` meter the requests of one disk.
//!
//! A bucket starts full. A request is let through while there is anything in it, and takes out all that it costs, so
//! one that costs more than the bucket holds leaves a debt for those after it instead of waiting for ever. In the
//! long run the rate holds exactly.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

/// What a guest may do with one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Most requests per second.
    pub iops: Option<NonZeroU64>,
    /// Most bytes of data per second.
    pub bps: Option<NonZeroU64>,
    /// For how long a disk that was idle may go as fast as it likes: what a bucket holds, in time.
    pub burst: Duration,
}

/// The buckets of one disk, shared by its threads without a lock.
#[derive(Debug)]
pub(crate) struct Limiter {
    born: Instant,
    burst: u64,
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Limiter {
    /// Full buckets; `None` if there is nothing to limit.
    pub(crate) fn new(rate: &Rate) -> Option<Self> {
        let any = rate.iops.is_some() || rate.bps.is_some();
        any.then(|| Self {
            born: Instant::now(),
            burst: nanos(rate.burst),
            requests: rate.iops.map(Bucket::new),
            bytes: rate.bps.map(Bucket::new),
        })
    }

    /// Lets a request with `bytes` of data through at `now`.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(crate) fn admit(&self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let now = nanos(now.saturating_duration_since(self.born));
        let costs = [(&self.requests, 1), (&self.bytes, bytes)];
        let each = || {
            costs
                .iter()
                .filter_map(|(bucket, cost)| Some((bucket.as_ref()?, *cost)))
        };
        // Threads that ask at the same moment may all pass: what they take is a debt like any other.
        let wait = each()
            .map(|(bucket, _)| bucket.wait(now, self.burst))
            .max()
            .unwrap_or(0);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        each().for_each(|(bucket, cost)| bucket.take(cost, now));
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One bucket. It measures what is missing in it by the time that refills it.
#[derive(Debug)]
struct Bucket {
    per_second: NonZeroU64,
    /// When it will be (or became) full, in nanoseconds since the limiter was made.
    full_at: AtomicU64,
}

impl Bucket {
    fn new(per_second: NonZeroU64) -> Self {
        Self {
            per_second,
            full_at: AtomicU64::new(0),
        }
    }

    /// Nanoseconds until there is something in it.
    fn wait(&self, now: u64, burst: u64) -> u64 {
        let full_at = self.full_at.load(Ordering::Relaxed);
        full_at.saturating_sub(now).saturating_sub(burst)
    }

    fn take(&self, amount: u64, now: u64) {
        let refill = (u128::from(amount) * SECOND).div_ceil(self.per_second.get().into());
        let refill = u64::try_from(refill).unwrap_or(u64::MAX);
        let later = |full_at: u64| Some(full_at.max(now).saturating_add(refill));
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limiter(iops: u64, bps: u64, burst: Duration) -> Limiter {
        Limiter::new(&Rate {
            iops: NonZeroU64::new(iops),
            bps: NonZeroU64::new(bps),
            burst,
        })
        .unwrap()
    }

    /// How many milliseconds `count` requests of `bytes` take, asked for as soon as the limiter says.
    fn milliseconds(limiter: &Limiter, count: u32, bytes: u64) -> u128 {
        let mut now = limiter.born;
        for _ in 0..count {
            while let Err(wait) = limiter.admit(bytes, now) {
                now += wait;
            }
        }
        now.duration_since(limiter.born).as_millis()
    }

    #[test]
    fn without_a_rate_there_is_no_limiter() {
        let rate = Rate {
            iops: None,
            bps: None,
            burst: MS,
        };
        assert!(Limiter::new(&rate).is_none());
    }

    #[test]
    fn the_rate_holds_after_the_burst() {
        // 100 per second and 50 ms: a bucket of five, and one on credit.
        assert_eq!(milliseconds(&limiter(100, 0, 50 * MS), 6, 0), 0);
        assert_eq!(milliseconds(&limiter(100, 0, 50 * MS), 106, 0), 1000);
        assert_eq!(milliseconds(&limiter(0, 1000, Duration::ZERO), 11, 100), 1000);
    }

    #[test]
    fn both_rates_hold() {
        assert_eq!(
            milliseconds(&limiter(100, 100_000, Duration::ZERO), 101, 10),
            1000
        );
        assert_eq!(
            milliseconds(&limiter(100, 1000, Duration::ZERO), 101, 100),
            10_000
        );
    }

    #[test]
    fn a_request_larger_than_the_bucket_goes_on_credit() {
        let limiter = limiter(0, 1000, 10 * MS);
        assert_eq!(limiter.admit(5000, limiter.born), Ok(()));
        assert_eq!(limiter.admit(1, limiter.born), Err(4990 * MS));
        assert_eq!(limiter.admit(1, limiter.born + 4990 * MS), Ok(()));
    }

    #[test]
    fn waiting_costs_nothing_and_idleness_saves_no_more_than_the_burst() {
        let limiter = limiter(10, 0, 100 * MS);
        let later = limiter.born + 1_000_000 * MS;
        assert_eq!(limiter.admit(0, later), Ok(()));
        assert_eq!(limiter.admit(0, later), Ok(()));
        for _ in 0..3 {
            assert_eq!(limiter.admit(0, later), Err(100 * MS));
        }
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        for per_second in [1, u64::MAX] {
            let limiter = limiter(per_second, per_second, Duration::MAX);
            for _ in 0..3 {
                assert_eq!(limiter.admit(u64::MAX, limiter.born), Ok(()));
            }
        }
    }
}
