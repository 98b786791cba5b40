// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine on `io_uring`: one ring per thread.

use std::io;

use io_uring::IoUring;

/// Whether this process may have a ring.
///
/// # Errors
/// Why not: `ENOSYS` without it, `EPERM` where it is forbidden.
pub(super) fn permitted() -> io::Result<()> {
    IoUring::new(1).map(drop)
}
