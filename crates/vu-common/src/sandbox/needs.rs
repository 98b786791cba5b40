// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Needs`]: what a device still needs of the host once the daemon is confined.

use std::path::{Path, PathBuf};

/// What a device still needs of the host once the daemon is confined, beyond what every device has: the
/// descriptors that are open, memory, threads, time and random numbers.
///
/// ```
/// use vu_common::{Access, Needs};
/// let needs = Needs::default()
///     .path("/dev/input", Access::ReadWrite) // devices come back there
///     .system_calls(&[libc::SYS_getdents64]);
/// # drop(needs);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub(super) paths: Vec<(PathBuf, Access)>,
    pub(super) system_calls: Vec<i64>,
    pub(super) ioctls: Vec<u64>,
    pub(super) socket_families: Vec<i32>,
    pub(super) host_network: bool,
}

/// What may be done with a folder and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Remove files, as a socket of ours at the end.
    Remove,
    /// Open files, read them and list folders.
    Read,
    /// The same, and write to files that are there, with their `ioctl`s.
    ReadWrite,
}

impl Needs {
    /// Something below the folder `path`, which keeps its place. What is not there is left out.
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

    /// New sockets of an address family (`libc::AF_...`), to connect them. All but `AF_UNIX` need the
    /// host's network.
    pub fn sockets(mut self, family: i32) -> Self {
        self.host_network |= family != libc::AF_UNIX;
        self.socket_families.push(family);
        self
    }

    /// All that either needs.
    pub fn and(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        self.system_calls.extend(other.system_calls);
        self.ioctls.extend(other.ioctls);
        self.socket_families.extend(other.socket_families);
        self.host_network |= other.host_network;
        self
    }
}
