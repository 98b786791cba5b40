// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon `vhost-device-vsock`: options to devices, one guest for each socket; `vu-common` serves them.

use std::process::ExitCode;

use vhost_device_vsock::{ABOUT, VsockArgs};

fn main() -> ExitCode {
    vu_common::main(&ABOUT, VsockArgs::open)
}
