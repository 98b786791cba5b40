// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty log of a live migration (vhost-user "Migration"): one bit per 4 KiB page of the guest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::memory::Mapping;

/// Page size of the log, fixed by the protocol.
const LOG_PAGE: u64 = 4096;

/// Where pages that the device wrote are marked. Off costs one relaxed load.
#[derive(Default)]
pub(crate) struct DirtyLog {
    on: AtomicBool,
    map: RwLock<Option<Mapping>>,
}

impl DirtyLog {
    /// The bitmap to mark from now on (VHOST_USER_SET_LOG_BASE).
    pub(crate) fn set_map(&self, map: Mapping) {
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Some(map);
    }

    /// Marking on or off (VHOST_F_LOG_ALL in SET_FEATURES).
    pub(crate) fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Release);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Marks the pages of `len` bytes at guest address `addr`; pages beyond the log are left out.
    pub(crate) fn mark(&self, addr: u64, len: u64) {
        if !self.is_on() || len == 0 {
            return;
        }
        // Held while marking: once a new log is acknowledged, nothing is marked in the old one any more.
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let Some(map) = map.as_ref() else { return };
        let first = addr / LOG_PAGE;
        let last = addr.saturating_add(len.saturating_sub(1)) / LOG_PAGE;
        for page in first..=last {
            let byte = usize::try_from(page / 8).unwrap_or(usize::MAX);
            if byte >= map.slice().len() {
                return;
            }
            map.slice().or_u8(byte, 1 << (page % 8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DirtyLog;
    use crate::memory::Mapping;
    use std::io::{Read, Seek};

    #[test]
    fn marks_every_page_touched_and_none_beyond_the_log() {
        let mut file = std::fs::File::from(
            rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd"),
        );
        file.set_len(4096).expect("size");
        let log = DirtyLog::default();
        log.set_map(Mapping::new(&file, 0, 4096).expect("map"));
        log.mark(0, 4096);
        log.set_on(true);
        log.mark(8 * 4096 - 1, 2);
        log.mark(u64::MAX - 1, 2);
        log.mark(3 * 4096, 0);
        let mut bits = [0_u8; 4096];
        file.rewind().expect("seek");
        file.read_exact(&mut bits).expect("read");
        assert_eq!((bits[0], bits[1]), (0x80, 0x01));
        assert!(bits[2..].iter().all(|b| *b == 0));
    }
}
