// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Unix sockets in the manner of Firecracker: a process connects to `PATH`, says `CONNECT <port>\n` and reads `OK <port>\n`;
//! the guest's connections to port N go to the socket `PATH_N`.
//!
//! Messages (seqpacket) go the same ways: by `PATH_seqpacket` to the guest, and to a `PATH_N` that is of that type.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};
use vu_common::{Access, Needs};

use super::{Arrival, Connect, Host};
use crate::request::Kind;

const BACKLOG: i32 = 1024;

/// The sockets around one path.
pub struct Unix {
    path: PathBuf,
    /// For streams, then for messages.
    listeners: [Listener; 2],
}

struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    kind: Kind,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Unix {
    /// Listens at `path` and `path_seqpacket`. What a process left there that has gone is replaced.
    ///
    /// # Errors
    /// Somebody listens there, something else lies there, or the host refused.
    pub fn new(path: &Path) -> io::Result<Self> {
        // The working directory will be another one.
        let path = &std::path::absolute(path)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        Needs::default()
            .removes(path)
            .path(folder, Access::Connect)
            .sockets(libc::AF_UNIX)
            .declare();
        Ok(Self {
            path: path.to_owned(),
            listeners: [
                Listener::new(path.to_owned(), Kind::Stream)?,
                Listener::new(suffixed(path, "seqpacket"), Kind::Seqpacket)?,
            ],
        })
    }
}

/// `path` with `_` and `suffix` behind it.
fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("_");
    name.push(suffix);
    name.into()
}

fn socket(kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Stream => SocketType::STREAM,
        Kind::Seqpacket => SocketType::SEQPACKET,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

impl Listener {
    fn new(path: PathBuf, kind: Kind) -> io::Result<Self> {
        let fd = socket(kind)?;
        let address = SocketAddrUnix::new(&path)?;
        let bound = bind(&fd, &address).map_err(io::Error::from);
        match bound {
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                remove_stale(&path, kind, &address)?;
                bind(&fd, &address)?;
            }
            other => other?,
        }
        listen(&fd, BACKLOG)?;
        Ok(Self { fd, path, kind })
    }
}

/// Removes a socket at which nobody listens.
fn remove_stale(path: &Path, kind: Kind, address: &SocketAddrUnix) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let message = "something that is no socket lies there";
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    match connect(&socket(kind)?, address).map_err(io::Error::from) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "somebody listens there")),
    }
}

impl Host for Unix {
    fn connect(&mut self, port: u32, kind: Kind) -> io::Result<Connect> {
        let fd = socket(kind)?;
        // A full backlog is WouldBlock: for the guest, a refusal like any other.
        connect(
            &fd,
            &SocketAddrUnix::new(suffixed(&self.path, &port.to_string()))?,
        )?;
        Ok(Connect::Done(fd))
    }

    fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.listeners
            .iter()
            .map(|listener| listener.fd.as_fd())
            .collect()
    }

    fn accept(&mut self, listener: usize) -> io::Result<Arrival> {
        let listener = self.listeners.get(listener).ok_or(ErrorKind::NotFound)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Arrival {
            fd: accept_with(&listener.fd, flags)?,
            kind: listener.kind,
            port: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use super::{Connect, Host, Unix};
    use crate::request::Kind;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vsock-unix-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_guest_reaches_the_socket_with_its_port_behind_the_path() {
        let folder = Folder::new("out");
        let mut host = Unix::new(&folder.0.join("v")).unwrap();
        let refused = host.connect(80, Kind::Stream).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        let listener = UnixListener::bind(folder.0.join("v_80")).unwrap();
        assert!(matches!(host.connect(80, Kind::Stream), Ok(Connect::Done(_))));
        listener.accept().unwrap();
        assert!(
            host.connect(80, Kind::Seqpacket).is_err(),
            "another type of socket"
        );
    }

    #[test]
    fn a_process_arrives_without_a_port() {
        let folder = Folder::new("in");
        let mut host = Unix::new(&folder.0.join("v")).unwrap();
        assert_eq!(host.accept(0).unwrap_err().kind(), ErrorKind::WouldBlock);
        let _client = UnixStream::connect(folder.0.join("v")).unwrap();
        let arrival = host.accept(0).unwrap();
        assert_eq!((arrival.kind, arrival.port), (Kind::Stream, None));
        assert_eq!(host.listeners().len(), 2);
    }

    #[test]
    fn only_a_socket_that_nobody_listens_at_is_replaced() {
        let folder = Folder::new("stale");
        let path = folder.0.join("v");
        drop(UnixListener::bind(&path).unwrap());
        let host = Unix::new(&path).unwrap();
        let error = Unix::new(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(host);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let error = Unix::new(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
