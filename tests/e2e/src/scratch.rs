// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A folder for one test: sockets, logs and consoles. It goes with the test, unless the test failed.

use anyhow::{Context, Result};
use std::cell::Cell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The folder. Its path is short, because a socket's path has at most 107 bytes.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: Cell<bool>,
}

impl Scratch {
    /// Runs `test` with an empty folder, which stays when it fails.
    ///
    /// # Errors
    /// When the folder cannot be made, and what `test` gives.
    pub fn scope<T>(test: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let scratch = Self::new()?;
        let outcome = test(&scratch);
        scratch.keep.set(outcome.is_err());
        outcome
    }

    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("vu-e2e-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                // A test that failed in a process of the same number has left it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => {
                    made.with_context(|| path.display().to_string())?;
                    let keep = Cell::new(false);
                    return Ok(Self { path, keep });
                }
            }
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep.get() || std::thread::panicking() {
            eprintln!("logs and consoles are kept in {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
