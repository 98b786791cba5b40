// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The contents of a chip, and the file that keeps them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::FlockOperation;

/// What a byte is that was never written.
const ERASED: u8 = 0xff;

pub(super) struct Image {
    bytes: Box<[u8]>,
    file: Option<File>,
}

impl Image {
    /// `size` bytes that are lost at the end.
    pub(super) fn in_memory(size: usize) -> Self {
        Self {
            bytes: vec![ERASED; size].into(),
            file: None,
        }
    }

    /// The `size` bytes of the file at `path`, which is made if it is not there. Nobody else may have it open here.
    pub(super) fn open(path: &Path, size: usize) -> Result<Self> {
        Self::try_open(path, size).with_context(|| path.display().to_string())
    }

    fn try_open(path: &Path, size: usize) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let meta = file.metadata()?;
        ensure!(meta.is_file(), "not a regular file");
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .context("in use: two devices cannot share their contents")?;
        let mut bytes = vec![ERASED; size].into_boxed_slice();
        match meta.len() {
            0 => file.write_all_at(&bytes, 0)?,
            len => {
                ensure!(len == size as u64, "has {len} bytes, but the device has {size}");
                file.read_exact_at(&mut bytes, 0)?;
            }
        }
        Ok(Self {
            bytes,
            file: Some(file),
        })
    }

    /// The byte at `at`.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(ERASED)
    }

    /// Replaces the bytes from `at` on, in the file first: what succeeds outlives this process.
    pub(super) fn store(&mut self, at: usize, new: &[u8]) -> io::Result<()> {
        let place = self
            .bytes
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..new.len()));
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(file) = &self.file {
            file.write_all_at(new, at as u64)?;
        }
        place.copy_from_slice(new);
        Ok(())
    }
}
