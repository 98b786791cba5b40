// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The socket at which a simulated device takes commands.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;
use vu_common::Needs;

/// Removes the socket's path when it is dropped.
#[derive(Debug)]
pub(super) struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens at `path`, for our own user only. A socket at which nobody listens any more is replaced.
///
/// # Errors
/// Somebody listens there, or what the host refused.
pub(super) fn listen(path: &Path) -> io::Result<(UnixListener, Bound)> {
    match UnixStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens there",
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            if fs::symlink_metadata(path)?.file_type().is_socket() {
                fs::remove_file(path)?;
            }
        }
        Err(_) => {}
    }
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    // The working directory will be another one.
    let path = std::path::absolute(path)?;
    Needs::default().removes(&path).declare();
    Ok((listener, Bound(path)))
}
