// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-input with the virtio_input driver of real guests.

mod host;
mod sim;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use vu_e2e::daemon::{self, Profile};

/// The virtio device id of an input device.
const ID: u32 = 18;

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-input", Profile::Debug).unwrap())
}
