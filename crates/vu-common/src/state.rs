// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's state beside the rings, moved over a pipe (vhost-user "Migrating back-end state").

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::device::Device;

/// Largest state that is taken in: a front end must not fill our memory.
const MAX_STATE: u64 = 64 << 20;

/// Which way a state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Save,
    Load,
}

/// A transfer under way, in a thread of its own since the pipe may block.
pub(crate) struct Transfer(JoinHandle<io::Result<()>>);

impl Transfer {
    pub(crate) fn start<D: Device>(direction: Direction, device: Arc<D>, pipe: File) -> io::Result<Self> {
        let name = format!("{direction:?}-state").to_lowercase();
        let work = move || match direction {
            Direction::Save => save(&*device, pipe),
            Direction::Load => load(&*device, pipe),
        };
        std::thread::Builder::new().name(name).spawn(work).map(Self)
    }

    /// Waits for its end (VHOST_USER_CHECK_DEVICE_STATE).
    pub(crate) fn finish(self) -> io::Result<()> {
        self.0
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the transfer of the device state panicked")))
    }
}

fn save<D: Device>(device: &D, mut pipe: File) -> io::Result<()> {
    pipe.write_all(&device.save()?)
}

fn load<D: Device>(device: &D, pipe: File) -> io::Result<()> {
    let mut state = Vec::new();
    pipe.take(MAX_STATE.saturating_add(1)).read_to_end(&mut state)?;
    if state.len() as u64 > MAX_STATE {
        return Err(io::Error::other(format!(
            "a device state of more than {MAX_STATE} bytes"
        )));
    }
    device.load(&state)
}
