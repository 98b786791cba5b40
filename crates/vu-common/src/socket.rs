// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sockets that a daemon serves: bound by us at `--socket-path`, or inherited.

// UNSAFETY: an inherited file descriptor is a bare number until somebody vouches for it.
#![allow(unsafe_code, reason = "OwnedFd::from_raw_fd")]

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, FdFlags};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketFlags, SocketType, getpeername};

use crate::args::CommonArgs;
use crate::error::SetupError;
use crate::socket_path::{self, SocketPath};

/// The first descriptor that a service manager passes; those below are the standard streams.
const FIRST_INHERITED: RawFd = 3;

/// Where one device meets its front end.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// Front ends come one after another.
    Listener(Listener),
    /// The one connection that was given: when it ends, the daemon ends.
    Connected(UnixStream),
}

/// A listening socket. Dropping one that we bound removes its path, unless another socket lies there by now.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    name: String,
    /// The path to remove; none for a socket that was given, which belongs to whoever started us.
    _entry: Option<SocketPath>,
    one_shot: bool,
}

impl Listener {
    /// A connection that waits; it blocks although the listener may not.
    ///
    /// # Errors
    /// Those of accept(2), unchanged. `WouldBlock` means that nobody waits any more, `InvalidInput` that
    /// someone who shares the socket has shut it down for good.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        Ok(rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC)?.into())
    }

    /// Whether it serves one front end only: one that `--fd` gave, whose giver starts us anew.
    pub(crate) fn is_one_shot(&self) -> bool {
        self.one_shot
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where it listens, for people: its path or its number.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The sockets that this process was given by number: `--fd` or those of the service manager.
///
/// Must be called once, before anything else opens a file, so that an open number can only be an inherited one.
///
/// # Errors
/// [`SetupError::NoSocket`] if there is no socket at all, else what is wrong with which descriptor.
pub(crate) fn inherited(args: &CommonArgs) -> Result<Vec<Endpoint>, SetupError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let fds = match (args.fd, args.sockets()) {
        (_, 0) => return Err(SetupError::NoSocket),
        (Some(fd), _) => fd..=fd,
        (None, _) if !args.socket_path.is_empty() => return Ok(Vec::new()),
        (None, count) => FIRST_INHERITED..=RawFd::try_from(count).map_or(RawFd::MAX, |n| n.saturating_add(2)),
    };
    assert!(
        !TAKEN.swap(true, Ordering::Relaxed),
        "inherited descriptors are taken once"
    );
    // SAFETY: the numbers differ, and by the contract above nothing here owns one of them.
    fds.map(|fd| unsafe { adopt(fd, args.fd.is_some()) }).collect()
}

/// Another descriptor that this process was given by number, for whatever it is.
///
/// Must be called before anything else opens a file, and once for a number.
///
/// # Errors
/// It is a standard stream, or not open.
pub(crate) fn given(fd: RawFd) -> Result<OwnedFd, SetupError> {
    // SAFETY: by the contract above nothing here owns it.
    let fd = unsafe { own(fd) }?;
    // A daemon starts no other program, but what is not to be inherited is not.
    let _ = rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC);
    Ok(fd)
}

/// Binds each `--socket-path`.
///
/// # Errors
/// The first path that cannot be had; sockets bound before it are removed again.
pub(crate) fn listeners(args: &CommonArgs) -> Result<Vec<Endpoint>, SetupError> {
    let paths = &args.socket_path;
    let mut seen = HashSet::new();
    if let Some(path) = paths.iter().find(|path| !seen.insert(*path)) {
        return Err(SetupError::PathTwice { path: path.clone() });
    }
    let bind = |path: &PathBuf| {
        let (fd, entry) = socket_path::bind(path, args.socket_mode(), args.socket_group)?;
        Ok(Endpoint::Listener(Listener {
            fd,
            name: path.display().to_string(),
            one_shot: false,
            _entry: Some(entry),
        }))
    };
    paths.iter().map(bind).collect()
}

/// Takes ownership of a socket that this process was started with. On an error, the descriptor is left as it is.
///
/// # Safety
/// Nothing in this process owns `fd`, and nothing else will.
unsafe fn adopt(fd: RawFd, one_shot: bool) -> Result<Endpoint, SetupError> {
    // SAFETY: our contract is the same.
    let socket = unsafe { own(fd) }?;
    endpoint(fd, socket, one_shot)
}

/// Takes ownership of a descriptor that is no standard stream.
///
/// # Safety
/// Nothing in this process owns `fd`, and nothing else will.
unsafe fn own(fd: RawFd) -> Result<OwnedFd, SetupError> {
    if fd < FIRST_INHERITED {
        return Err(SetupError::BadFd {
            fd,
            problem: "the standard streams cannot serve",
        });
    }
    // SAFETY: F_GETFD touches nothing, whatever the number.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(SetupError::BadFd {
            fd,
            problem: "not open",
        });
    }
    // SAFETY: it is open, and by our contract ours to own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn endpoint(fd: RawFd, socket: OwnedFd, one_shot: bool) -> Result<Endpoint, SetupError> {
    match is_listening(fd, &socket) {
        Ok(true) => Ok(Endpoint::Listener(Listener {
            fd: socket,
            name: format!("fd {fd}"),
            one_shot,
            _entry: None,
        })),
        Ok(false) => Ok(Endpoint::Connected(socket.into())),
        Err(error) => {
            // Given up, not closed: it was never ours.
            let _ = socket.into_raw_fd();
            Err(error)
        }
    }
}

