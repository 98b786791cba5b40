// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Map`]: where the clusters of the disk are, for all engines to read without a lock.
//!
//! It is a cache of bounded size: pages of consecutive clusters in fixed slots. Only the metadata thread writes.
//! What is not there has to be asked for. A changed cluster is changed here at once for all engines;
//! [`Gate`](super::gate::Gate) says when nobody uses what it was before.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Clusters of a page.
const PAGE: usize = 512;
/// Pages kept: 4 KiB each, so 32 MiB at most, which cover 256 GiB in clusters of 64 KiB.
const SLOTS: u64 = 8192;

/// A file that data is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Image = 0,
    Backing = 1,
}

/// Where a cluster is, or a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The metadata thread knows.
    Unknown,
    /// Reads as zeroes; to write, ask.
    Zero,
    /// At this byte of this file.
    At {
        source: Source,
        /// Multiple of 512.
        offset: u64,
        /// May be written in place.
        writable: bool,
    },
    /// The metadata thread has to read it (compressed, or in pieces that are no blocks); to write, ask.
    Slow,
}

const ZERO: u64 = 1;
const SLOW: u64 = 2;
const AT: u64 = 4;
const BACKING: u64 = 8;
const WRITABLE: u64 = 16;
const FLAGS: u64 = 511;

impl Place {
    /// Offsets are multiples of 512, so flags fit below.
    fn pack(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Zero => ZERO,
            Self::Slow => SLOW,
            Self::At {
                source,
                offset,
                writable,
            } => {
                let source = if source == Source::Backing { BACKING } else { 0 };
                (offset & !FLAGS) | AT | source | if writable { WRITABLE } else { 0 }
            }
        }
    }

    fn unpack(packed: u64) -> Self {
        if packed & AT != 0 {
            let source = if packed & BACKING == 0 {
                Source::Image
            } else {
                Source::Backing
            };
            return Self::At {
                source,
                offset: packed & !FLAGS,
                writable: packed & WRITABLE != 0,
            };
        }
        match packed {
            ZERO => Self::Zero,
            SLOW => Self::Slow,
            _ => Self::Unknown,
        }
    }

    /// The place that is `by` bytes further.
    fn plus(self, by: u64) -> Self {
        match self {
            Self::At {
                source,
                offset,
                writable,
            } => Self::At {
                source,
                offset: offset.wrapping_add(by),
                writable,
            },
            other => other,
        }
    }
}

struct Page {
    /// Odd while it is being filled.
    version: AtomicU64,
    /// Number of the page that is here, plus one.
    tag: AtomicU64,
    places: [AtomicU64; PAGE],
}

pub(super) struct Map {
    cluster_bits: u32,
    slots: Box<[OnceLock<Box<Page>>]>,
}

