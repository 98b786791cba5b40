// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Confines the daemon once all that it needs is open.

use crate::args::CommonArgs;
use crate::error::SetupError;

/// What a device still needs of the host once the daemon is confined.
#[derive(Clone, Debug, Default)]
pub struct Needs {}

/// Confines the whole process to `needs`.
pub(crate) fn confine(_args: &CommonArgs, _needs: &[Needs]) -> Result<(), SetupError> {
    Ok(())
}
