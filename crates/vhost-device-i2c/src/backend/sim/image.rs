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

#[cfg(test)]
mod tests {
    use std::fs;

    use vu_testkit::spawn::TempDir;

    use super::*;

    fn refused(path: &Path, size: usize) -> String {
        format!("{:#}", Image::open(path, size).err().expect("the file was taken"))
    }

    #[test]
    fn a_missing_or_empty_file_is_made_erased() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("rom");
        drop(Image::open(&path, 256).unwrap());
        assert_eq!(fs::read(&path).unwrap(), [ERASED; 256]);
        fs::write(&path, "").unwrap();
        drop(Image::open(&path, 128).unwrap());
        assert_eq!(fs::read(&path).unwrap(), [ERASED; 128]);
    }

    #[test]
    fn what_is_in_the_file_is_kept() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("rom");
        let bytes: Vec<u8> = (0..=255).collect();
        fs::write(&path, &bytes).unwrap();
        let mut image = Image::open(&path, 256).unwrap();
        assert!((0..256).all(|at| image.byte(at) == bytes[at]));
        image.store(8, &[1, 2]).unwrap();
        // It is in the file before the image is closed.
        assert_eq!(fs::read(&path).unwrap()[7..11], [7, 1, 2, 10]);
        assert_eq!(image.byte(9), 2);
    }

    #[test]
    fn a_file_that_does_not_fit_is_left_alone() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("rom");
        fs::write(&path, [1; 100]).unwrap();
        let error = refused(&path, 256);
        assert!(
            error.ends_with("rom: has 100 bytes, but the device has 256"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), [1; 100]);
        let error = refused(Path::new("/dev/null"), 256);
        assert_eq!(error, "/dev/null: not a regular file");
    }

    #[test]
    fn two_devices_cannot_share_a_file() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("rom");
        let first = Image::open(&path, 256).unwrap();
        let error = refused(&path, 256);
        assert!(error.contains("rom: in use: two devices cannot share"), "{error}");
        drop(first);
        Image::open(&path, 256).unwrap();
    }

    #[test]
    fn nothing_is_stored_past_the_end() {
        let mut image = Image::in_memory(128);
        image.store(127, &[1, 2]).unwrap_err();
        assert_eq!(image.byte(127), ERASED);
        image.store(126, &[1, 2]).unwrap();
        assert_eq!(image.byte(127), 2);
    }
}
