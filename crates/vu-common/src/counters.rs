// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a virtqueue has seen since the daemon started; for the log, the control socket and people.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chain::ChainFault;

/// Latencies are counted by powers of two of a microsecond; the last bucket takes all from four seconds on.
const BUCKETS: usize = 24;
/// So many requests are timed, and of those that follow one in so many, one at a time: a clock costs a fast device too much.
const TIMED_EACH: u64 = 1024;
const TIMED_ONE_IN: u64 = 16;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) requests: u64,
    /// Times that the driver woke the device.
    pub(crate) kicks: u64,
    pub(crate) interrupts: u64,
    /// Bytes of device-readable buffers.
    pub(crate) bytes_read: u64,
    /// Bytes written into device-writable buffers.
    pub(crate) bytes_written: u64,
    /// Malformed chains, by [`ChainFault::class`].
    faults: [u64; ChainFault::CLASSES.len()],
    latencies: [u64; BUCKETS],
    latency: Duration,
}

impl Counters {
    pub(crate) fn plus(self, other: Self) -> Self {
        let both = |ours: u64, theirs: u64| ours.wrapping_add(theirs);
        let mut sum = Self {
            requests: both(self.requests, other.requests),
            kicks: both(self.kicks, other.kicks),
            interrupts: both(self.interrupts, other.interrupts),
            bytes_read: both(self.bytes_read, other.bytes_read),
            bytes_written: both(self.bytes_written, other.bytes_written),
            latency: self.latency.saturating_add(other.latency),
            ..self
        };
        let arrays = [
            (&mut sum.faults[..], &other.faults[..]),
            (&mut sum.latencies[..], &other.latencies[..]),
        ];
        for (ours, theirs) in arrays {
            for (one, more) in ours.iter_mut().zip(theirs) {
                *one = both(*one, *more);
            }
        }
        sum
    }

    /// A request was popped. Whether it is to be timed.
    pub(crate) fn request(&mut self, readable: u32) -> bool {
        let timed = self.requests < TIMED_EACH || self.requests.is_multiple_of(TIMED_ONE_IN);
        self.requests = self.requests.wrapping_add(1);
        self.bytes_read = self.bytes_read.wrapping_add(readable.into());
        timed
    }

    /// A request was given back, and will be popped again.
    pub(crate) fn unrequest(&mut self, readable: u32) {
        self.requests = self.requests.wrapping_sub(1);
        self.bytes_read = self.bytes_read.wrapping_sub(readable.into());
    }

    /// A request that was timed took so long.
    pub(crate) fn took(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = micros.checked_ilog2().map_or(0, |log| log as usize + 1);
        if let Some(count) = self.latencies.get_mut(bucket.min(BUCKETS - 1)) {
            *count = count.wrapping_add(1);
        }
        self.latency = self.latency.saturating_add(latency);
    }

    /// A malformed chain was given back.
    pub(crate) fn fault(&mut self, fault: ChainFault) {
        if let Some(count) = self.faults.get_mut(fault.class()) {
            *count = count.wrapping_add(1);
        }
    }

    /// Malformed chains of all classes.
    pub(crate) fn bad_chains(&self) -> u64 {
        self.faults.iter().copied().fold(0, u64::wrapping_add)
    }

    /// As the control socket tells it. `latency` has pairs of an upper bound in microseconds, null in the last, and how many of the
    /// timed requests took less than that and no less than the bound before.
    pub(crate) fn to_json(self) -> Value {
        let faults = ChainFault::CLASSES.iter().zip(self.faults);
        let faults: serde_json::Map<_, _> = faults
            .filter(|(_, count)| *count > 0)
            .map(|(class, count)| ((*class).to_owned(), count.into()))
            .collect();
        let bound = |bucket: usize| (bucket < BUCKETS - 1).then(|| 1_u64 << bucket);
        let latencies = self.latencies.iter().enumerate();
        json!({
            "requests": self.requests,
            "kicks": self.kicks,
            "interrupts": self.interrupts,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "bad_chains": self.bad_chains(),
            "bad_chains_by_class": faults,
            "latency": latencies.map(|(bucket, count)| json!([bound(bucket), count])).collect::<Value>(),
            "latency_sum_us": u64::try_from(self.latency.as_micros()).unwrap_or(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{BUCKETS, Counters};
    use crate::chain::ChainFault;

    #[test]
    fn a_latency_falls_below_its_bound_and_not_below_the_one_before() {
        let mut counters = Counters::default();
        for micros in [0, 1, 2, 3, 4, 1 << 21, (1 << 22) - 1, 1 << 22, u64::MAX] {
            counters.took(Duration::from_micros(micros));
        }
        let told = counters.to_json();
        let buckets = told["latency"].as_array().unwrap();
        assert_eq!(buckets.len(), BUCKETS);
        assert_eq!(
            buckets[..4],
            [json!([1, 1]), json!([2, 1]), json!([4, 2]), json!([8, 1])]
        );
        assert_eq!(buckets[22..], [json!([1 << 22, 2]), json!([null, 2])]);
    }

    #[test]
    fn sums_leave_nothing_out() {
        let mut one = Counters::default();
        assert!(one.request(7));
        one.took(Duration::from_micros(9));
        one.fault(ChainFault::Loop);
        (one.kicks, one.interrupts, one.bytes_written) = (2, 3, 4);
        let two = one.plus(one);
        assert_eq!(
            (two.requests, two.kicks, two.interrupts, two.bad_chains()),
            (2, 4, 6, 2)
        );
        assert_eq!((two.bytes_read, two.bytes_written), (14, 8));
        let told = two.to_json();
        assert_eq!(
            (&told["latency"][4], &told["latency_sum_us"]),
            (&json!([16, 2]), &json!(18))
        );
        assert_eq!(told["bad_chains_by_class"], json!({"loop": 2}));
        one.unrequest(7);
        assert_eq!((one.requests, one.bytes_read), (0, 0));
    }

    #[test]
    fn of_many_requests_few_are_timed() {
        let mut counters = Counters::default();
        let timed = (0..2048).filter(|_| counters.request(1)).count();
        assert_eq!(timed, 1024 + 1024 / 16);
    }
}