impl Map {
    /// For a disk of `size` bytes.
    pub(super) fn new(size: u64, cluster_bits: u32) -> Self {
        let pages = size.div_ceil((PAGE as u64) << cluster_bits).clamp(1, SLOTS);
        Self {
            cluster_bits,
            slots: (0..pages).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Where the bytes from `offset` on are, and how many of the next `len` follow each other there.
    pub(super) fn run(&self, offset: u64, len: u64) -> (Place, u64) {
        let cluster_size = 1 << self.cluster_bits;
        let cluster = offset >> self.cluster_bits;
        let within = offset & (cluster_size - 1);
        let first = self.cluster(cluster).plus(within);
        let mut run = cluster_size - within;
        if first != Place::Unknown {
            let mut next = cluster.wrapping_add(1);
            while run < len && self.cluster(next) == first.plus(run) {
                run = run.saturating_add(cluster_size);
                next = next.wrapping_add(1);
            }
        }
        (first, run.min(len))
    }

    /// Where a cluster is.
    fn cluster(&self, cluster: u64) -> Place {
        let (number, index) = split(cluster);
        let Some(page) = self.slot(number).and_then(OnceLock::get) else {
            return Place::Unknown;
        };
        let before = page.version.load(Ordering::Acquire);
        let tag = page.tag.load(Ordering::Acquire);
        let place = page
            .places
            .get(index)
            .map_or(0, |place| place.load(Ordering::Acquire));
        // The loads above are acquiring, so this one is not done before them.
        let after = page.version.load(Ordering::Relaxed);
        if before & 1 == 0 && before == after && tag == number.wrapping_add(1) {
            Place::unpack(place)
        } else {
            Place::Unknown
        }
    }

    /// The clusters of the page that `cluster` is in.
    pub(super) fn page_of(cluster: u64) -> std::ops::Range<u64> {
        let start = cluster & !(PAGE as u64 - 1);
        start..start.saturating_add(PAGE as u64)
    }

    /// Notes where a cluster is from now on, if its page is here. For the metadata thread only.
    pub(super) fn set(&self, cluster: u64, place: Place) {
        let (number, index) = split(cluster);
        if let Some(page) = self.slot(number).and_then(OnceLock::get)
            && page.tag.load(Ordering::Relaxed) == number.wrapping_add(1)
            && let Some(entry) = page.places.get(index)
        {
            entry.store(place.pack(), Ordering::Release);
        }
    }

    /// Replaces what is in its slot by the page that `cluster` is in. For the metadata thread only.
    pub(super) fn fill(&self, cluster: u64, places: &[Place]) {
        let (number, _) = split(cluster);
        let Some(slot) = self.slot(number) else { return };
        let page = slot.get_or_init(|| {
            Box::new(Page {
                version: AtomicU64::new(0),
                tag: AtomicU64::new(0),
                places: [const { AtomicU64::new(0) }; PAGE],
            })
        });
        let version = page.version.load(Ordering::Relaxed);
        page.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        page.tag.store(number.wrapping_add(1), Ordering::Relaxed);
        for (index, entry) in page.places.iter().enumerate() {
            let place = places.get(index).copied().unwrap_or(Place::Unknown);
            entry.store(place.pack(), Ordering::Relaxed);
        }
        page.version.store(version.wrapping_add(2), Ordering::Release);
    }

    fn slot(&self, number: u64) -> Option<&OnceLock<Box<Page>>> {
        let index = number.checked_rem(self.slots.len() as u64)?;
        self.slots.get(usize::try_from(index).unwrap_or(usize::MAX))
    }
}

/// Number of the page of a cluster, and index in it.
fn split(cluster: u64) -> (u64, usize) {
    let number = cluster / PAGE as u64;
    (number, usize::try_from(cluster % PAGE as u64).unwrap_or(PAGE))
}

#[cfg(test)]
mod tests {
    use super::{Map, PAGE, Place, SLOTS, Source};

    fn at(offset: u64) -> Place {
        Place::At {
            source: Source::Image,
            offset,
            writable: true,
        }
    }

    #[test]
    fn places_survive_packing() {
        let backing = Place::At {
            source: Source::Backing,
            offset: 1 << 55,
            writable: false,
        };
        for place in [Place::Unknown, Place::Zero, Place::Slow, at(512), at(0), backing] {
            assert_eq!(Place::unpack(place.pack()), place);
        }
    }

    #[test]
    fn runs_join_what_follows_each_other_and_stop_at_the_unknown() {
        let map = Map::new(1 << 30, 16);
        assert_eq!(map.run(5 << 16, 100), (Place::Unknown, 100));
        let places = [at(0x50000), at(0x60000), at(0x90000), Place::Zero, Place::Zero];
        map.fill(0, &places);
        assert_eq!(map.run(512, 1 << 20), (at(0x50200), 0x20000 - 512));
        assert_eq!(map.run(0x20000, 0x1000), (at(0x90000), 0x1000));
        assert_eq!(map.run(0x30000, 1 << 20), (Place::Zero, 0x20000));
        map.set(1, Place::Zero);
        assert_eq!(map.run(0, 1 << 20), (at(0x50000), 0x10000));
        map.set(PAGE as u64, Place::Zero);
        assert_eq!(
            map.run((PAGE as u64) << 16, 512).0,
            Place::Unknown,
            "page is not here"
        );
    }

    #[test]
    fn pages_share_slots_and_the_last_one_wins() {
        let map = Map::new(u64::MAX >> 8, 9);
        let far = SLOTS * PAGE as u64;
        map.fill(0, &[Place::Zero]);
        map.fill(far, &[Place::Slow]);
        assert_eq!(map.run(0, 512).0, Place::Unknown);
        assert_eq!(map.run(far << 9, 512).0, Place::Slow);
    }
}
