// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tells the service manager how far the daemon is: the protocol of sd_notify(3).
//!
//! Nothing happens without `NOTIFY_SOCKET` in the environment, and a manager that does not listen is
//! worth a warning but never stops a guest.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The connection to the manager, kept because a sandbox may hide the socket's path later.
static MANAGER: OnceLock<Option<UnixDatagram>> = OnceLock::new();

/// What `--ready-fd` gave, until it is used.
static WAITS: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Somebody else waits for the daemon to be ready: at `fd`.
pub(crate) fn also(fd: OwnedFd) {
    *WAITS.lock().unwrap_or_else(PoisonError::into_inner) = Some(fd);
}

/// The daemon listens, or has taken its connection: front ends may come.
pub(crate) fn ready() {
    send("READY=1\nSTATUS=Waiting for a front end");
    let waits = WAITS.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Err(error)) = waits.map(|fd| rustix::io::write(fd, b"\n")) {
        log::warn!("cannot tell --ready-fd that front ends may come: {error}");
    }
}

/// So many front ends are connected.
pub(crate) fn connected(count: usize) {
    send(&format!("STATUS=Front ends connected: {count}"));
}

/// How often the manager is to hear that the daemon is alive, at least.
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let ours = env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(process::id().into());
    let micros = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0)?;
    // Twice as often, as sd_watchdog_enabled(3) advises.
    Some(Duration::from_micros(micros.div_ceil(2)))
}

/// The daemon is alive.
pub(crate) fn alive() {
    send("WATCHDOG=1");
}

/// The daemon is about to end.
pub(crate) fn stopping() {
    send("STOPPING=1");
}

/// Connects to the manager now: later nothing of it may be within reach.
pub(crate) fn prepare() {
    manager();
}

fn manager() -> Option<&'static UnixDatagram> {
    let connected = || {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        connect(&name)
            .inspect_err(|error| log::warn!("NOTIFY_SOCKET {}: {error}", name.display()))
            .ok()
    };
    MANAGER.get_or_init(connected).as_ref()
}

fn send(state: &str) {
    if let Some(Err(error)) = manager().map(|manager| manager.send(state.as_bytes())) {
        log::warn!("cannot send {state} to the service manager: {error}");
    }
}

/// A datagram socket connected to `name`: a path, or `@` and the name of an abstract socket.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "neither a path nor an abstract socket",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::{env, fs, process};

    use super::connect;

    fn assert_arrives(manager: &UnixDatagram, name: &str) {
        connect(&OsString::from(name)).unwrap().send(b"READY=1").unwrap();
        let mut message = [0; 64];
        let len = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..len], b"READY=1");
    }

    #[test]
    fn a_path_is_reached() {
        let path = env::temp_dir().join(format!("vu-notify-{}", process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        assert_arrives(&manager, path.to_str().unwrap());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("vu-notify-{}", process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert_arrives(&manager, &format!("@{name}"));
    }

    #[test]
    fn other_addresses_are_refused() {
        for name in ["vsock:2:1234", "notify"] {
            let error = connect(&OsString::from(name)).unwrap_err();
            assert_eq!(error.to_string(), "neither a path nor an abstract socket");
        }
    }
}
