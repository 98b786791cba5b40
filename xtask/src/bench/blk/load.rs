// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is asked of a disk, and how much better than the peer we mean to be.

use super::disk::Kind;

/// A closed loop of equal requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) write: bool,
    pub(super) sequential: bool,
    /// Bytes per request.
    pub(super) size: usize,
    /// Requests in flight in each queue.
    pub(super) depth: usize,
}

impl Load {
    const fn random(write: bool, depth: usize) -> Self {
        Self {
            write,
            sequential: false,
            size: 4 << 10,
            depth,
        }
    }

    const fn sequential(write: bool) -> Self {
        Self {
            write,
            sequential: true,
            size: 1 << 20,
            depth: 4,
        }
    }

    /// In words without blanks inside, for `--only`.
    pub(super) fn title(&self) -> String {
        let size = if self.size < 1 << 20 {
            format!("{}k", self.size >> 10)
        } else {
            format!("{}M", self.size >> 20)
        };
        let order = if self.sequential { "seq" } else { "rand" };
        let direction = if self.write { "write" } else { "read" };
        format!("{size} {order}{direction} depth={}", self.depth)
    }
}

/// Every load of the full run.
pub(super) fn all() -> Vec<Load> {
    let random = |write| [1, 32, 128].map(|depth| Load::random(write, depth));
    let mut loads = [random(false), random(true)].concat();
    loads.extend([Load::sequential(false), Load::sequential(true)]);
    loads
}

/// Those of the quick run.
pub(super) fn quick() -> Vec<Load> {
    vec![
        Load::random(false, 1),
        Load::random(false, 32),
        Load::random(true, 32),
    ]
}

/// The advantage to reach; `None` where a row is only watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Goal {
    pub(super) rate: Option<f64>,
    pub(super) cpu: Option<f64>,
}

/// Requests of 1 MiB have none: copying the data is all that they cost.
pub(super) fn goal(kind: Kind, load: &Load) -> Goal {
    let (rate, cpu) = match (kind, load.depth) {
        _ if load.sequential => (None, None),
        (Kind::Direct, _) => (Some(1.4), None),
        (_, 1) => (Some(1.8), None),
        (Kind::Null, _) => (Some(4.0), None),
        (Kind::Tmpfs | Kind::Cached, 32) => (Some(3.5), Some(1.0 / 0.35)),
        _ => (None, None),
    };
    Goal { rate, cpu }
}

#[cfg(test)]
mod tests {
    use super::{Load, all, goal, quick};
    use crate::bench::blk::disk::Kind;

    #[test]
    fn the_quick_loads_are_among_all() {
        let all = all();
        assert_eq!(all.len(), 8);
        assert!(quick().iter().all(|load| all.contains(load)));
    }

    #[test]
    fn titles_are_for_people() {
        assert_eq!(Load::random(true, 32).title(), "4k randwrite depth=32");
        assert_eq!(Load::sequential(false).title(), "1M seqread depth=4");
    }

    #[test]
    fn copying_has_no_goal_and_one_at_a_time_has_the_same_everywhere_but_on_a_real_disk() {
        assert_eq!(goal(Kind::Null, &Load::sequential(true)).rate, None);
        assert_eq!(goal(Kind::Zram, &Load::random(false, 1)).rate, Some(1.8));
        assert_eq!(goal(Kind::Direct, &Load::random(false, 1)).rate, Some(1.4));
        assert_eq!(
            goal(Kind::Cached, &Load::random(true, 32))
                .cpu
                .map(|cpu| cpu > 2.85),
            Some(true)
        );
    }
}
