// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's own `AF_VSOCK`, where its kernel has that: programs that know nothing of Unix sockets.
//!
//! What the guest sends to port N of the host goes to port N of one context id; some ports of the host lead to the same ports
//! of the guest.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, bind, connect, listen, socket};
use rustix::net::{SocketFlags, accept_with};
use vu_common::Needs;

use super::{Arrival, Connect, Host};
use crate::request::Kind;

/// Any context id of the host.
const ANY: u32 = u32::MAX;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 1024;

/// The host's `AF_VSOCK`.
pub struct Vsock {
    cid: u32,
    listeners: Vec<Listener>,
}

struct Listener {
    fd: OwnedFd,
    port: u32,
    kind: Kind,
}

impl Vsock {
    /// The guest's connections go to `cid`; those to `ports` of the host go to the guest.
    ///
    /// # Errors
    /// The kernel has no `AF_VSOCK`, or a port is taken.
    pub fn new(cid: u32, ports: &[u32]) -> io::Result<Self> {
        Needs::default().sockets(libc::AF_VSOCK).declare();
        Ok(Self {
            cid,
            listeners: ports
                .iter()
                .map(|port| Listener::new(*port))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Listener {
    /// A port of the host has one listener, of either type: this is for streams.
    fn new(port: u32) -> io::Result<Self> {
        let kind = Kind::Stream;
        let fd = open(kind)?;
        bind(fd.as_raw_fd(), &VsockAddr::new(ANY, port))?;
        listen(&fd, BACKLOG)?;
        Ok(Self { fd, port, kind })
    }
}

fn open(kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Stream => SockType::Stream,
        Kind::Seqpacket => SockType::SeqPacket,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Vsock, kind, flags, None)?)
}

impl Host for Vsock {
    fn connect(&mut self, port: u32, kind: Kind) -> io::Result<Connect> {
        let fd = open(kind)?;
        match connect(fd.as_raw_fd(), &VsockAddr::new(self.cid, port)) {
            Ok(()) => Ok(Connect::Done(fd)),
            Err(Errno::EINPROGRESS) => Ok(Connect::Started(fd)),
            Err(e) => Err(e.into()),
        }
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
            port: Some(listener.port),
        })
    }
}
