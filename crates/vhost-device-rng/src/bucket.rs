// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A token bucket: how `--max-bytes` and `--period` meter what one guest gets.
//!
//! The bucket starts full with [`Limit::bytes`] and refills evenly, all of it in one
//! [`Limit::period`]. Within any one period a guest so gets at most twice [`Limit::bytes`] (a full bucket
//! and one refill), and in the long run [`Limit::bytes`] per period.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// At most so many bytes per period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What the bucket holds.
    pub bytes: NonZeroUsize,
    /// In which time the bucket fills, at most 2^32 ms.
    pub period: Duration,
}

/// What one guest may still take. It measures bytes in the time that refills them.
#[derive(Debug)]
pub(crate) struct Bucket {
    limit: Limit,
    born: Instant,
    /// When the bucket will be (or became) full, in nanoseconds after `born`.
    ///
    /// An atomic because the bucket belongs to the device, which outlives its workers: a guest does
    /// not get a full bucket by a reset. There is one worker at a time, so load and store suffice.
    full_at: AtomicU64,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(limit: Limit) -> Self {
        Self {
            limit,
            born: Instant::now(),
            full_at: 0.into(),
        }
    }

    /// How many bytes a request for `wanted` bytes may get now: all of them, or a bucketful if that is less.
    ///
    /// There is nothing in between, so that a starved guest gets no trickle of single bytes.
    ///
    /// # Errors
    /// How long to wait until the bucket holds that many.
    pub(crate) fn allowance(&self, wanted: usize, now: Instant) -> Result<usize, Duration> {
        let allowed = wanted.min(self.limit.bytes.get());
        let overdraft = self.full_in(allowed, now).saturating_sub(self.limit.period);
        if overdraft.is_zero() {
            Ok(allowed)
        } else {
            Err(overdraft)
        }
    }

    /// Takes `bytes` out, at most what [`Self::allowance`] allowed.
    pub(crate) fn spend(&self, bytes: usize, now: Instant) {
        let full_at = now.duration_since(self.born) + self.full_in(bytes, now);
        self.full_at.store(full_at.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The time until the bucket is full, were `bytes` taken out now.
    fn full_in(&self, bytes: usize, now: Instant) -> Duration {
        let Limit {
            bytes: bucketful,
            period,
        } = self.limit;
        let refill = (period.as_nanos() * bytes as u128).div_ceil(bucketful.get() as u128);
        let full_at = Duration::from_nanos(self.full_at.load(Ordering::Relaxed));
        full_at.saturating_sub(now.duration_since(self.born)) + Duration::from_nanos(refill as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// 100 bytes in 1000 ms: one byte in 10 ms.
    fn bucket() -> (Bucket, Instant) {
        let bytes = NonZeroUsize::new(100).unwrap();
        let bucket = Bucket::new(Limit {
            bytes,
            period: 1000 * MS,
        });
        let born = bucket.born;
        (bucket, born)
    }

    #[test]
    fn a_new_bucket_is_full() {
        let (bucket, born) = bucket();
        assert_eq!(bucket.allowance(100, born), Ok(100));
    }

    #[test]
    fn a_request_for_more_than_a_bucketful_gets_a_bucketful() {
        let (bucket, born) = bucket();
        assert_eq!(bucket.allowance(65536, born), Ok(100));
    }

    #[test]
    fn the_wait_is_exactly_as_long_as_the_missing_bytes_take() {
        let (bucket, born) = bucket();
        bucket.spend(100, born);
        assert_eq!(bucket.allowance(30, born), Err(300 * MS));
        assert_eq!(bucket.allowance(30, born + 100 * MS), Err(200 * MS));
        assert_eq!(
            bucket.allowance(30, born + 300 * MS - Duration::from_nanos(1)),
            Err(Duration::from_nanos(1))
        );
        assert_eq!(bucket.allowance(30, born + 300 * MS), Ok(30));
    }

    #[test]
    fn a_big_request_waits_for_a_full_bucket() {
        let (bucket, born) = bucket();
        bucket.spend(1, born);
        assert_eq!(bucket.allowance(1000, born), Err(10 * MS));
        assert_eq!(bucket.allowance(1000, born + 10 * MS), Ok(100));
    }

    #[test]
    fn asking_takes_nothing() {
        let (bucket, born) = bucket();
        bucket.spend(50, born);
        for _ in 0..3 {
            assert_eq!(bucket.allowance(50, born), Ok(50));
        }
    }

    #[test]
    fn no_more_than_a_bucketful_is_saved_up() {
        let (bucket, born) = bucket();
        let later = born + 1_000_000 * MS;
        bucket.spend(100, later);
        assert_eq!(bucket.allowance(1, later), Err(10 * MS));
    }

    #[test]
    fn in_the_long_run_the_rate_holds() {
        let (bucket, born) = bucket();
        let (mut now, mut got) = (born, 0);
        while got < 1000 {
            match bucket.allowance(7, now) {
                Ok(bytes) => {
                    bucket.spend(bytes, now);
                    got += bytes as u32;
                }
                Err(wait) => now += wait,
            }
        }
        assert_eq!(now - born, 10 * MS * (got - 100));
    }

    #[test]
    fn the_largest_limit_does_not_overflow() {
        let period = Duration::from_millis(u32::MAX.into());
        for bytes in [NonZeroUsize::MIN, NonZeroUsize::MAX] {
            let bucket = Bucket::new(Limit { bytes, period });
            let now = bucket.born;
            bucket.spend(bucket.allowance(usize::MAX, now).unwrap(), now);
            assert_eq!(bucket.allowance(usize::MAX, now), Err(period));
        }
    }
}
