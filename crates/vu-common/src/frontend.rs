// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The back end's own channel to the front end (VHOST_USER_SET_BACKEND_REQ_FD).

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::SendFlags;

/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG with protocol version 1 and no payload.
const CONFIG_CHANGE: [u32; 3] = [2, 1, 0];

/// Tells the front end, and by it the driver, that the configuration space changed. May be cloned and kept.
#[derive(Clone, Debug, Default)]
pub struct ConfigChange(Arc<Mutex<Option<OwnedFd>>>);

impl ConfigChange {
    /// The channel that the front end passed, or `None` when it goes.
    pub(crate) fn connect(&self, channel: Option<OwnedFd>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = channel;
    }

    /// Sends the message. Never blocks: a front end that does not read its channel misses it, with a warning here.
    pub fn notify(&self) {
        let channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(channel) = channel.as_ref() else {
            log::debug!("no front end to tell of a configuration change");
            return;
        };
        let message: Vec<u8> = CONFIG_CHANGE.iter().flat_map(|word| word.to_ne_bytes()).collect();
        if let Err(e) = rustix::net::send(channel, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            log::warn!("cannot tell the front end of a configuration change: {e}");
        }
    }
}