/// Whether the inherited socket with the number `fd` listens; else it is connected.
fn is_listening(fd: RawFd, socket: &OwnedFd) -> Result<bool, SetupError> {
    let failed = |errno: Errno| SetupError::Fd {
        fd,
        what: "use it as a socket",
        source: errno.into(),
    };
    let domain = socket_domain(socket).map_err(failed)?;
    let kind = socket_type(socket).map_err(failed)?;
    if (domain, kind) != (AddressFamily::UNIX, SocketType::STREAM) {
        let problem = "not a Unix stream socket";
        return Err(SetupError::BadFd { fd, problem });
    }
    let listening = socket_acceptconn(socket).map_err(failed)?;
    if !listening {
        if getpeername(socket) == Err(Errno::NOTCONN) {
            let problem = "neither listens nor is connected";
            return Err(SetupError::BadFd { fd, problem });
        }
        // A session reads whole messages. The flag is not shared with the peer's end.
        rustix::io::ioctl_fionbio(socket, false).map_err(failed)?;
    }
    rustix::io::fcntl_setfd(socket, FdFlags::CLOEXEC).map_err(failed)?;
    Ok(listening)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
    use std::path::Path;
    use std::{env, fs, process};

    use clap::Parser;
    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::{Endpoint, adopt, inherited, listeners};
    use crate::args::CommonArgs;
    use crate::error::SetupError;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        common: CommonArgs,
    }

    fn args(args: &[&str]) -> CommonArgs {
        Args::try_parse_from([&["daemon"], args].concat()).unwrap().common
    }

    /// What `--fd` would make of `fd`, which a parent has left open for us.
    fn adopt_from_parent(fd: impl Into<OwnedFd>) -> Result<Endpoint, SetupError> {
        let fd = fd.into();
        fcntl_setfd(&fd, FdFlags::empty()).unwrap();
        // SAFETY: the number's owner has just given it up.
        unsafe { adopt(fd.into_raw_fd(), true) }
    }

    fn assert_close_on_exec(fd: impl AsFd) {
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn a_listening_descriptor_becomes_a_listener() {
        let address = SocketAddr::from_abstract_name(format!("vu-socket-{}", process::id())).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let number = listener.as_raw_fd();
        let Ok(Endpoint::Listener(listener)) = adopt_from_parent(listener) else {
            panic!("not a listener")
        };
        assert_close_on_exec(&listener);
        assert_eq!(listener.to_string(), format!("fd {number}"));
        assert!(listener.is_one_shot());

        let mut client = UnixStream::connect_addr(&address).unwrap();
        let mut stream = listener.accept().unwrap();
        assert_close_on_exec(&stream);
        client.write_all(b"hello").unwrap();
        drop(client);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_connected_descriptor_becomes_a_blocking_stream() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let Ok(Endpoint::Connected(mut stream)) = adopt_from_parent(ours) else {
            panic!("not connected")
        };
        assert_close_on_exec(&stream);
        assert!(
            !rustix::fs::fcntl_getfl(&stream)
                .unwrap()
                .contains(rustix::fs::OFlags::NONBLOCK)
        );
        theirs.write_all(b"!").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn a_descriptor_that_cannot_serve_is_named_and_left_open() {
        let (datagram, _other) = UnixDatagram::pair().unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        let cases: [(OwnedFd, &str); 4] = [
            (datagram.into(), "not a Unix stream socket"),
            (
                socket(AddressFamily::INET, SocketType::STREAM, None).unwrap(),
                "not a Unix stream socket",
            ),
            (
                socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap(),
                "neither listens nor is connected",
            ),
            (pipe.into(), "cannot use it as a socket"),
        ];
        for (fd, problem) in cases {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let before = fs::read_link(&link).unwrap();
            let expected = format!("file descriptor {}: {problem}", fd.as_raw_fd());
            assert_eq!(adopt_from_parent(fd).unwrap_err().to_string(), expected);
            assert_eq!(fs::read_link(&link).unwrap(), before, "{problem}");
        }
    }

    #[test]
    fn numbers_that_nobody_passed_are_refused() {
        for (fd, problem) in [
            (-1, "the standard streams cannot serve"),
            (2, "the standard streams cannot serve"),
            (i32::MAX, "not open"),
        ] {
            // SAFETY: such a number is owned by nobody, or refused before it is touched.
            let error = unsafe { adopt(fd, true) }.unwrap_err();
            assert_eq!(error.to_string(), format!("file descriptor {fd}: {problem}"));
        }
    }

    #[test]
    fn without_any_socket_the_ways_to_give_one_are_named() {
        let error = inherited(&args(&[])).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no socket: give --socket-path PATH, --fd N, or"),
            "{error}"
        );
    }

    #[test]
    fn a_path_inherits_nothing() {
        assert!(inherited(&args(&["-s", "/nowhere"])).unwrap().is_empty());
    }

    #[test]
    fn each_path_is_bound_in_order_until_its_listener_is_dropped() {
        let folder = env::temp_dir();
        let paths = [1, 2].map(|n| format!("{}/vu-listeners-{}-{n}", folder.display(), process::id()));
        let endpoints = listeners(&args(&["-s", &paths[0], "-s", &paths[1]])).unwrap();
        for (endpoint, path) in endpoints.into_iter().zip(&paths) {
            let Endpoint::Listener(listener) = endpoint else {
                panic!("not a listener")
            };
            assert_eq!(listener.to_string(), *path);
            assert!(!listener.is_one_shot());
            UnixStream::connect(path).unwrap();
            drop(listener);
            assert!(!Path::new(path).exists());
        }
    }

    #[test]
    fn the_same_path_twice_is_refused() {
        let error = listeners(&args(&[
            "-s",
            "/nowhere/a",
            "-s",
            "/nowhere/b",
            "-s",
            "/nowhere/a",
        ]))
        .unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/a: this --socket-path is given twice");
    }
}
