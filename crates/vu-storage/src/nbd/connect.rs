// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From an address to a socket on which an export can be used. All of this waits, up to a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with, sockopt,
};

use vu_common::{Access, Needs};

use super::handshake::{Export, HandshakeError, negotiate};
use super::spec::{CMD_DISC, request};
use super::uri::Address;

/// After this long without an answer to probes, a host is taken to have gone.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 4);

/// Where a server listens, found once: a daemon that is confined cannot ask for the addresses of a name.
#[derive(Debug)]
pub(super) enum Server {
    /// The addresses of its host.
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

impl Server {
    pub(super) fn find(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(host, port) => Self::Tcp((host.as_str(), *port).to_socket_addrs()?.collect()),
            // The working directory will be another one.
            Address::Unix(path) if is_abstract(path) => Self::Unix(path.clone()),
            Address::Unix(path) => Self::Unix(std::path::absolute(path)?),
        })
    }

    /// What it takes to connect again.
    pub(super) fn needs(&self) -> Needs {
        let needs = Needs::default();
        match self {
            Self::Tcp(_) => needs.sockets(libc::AF_INET).sockets(libc::AF_INET6),
            Self::Unix(path) if is_abstract(path) => needs.sockets(libc::AF_UNIX).host_network(),
            Self::Unix(path) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                needs.sockets(libc::AF_UNIX).path(folder, Access::Connect)
            }
        }
    }
}

fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"\0")
}

/// Connects to `server` and chooses `export`, at the latest by `end`. The socket does not block.
pub(super) fn open_export(
    server: &Server,
    export: &str,
    end: Instant,
) -> Result<(OwnedFd, Export), HandshakeError> {
    let socket = match server {
        Server::Tcp(addresses) => tcp(addresses, end)?,
        Server::Unix(path) => unix(path)?,
    };
    let mut stream = Timed { socket, end };
    let export = negotiate(&mut stream, export)?;
    Ok((stream.socket, export))
}

/// Says good-bye; whether that arrives does not matter.
pub(super) fn disconnect(socket: &OwnedFd) {
    let _ = send(socket, &request(0, CMD_DISC, 0, 0, 0), SendFlags::NOSIGNAL);
}

/// Tries all `addresses`.
fn tcp(addresses: &[SocketAddr], end: Instant) -> io::Result<OwnedFd> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "no address of this name");
    for address in addresses {
        match TcpStream::connect_timeout(address, left(end)?) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let (idle, interval, count) = KEEPALIVE;
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, idle)?;
                sockopt::set_tcp_keepintvl(&stream, interval)?;
                sockopt::set_tcp_keepcnt(&stream, count)?;
                // The same for what was sent and not acknowledged.
                let silence = idle + interval * count;
                sockopt::set_tcp_user_timeout(&stream, silence.as_millis() as u32)?;
                return Ok(stream.into());
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A server whose backlog is full refuses at once: this never waits.
fn unix(path: &Path) -> io::Result<OwnedFd> {
    let bytes = path.as_os_str().as_bytes();
    let address = match bytes.strip_prefix(b"\0") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// What is left until `end`.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
    }
    Ok(left)
}

/// A socket that does not block, as a stream that does until `end`.
struct Timed {
    socket: OwnedFd,
    end: Instant,
}

impl Timed {
    /// Repeats `call` until it does not say that it would block.
    fn until(
        &self,
        flags: PollFlags,
        mut call: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match call() {
                Err(rustix::io::Errno::AGAIN) => {
                    let timeout = Timespec::try_from(left(self.end)?).map_err(io::Error::other)?;
                    match poll(&mut [PollFd::new(&self.socket, flags)], Some(&timeout)) {
                        Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
                        _ => {}
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
            // A server that sends a byte now and then does not get more time.
            left(self.end)?;
        }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket.as_fd();
        self.until(PollFlags::IN, || {
            recv(socket, &mut *bytes, RecvFlags::empty()).map(|(got, _)| got)
        })
    }

    fn read_exact(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.read(bytes)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up")),
                got => bytes = &mut bytes[got..],
            }
            left(self.end)?;
        }
        Ok(())
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until(PollFlags::OUT, || send(&self.socket, bytes, SendFlags::NOSIGNAL))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
