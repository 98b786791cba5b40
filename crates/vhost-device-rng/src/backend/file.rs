// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file of the host: a character device such as `/dev/hwrng`, a FIFO, or a regular file.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

use super::Backend;

/// An open file. All guests share its position, so that no byte goes to two of them.
#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    file: File,
    /// Whether the last read found the end.
    at_end: AtomicBool,
}

impl HostFile {
    /// Opens `path` so that neither opening nor reading waits for bytes.
    ///
    /// A FIFO is opened for writing too, which needs that permission: as it so always has a writer, it
    /// is never at its end, and its real writer may leave and come back.
    ///
    /// # Errors
    /// What the host refused, or `InvalidInput` for a directory, a socket or a block device.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open_nonblocking(path).map_err(|error| with_path(path, &error))?;
        Ok(Self {
            path: path.into(),
            file,
            at_end: false.into(),
        })
    }
}

fn open_nonblocking(path: &Path) -> io::Result<File> {
    let kind = path.metadata()?.file_type();
    if !(kind.is_file() || kind.is_char_device() || kind.is_fifo()) {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "not a regular file, character device or FIFO",
        ));
    }
    let access = if kind.is_fifo() {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    Ok(rustix::fs::open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?.into())
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Backend for HostFile {
    fn read(&self, _position: u64, buf: &mut [u8]) -> io::Result<usize> {
        let got = (&self.file)
            .read(buf)
            .map_err(|error| with_path(&self.path, &error))?;
        let was_at_end = self.at_end.swap(got == 0, Ordering::Relaxed);
        if got == 0 && !was_at_end {
            log::error!(
                "{}: source is at its end, requests get no bytes",
                self.path.display()
            );
        }
        Ok(got)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::fs;
    use std::io::Write;

    /// A path that is removed at the end of its test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("rng-file-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_file(&self.0).ok();
        }
    }

    fn fifo(name: &str) -> (Scratch, HostFile) {
        let scratch = Scratch::new(name);
        mknodat(CWD, &scratch.0, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let source = HostFile::open(&scratch.0).unwrap();
        (scratch, source)
    }

    fn write(path: &Path, bytes: &[u8]) {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .write_all(bytes)
            .unwrap();
    }

    #[test]
    fn no_byte_of_a_regular_file_is_given_twice() {
        let scratch = Scratch::new("regular");
        fs::write(&scratch.0, b"abcdef").unwrap();
        let source = HostFile::open(&scratch.0).unwrap();
        let mut bytes = [0; 4];
        assert_eq!((source.read(0, &mut bytes).unwrap(), &bytes), (4, b"abcd"));
        assert_eq!(
            (source.read(0, &mut bytes).unwrap(), &bytes[..2]),
            (2, &b"ef"[..])
        );
        assert_eq!(source.read(0, &mut bytes).unwrap(), 0);
    }

    #[test]
    fn a_fifo_without_bytes_would_block() {
        let (_scratch, source) = fifo("empty");
        assert_eq!(
            source.read(0, &mut [0; 4]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    }

    #[test]
    fn the_writer_of_a_fifo_may_leave_and_come_back() {
        let (scratch, source) = fifo("writer");
        for bytes in [b"abcd", b"efgh"] {
            write(&scratch.0, bytes);
            let mut got = [0; 8];
            assert_eq!((source.read(0, &mut got).unwrap(), &got[..4]), (4, &bytes[..]));
            assert_eq!(
                source.read(0, &mut got).unwrap_err().kind(),
                ErrorKind::WouldBlock
            );
        }
    }

    #[test]
    fn a_character_device_is_read() {
        let mut bytes = [0; 64];
        assert_eq!(
            HostFile::open(Path::new("/dev/urandom"))
                .unwrap()
                .read(0, &mut bytes)
                .unwrap(),
            64
        );
        assert_ne!(bytes, [0; 64]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_when_it_is_opened() {
        let error = HostFile::open(Path::new("/")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = HostFile::open(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
