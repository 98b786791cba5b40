// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Needs`]: what a device still needs of the host once the daemon is confined.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What a device still needs of the host once the daemon is confined, beyond what every device has: the
/// descriptors that are open, memory, threads, time and random numbers.
///
/// ```
/// use vu_common::{Access, Needs};
/// Needs::default()
///     .path("/dev/input", Access::ReadWrite) // devices come back there
///     .ioctls_of(b'E')
///     .declare();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub(super) paths: Vec<(PathBuf, Access)>,
    pub(super) system_calls: Vec<i64>,
    pub(super) ioctls: Vec<u64>,
    pub(super) ioctl_types: Vec<u8>,
    pub(super) socket_families: Vec<i32>,
    pub(super) host_network: bool,
}

/// What all that was opened needs: a process is confined as a whole.
static DECLARED: Mutex<Needs> = Mutex::new(Needs {
    paths: Vec::new(),
    system_calls: Vec::new(),
    ioctls: Vec::new(),
    ioctl_types: Vec::new(),
    socket_families: Vec::new(),
    host_network: false,
});

/// What may be done with a file, or with a folder and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Connect to sockets.
    Connect,
    /// Remove files, as a socket of ours at the end.
    Remove,
    /// Open files, read them and list folders.
    Read,
    /// The same, and write to files that are there, with their `ioctl`s.
    ReadWrite,
}

impl Needs {
    /// A file, or a folder with all below it, which keeps its place. What is not there is left out.
    pub fn path(mut self, path: impl AsRef<Path>, access: Access) -> Self {
        // The working directory will be another one.
        if let Ok(path) = std::path::absolute(path) {
            self.paths.push((path, access));
        }
        self
    }

    /// The folder of the file `path`, to remove that file at the end.
    pub fn removes(self, path: impl AsRef<Path>) -> Self {
        match std::path::absolute(path).as_deref().map(Path::parent) {
            Ok(Some(folder)) => self.path(folder, Access::Remove),
            _ => self,
        }
    }

    /// More system calls, with any arguments, by their numbers (`libc::SYS_...`).
    pub fn system_calls(mut self, numbers: &[i64]) -> Self {
        self.system_calls.extend(numbers);
        self
    }

    /// More requests of ioctl(2).
    pub fn ioctls(mut self, requests: &[u64]) -> Self {
        self.ioctls.extend(requests);
        self
    }

    /// All requests of ioctl(2) of a driver, by the letter that they have in common (`_IOC_TYPE`).
    pub fn ioctls_of(mut self, letter: u8) -> Self {
        self.ioctl_types.push(letter);
        self
    }

    /// New sockets of an address family (`libc::AF_...`), to connect them. All but `AF_UNIX` need the
    /// host's network.
    pub fn sockets(mut self, family: i32) -> Self {
        self.host_network |= family != libc::AF_UNIX;
        self.socket_families.push(family);
        self
    }

    /// The host's network, where abstract sockets are, too.
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Has the daemon keep all of this. To be called while devices are opened, beside what needs it.
    pub fn declare(self) {
        let mut all = DECLARED.lock().unwrap_or_else(PoisonError::into_inner);
        all.paths.extend(self.paths);
        all.system_calls.extend(self.system_calls);
        all.ioctls.extend(self.ioctls);
        all.ioctl_types.extend(self.ioctl_types);
        all.socket_families.extend(self.socket_families);
        all.host_network |= self.host_network;
    }

    /// All that was declared.
    pub(super) fn declared() -> Self {
        DECLARED.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
