// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon `vhost-device-i2c`: options to devices, one bus for each socket; `vu-common` serves them.

use std::process::ExitCode;

use vhost_device_i2c::{ABOUT, I2cArgs};

fn main() -> ExitCode {
    vu_common::main(&ABOUT, I2cArgs::open)
}
