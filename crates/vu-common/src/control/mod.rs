// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control socket: what a daemon does, and what it is to do, in JSON lines.

use std::sync::Weak;

use crate::args::CommonArgs;
use crate::device::Device;
use crate::error::SetupError;

/// A control socket that listens, not served yet: made before the daemon is confined.
pub(crate) struct Control {}

impl Control {
    /// Listens where the arguments say, if they do.
    pub(crate) fn listen(_args: &CommonArgs) -> Result<Option<Self>, SetupError> {
        Ok(None)
    }

    /// Serves `devices` on a thread of its own.
    pub(crate) fn serve<D: Device>(self, _devices: Vec<Weak<D>>) -> Result<(), SetupError> {
        Ok(())
    }
}
