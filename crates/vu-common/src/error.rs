// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`SetupError`]: why a daemon could not start, in words for the person who started it.

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Why a daemon could not start.
///
/// The text names the operand and never repeats its source: `main` prints the whole chain in one line,
/// as in `error: /run/vm/rng.sock: cannot bind: Permission denied (os error 13)`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Neither an option nor the service manager gave a socket.
    #[error("no socket: give --socket-path PATH, --fd N, or start by socket activation")]
    NoSocket,

    /// The number of devices differs from the number of sockets, and each device needs its own socket.
    #[error("{devices} device(s) for {sockets} socket(s): each device needs a socket of its own")]
    Count {
        /// Devices that the options describe.
        devices: usize,
        /// Sockets that the options name.
        sockets: usize,
    },

    /// The same `--socket-path` was given twice.
    #[error("{}: this --socket-path is given twice", .path.display())]
    PathTwice {
        /// The path.
        path: PathBuf,
    },

    /// A path that does not fit into a Unix socket address.
    #[error("{}: a socket path has at most {max} bytes, this one has {}", .path.display(), .path.as_os_str().len())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// The largest length in bytes.
        max: usize,
    },

    /// A path without a file name, such as `/`.
    #[error("{:?}: not a path for a socket", .path)]
    NoFileName {
        /// The path.
        path: PathBuf,
    },

    /// A process serves the path already.
    #[error("{}: another process listens there", .path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },

    /// Something at the path that we must not replace.
    #[error("{}: exists and is not a socket, so it is not replaced", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },

    /// A system call on a path failed.
    #[error("{}: cannot {what}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What was tried: an infinitive such as `bind`.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// An inherited file descriptor that cannot serve.
    #[error("file descriptor {fd}: {problem}")]
    BadFd {
        /// Its number.
        fd: RawFd,
        /// What it should have been.
        problem: &'static str,
    },

    /// A system call on an inherited file descriptor failed.
    #[error("file descriptor {fd}: cannot {what}")]
    Fd {
        /// Its number.
        fd: RawFd,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// A running daemon holds the pid file.
    #[error("{}: held by a running daemon (pid {holder})", .path.display())]
    PidFileHeld {
        /// The pid file.
        path: PathBuf,
        /// What the file says: the pid of its holder.
        holder: String,
    },

    /// Any other system call that a start needs.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The daemon could not be confined as `--sandbox` demands.
    #[error("sandbox: {what}")]
    Sandbox {
        /// What is missing, or what was tried.
        what: String,
        /// Why it failed, if `what` does not say it.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}
