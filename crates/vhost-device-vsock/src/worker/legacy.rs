// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest sent before it went, for those of the host and of its siblings who have not taken it yet.
//!
//! Since Linux 6.16 a guest that closes a socket waits until the device has its bytes, and not until they have arrived: it
//! may power off at once.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::PATIENCE;
use crate::connection::Connection;

/// What one guest left. There is one at a time, which bounds the memory that it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Legacy(Arc<AtomicBool>);

impl Legacy {
    /// Passes on what these connections hold, on a thread that ends with it.
    pub(super) fn pass_on(&self, connections: Vec<Connection>) {
        let mut connections: Vec<_> = connections
            .into_iter()
            .filter_map(Connection::bequeathed)
            .collect();
        if connections.is_empty() || self.0.swap(true, Ordering::AcqRel) {
            return;
        }
        let busy = self.0.clone();
        let spawned = vu_common::thread::spawn("legacy", move || {
            while !connections.is_empty() && write(&mut connections).unwrap_or(false) {}
            busy.store(false, Ordering::Release);
        });
        if let Err(e) = spawned {
            log::warn!("what the guest sent last is lost: {e}");
            self.0.store(false, Ordering::Release);
        }
    }
}

/// Writes to the sockets that take something, and drops those that have all; `false` if none takes any for long.
fn write(connections: &mut Vec<Connection>) -> io::Result<bool> {
    let mut fds: Vec<_> = connections
        .iter()
        .map(|connection| PollFd::new(&connection.socket, PollFlags::OUT))
        .collect();
    let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    let any = poll(&mut fds, Some(&patience))? > 0;
    let ready: Vec<_> = fds.iter().map(PollFd::revents).collect();
    let mut ready = ready.into_iter();
    connections.retain_mut(|connection| {
        let flags = ready.next().unwrap_or(PollFlags::empty());
        let hung_up = flags.contains(PollFlags::HUP);
        flags.is_empty() || connection.ready(false, true, hung_up).is_ok()
    });
    Ok(any)
}
