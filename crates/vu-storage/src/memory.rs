// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A disk in the memory of the daemon, gone with it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::{Disk, file};

/// A disk of `capacity` bytes, all zero, and blocks of `logical_block`. It takes up only what was written;
/// what is discarded is given back. `capacity` is rounded down to whole blocks.
///
/// # Errors
/// What the host refused: no memory file, or a capacity that it cannot have.
pub fn open(capacity: u64, logical_block: u32) -> io::Result<Arc<dyn Disk>> {
    let memory = rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, capacity)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    file::memory(File::from(memory), logical_block)
}
