// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host side: where the bytes come from.

mod file;
mod getrandom;
mod seeded;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use file::HostFile;
pub use getrandom::Getrandom;
pub use seeded::Seeded;

use crate::Source;

/// A source of bytes, shared by all guests.
pub trait Backend: Send + Sync {
    /// Puts bytes into `buf` and returns how many: what is there, 0 at the end of the source. Never blocks.
    ///
    /// `position` counts the bytes that this guest got since its device started. Only a fixed sequence
    /// needs it.
    ///
    /// # Errors
    /// `WouldBlock` if there are no bytes at the moment, else what the host refused, naming the source.
    fn read(&self, position: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Whether a read may ask for more than is given on: nothing is lost with bytes that are forgotten.
    fn reads_ahead(&self) -> bool {
        false
    }

    /// Becomes readable when there are bytes after a `WouldBlock`; `None` if nothing tells.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Opens what `--source` names.
///
/// # Errors
/// What the host refused, with the path; only a file can fail.
pub fn open(source: &Source) -> io::Result<Arc<dyn Backend>> {
    Ok(match source {
        Source::Getrandom => Arc::new(Getrandom),
        Source::File(path) => Arc::new(HostFile::open(path)?),
        Source::Seeded(seed) => Arc::new(Seeded(*seed)),
    })
}
