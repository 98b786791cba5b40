// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Survives a front end that truncates a file under its guest's memory.
//!
//! The kernel answers an access beyond the end of a mapped file with SIGBUS, whose default is death. A
//! daemon must not die of what a front end does, so the handler puts a page of zeroes there, notes
//! which mapping it was, and the session then ends that connection.
//!
//! UNSAFETY: a signal handler, and the mapping that it makes.
#![allow(unsafe_code, reason = "a signal handler; see the module's text")]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Room for the regions of several guests; a mapping beyond it is simply not protected.
const SLOTS: usize = 4096;

struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
    page: AtomicUsize,
    hit: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; SLOTS];

static INSTALL: Once = Once::new();

/// Protects one mapping for as long as it lives.
pub(crate) struct Guard(Option<&'static Slot>);

impl Guard {
    /// Protects `len` bytes at `start`, mapped with pages of `page` bytes.
    pub(crate) fn new(start: usize, len: usize, page: usize) -> Self {
        INSTALL.call_once(install);
        let slot = TABLE.iter().find(|slot| {
            slot.start
                .compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        });
        if let Some(slot) = slot {
            slot.hit.store(false, Ordering::Relaxed);
            slot.page.store(page, Ordering::Relaxed);
            slot.len.store(len, Ordering::Release);
        }
        Self(slot)
    }

    /// Whether an access fell beyond the end of the file.
    pub(crate) fn hit(&self) -> bool {
        self.0.is_some_and(|slot| slot.hit.load(Ordering::Relaxed))
    }

    /// Ends the protection, before the mapping goes.
    pub(crate) fn release(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.len.store(0, Ordering::Release);
            slot.start.store(0, Ordering::Release);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.release();
    }
}

fn install() {
    // SAFETY: a zeroed sigaction is a valid one to fill in, and the handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let addr = unsafe { (*info).si_addr() } as usize;
    let slot = TABLE.iter().find(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start != 0 && addr.wrapping_sub(start) < slot.len.load(Ordering::Acquire)
    });
    if let Some(slot) = slot {
        let page = slot.page.load(Ordering::Relaxed);
        let base = addr & !page.wrapping_sub(1);
        // SAFETY: replaces one page inside a mapping of ours that nothing refers to but raw copies.
        let mapped = unsafe {
            libc::mmap(
                base as *mut libc::c_void,
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            slot.hit.store(true, Ordering::Relaxed);
            return;
        }
    }
    // Not ours: the default action takes the process when the access is tried again.
    // SAFETY: setting a signal back to its default.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use crate::memory::Mapping;
    use crate::memory::tests::guest;
    use std::fs::File;

    #[test]
    fn a_page_beyond_the_end_of_the_file_reads_as_zeroes() {
        let fd = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(fd.expect("memfd"));
        file.set_len(0x2000).expect("size");
        let mapping = Mapping::new(&file, 0, 0x2000).expect("map");
        mapping.slice().write(0, &[1; 0x2000]);
        file.set_len(0x1000).expect("shrink");
        let mut bytes = [9; 2];
        mapping.slice().read(0xfff, &mut bytes);
        assert_eq!(bytes, [1, 0]);
        // It can be written as well, and the file stays as it is.
        mapping.slice().write(0x1fff, &[7]);
        assert_eq!(file.metadata().expect("metadata").len(), 0x1000);
        assert!(
            !guest(&[(0, 0x1000)]).truncated(),
            "other mappings are not blamed"
        );
    }
}
