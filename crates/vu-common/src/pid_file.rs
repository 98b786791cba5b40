// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pid file: locked while the daemon lives, so that a second one sees it, and removed at the end.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::error::SetupError;

/// A locked pid file. Dropping it removes the file, then lets the lock go.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Creates the pid file or takes over one that nobody holds, and writes the process id and a newline to it.
    ///
    /// # Errors
    /// [`SetupError::PidFileHeld`] when a running daemon holds it, [`SetupError::Path`] when a system call fails.
    pub(crate) fn create(path: &Path) -> Result<Self, SetupError> {
        let failed = |what| {
            move |source| SetupError::Path {
                path: path.into(),
                what,
                source,
            }
        };
        loop {
            let file = open(path).map_err(failed("open the pid file"))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(path, file)),
                Err(errno) => return Err(failed("lock the pid file")(errno.into())),
            }
            // The working directory will be another one.
            let path = std::path::absolute(path).map_err(failed("find the folder of the pid file"))?;
            let mut pid_file = Self { path, file };
            // Its last holder may have removed it between our open and our lock: then a new one is due.
            if pid_file.is_at_path() {
                pid_file.write().map_err(failed("write the pid file"))?;
                return Ok(pid_file);
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all(format!("{}\n", process::id()).as_bytes())
    }

    /// Whether the path still leads to the file that we hold.
    fn is_at_path(&self) -> bool {
        match (fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
            _ => false,
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_at_path()
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{}: cannot remove the pid file: {error}", self.path.display());
        }
    }
}

/// Opens a regular file, and no link in the last part of `path`: we shall empty it and remove it.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

fn held(path: &Path, mut file: File) -> SetupError {
    let mut holder = String::new();
    let holder = match file.read_to_string(&mut holder) {
        Ok(len) if len > 0 => holder.trim().into(),
        _ => "not written yet".into(),
    };
    SetupError::PidFileHeld {
        path: path.into(),
        holder,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::path::{Path, PathBuf};
    use std::{env, fs, process};

    use super::PidFile;

    fn path(name: &str) -> PathBuf {
        env::temp_dir().join(format!("vu-pid-file-{}-{name}", process::id()))
    }

    #[test]
    fn holds_the_process_id_until_it_is_dropped() {
        let path = path("life");
        let pid_file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        drop(pid_file);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_and_does_no_harm() {
        let path = path("second");
        let _first = PidFile::create(&path).unwrap();
        let error = PidFile::create(&path).unwrap_err();
        let expected = format!(
            "{}: held by a running daemon (pid {})",
            path.display(),
            process::id()
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
    }

    #[test]
    fn a_file_that_nobody_holds_is_taken_over() {
        let path = path("stale");
        fs::write(&path, "1234567890\nand more\n").unwrap();
        let _pid_file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
    }

    #[test]
    fn the_file_of_another_daemon_survives() {
        let path = path("other");
        let pid_file = PidFile::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = PidFile::create(&path).unwrap();
        drop(pid_file);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn a_device_node_is_left_alone() {
        let error = PidFile::create(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), "not a regular file");
        assert!(Path::new("/dev/null").exists());
    }

    #[test]
    fn a_link_is_not_followed() {
        let (link, target) = (path("link"), path("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let error = PidFile::create(&link).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: cannot open the pid file", link.display())
        );
        assert!(!target.exists());
        fs::remove_file(link).unwrap();
    }
}
