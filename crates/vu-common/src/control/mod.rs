// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control socket (`--control-socket`): what a daemon does, and what it is to do.
//!
//! A client sends a request on one line and reads a reply on one line; both are JSON. It may go on with the next.
//!
//! ```text
//! {"command":"status"}
//! {"api":1,"ok":true,"result":{"name":"rng","pid":4711,...}}
//! {"command":"fly"}
//! {"api":1,"ok":false,"error":"fly: no such command (known: commands, quit, refresh, set-log-level, stats, status, version)"}
//! ```
//!
//! A device's own commands stand beside these ([`About::commands`](crate::About::commands)). A daemon with several sockets has to be
//! told which is meant, by `"socket":N` from 0 on.
//!
//! Whoever may connect may end the daemon, so the socket is for its owner only. The data path knows nothing of it: a question
//! holds a device up for as long as it takes to copy its counters.

mod command;
mod request;
mod server;
mod slot;

use std::os::unix::net::UnixListener;
use std::sync::{Arc, Weak};

use crate::about::Command;
use crate::args::CommonArgs;
use crate::device::Device;
use crate::error::SetupError;
use crate::shutdown::Shutdown;
use crate::socket_path::{self, SocketPath};
pub use request::CommandRequest;
pub(crate) use slot::Slot;

/// A device that is served, and its front end.
pub(crate) struct Served<D: Device> {
    /// Not to keep it: what a device holds is released when its connection was the last one.
    pub(crate) device: Weak<D>,
    pub(crate) slot: Arc<Slot<D>>,
}

impl<D: Device> Clone for Served<D> {
    fn clone(&self) -> Self {
        Self {
            device: self.device.clone(),
            slot: self.slot.clone(),
        }
    }
}

/// A control socket that listens and is not served yet: it is bound before the daemon is confined.
pub(crate) struct Control {
    listener: UnixListener,
    entry: SocketPath,
    own: &'static [Command],
}

impl Control {
    /// Listens where the arguments say, if they do; the device has commands of its `own`.
    pub(crate) fn listen(args: &CommonArgs, own: &'static [Command]) -> Result<Option<Self>, SetupError> {
        let Some(path) = &args.control_socket else {
            return Ok(None);
        };
        let (listener, entry) = socket_path::listen(path)?;
        Ok(Some(Self { listener, entry, own }))
    }

    /// Serves on a thread of its own, until the process ends; the socket goes with what is returned.
    pub(crate) fn serve<D: Device>(
        self,
        served: Vec<Served<D>>,
        shutdown: Arc<Shutdown>,
    ) -> Result<SocketPath, SetupError> {
        let commands = command::Commands::new(self.own, served, shutdown);
        server::start(self.listener, commands).map_err(|source| SetupError::System {
            what: "start a thread",
            source,
        })?;
        Ok(self.entry)
    }
}
