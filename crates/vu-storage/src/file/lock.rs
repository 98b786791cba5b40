// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Image locks that QEMU and its tools understand.
//!
//! Each permission is a bit, and a byte of the file for each of two statements: byte 100 + bit "I use it",
//! byte 200 + bit "nobody else may use it". Whoever makes a statement holds a shared lock on its byte, and then
//! looks whether a contrary statement of somebody else stands: first locking, then looking, so that of two
//! who come at once at least one gives way. The locks belong to the open file and go with it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::sys::{is_byte_locked, share_byte};
use super::{OpenError, host};

const USED: i64 = 100;
const UNSHARED: i64 = 200;

/// How long to wait for a lock: a process that was killed lets go of a file only when its I/O has ended.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look.
const PAUSE: Duration = Duration::from_millis(50);

/// Reading what was written.
const READ: i64 = 0;
/// Writing, anything.
const WRITE: i64 = 1;
/// Changing the size.
const RESIZE: i64 = 3;

/// Locks the image for a guest that reads it, and writes it unless `read_only`, while nobody else writes.
///
/// # Errors
/// [`OpenError::InUse`], or what the host refused. A file system without such locks is only logged.
pub(super) fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), OpenError> {
    let used: &[i64] = if read_only { &[READ] } else { &[READ, WRITE] };
    let mut end = None;
    let locked = loop {
        match try_lock(file, used, &[WRITE, RESIZE]) {
            Ok(false) if end.is_none_or(|end| Instant::now() < end) => {
                end.get_or_insert_with(|| {
                    log::info!("{}: in use; waiting {PATIENCE:?} for it at most", path.display());
                    Instant::now() + PATIENCE
                });
                thread::sleep(PAUSE);
            }
            result => break result,
        }
    };
    match locked {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::InUse(path.into())),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOLCK)) => {
            log::warn!(
                "{}: its file system has no locks: nothing keeps others from writing to it",
                path.display()
            );
            Ok(())
        }
        Err(source) => Err(host(path, "cannot lock", source)),
    }
}

fn try_lock(file: &File, used: &[i64], unshared: &[i64]) -> io::Result<bool> {
    let bytes = |base: i64, bits: &'_ [i64]| bits.iter().map(move |bit| base + bit).collect::<Vec<_>>();
    for byte in bytes(USED, used).into_iter().chain(bytes(UNSHARED, unshared)) {
        share_byte(file.as_fd(), byte)?;
    }
    for byte in bytes(UNSHARED, used).into_iter().chain(bytes(USED, unshared)) {
        if is_byte_locked(file.as_fd(), byte)? {
            return Ok(false);
        }
    }
    Ok(true)
}
