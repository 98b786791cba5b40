// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Latencies in buckets of about three percent, so that counting one costs next to nothing.

use std::time::Duration;

/// Buckets per power of two.
const STEPS: u64 = 32;
/// Powers of two, of nanoseconds; the last bucket takes whatever is longer.
const POWERS: u64 = 40;

/// How many requests took how long.
pub(crate) struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; (STEPS * POWERS) as usize])
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0[bucket(nanos)] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// The latency in nanoseconds that `share` (0 to 1) of the requests did not exceed; 0 without requests.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among far fewer than 2^52 requests"
    )]
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let total: u64 = self.0.iter().sum();
        let rank = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= rank && seen > 0
        });
        found.map_or(0, upper)
    }
}

/// Below `STEPS` a bucket per nanosecond; above, `STEPS` buckets per power of two.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(1);
    let power = u64::from(nanos.ilog2());
    let shift = power.saturating_sub(u64::from(STEPS.ilog2()));
    let at = shift * STEPS + (nanos >> shift);
    (at.min(STEPS * POWERS - 1)) as usize
}

/// The greatest number of nanoseconds in a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    let mantissa = bucket - shift * STEPS;
    ((mantissa + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::{Histogram, bucket, upper};
    use std::time::Duration;

    #[test]
    fn buckets_are_in_order_and_hold_what_they_say() {
        for nanos in (1..5000).chain([1 << 20, (1 << 20) + 1, 123_456_789]) {
            let at = bucket(nanos);
            assert!(
                nanos <= upper(at) && (at == 0 || nanos > upper(at - 1)),
                "{nanos}"
            );
            assert!(upper(at) <= nanos + nanos / 30 + 1, "{nanos}");
        }
        assert_eq!(bucket(u64::MAX), 32 * 40 - 1);
    }

    #[test]
    fn quantiles_of_a_hundred() {
        let mut all = Histogram::default();
        assert_eq!(all.quantile(0.5), 0);
        let mut half = Histogram::default();
        for nanos in 1..=100 {
            let into = if nanos % 2 == 0 { &mut all } else { &mut half };
            into.add(Duration::from_nanos(nanos));
        }
        all.merge(&half);
        let (p50, p99) = (all.quantile(0.5), all.quantile(0.99));
        assert!(
            (50..=51).contains(&p50) && (99..=101).contains(&p99),
            "{p50} {p99}"
        );
    }
}
