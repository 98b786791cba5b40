// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel holds of a file and has not written to its storage yet: whether a flush really flushes.
// UNSAFETY: no crate wraps cachestat(2), so it is called by its number.
#![allow(unsafe_code, reason = "one system call on structures of our own")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Its number, the same on all architectures but Alpha.
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`; a length of 0 means to the end.
#[repr(C)]
struct Range {
    off: u64,
    len: u64,
}

/// `struct cachestat`, in pages.
#[repr(C)]
#[derive(Default)]
struct Stat {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Pages of `file` that a power failure would lose: changed, and not on the storage. Pages on their way count too.
///
/// # Errors
/// What the kernel says; `Unsupported` when it is older than Linux 6.5.
pub fn unsaved(file: &File) -> io::Result<u64> {
    let mut stat = Stat::default();
    let range = Range { off: 0, len: 0 };
    let fd = file.as_raw_fd();
    // SAFETY: both structures have the kernel's layout and live until the call returns.
    let result = unsafe { libc::syscall(CACHESTAT, fd, &raw const range, &raw mut stat, 0) };
    if result == 0 {
        Ok(stat.dirty + stat.writeback)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::unsaved;
    use std::io::{ErrorKind, Write};

    #[test]
    fn a_synced_file_has_nothing_unsaved() {
        let dir = crate::spawn::TempDir::new().unwrap();
        let mut file = std::fs::File::create(dir.path().join("file")).unwrap();
        match unsaved(&file) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return crate::conformance::report_skip(
                    "page_cache::a_synced_file",
                    "cachestat needs Linux 6.5",
                );
            }
            result => assert_eq!(result.unwrap(), 0),
        }
        file.write_all(&[1; 65536]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(unsaved(&file).unwrap(), 0);
    }
}
