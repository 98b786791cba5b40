// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon `vhost-device-input`: options to devices, one for each socket; `vu-common` serves them.

use std::process::ExitCode;

use vhost_device_input::{ABOUT, Input, InputArgs};

fn main() -> ExitCode {
    vu_common::main(&ABOUT, |args: &InputArgs| -> anyhow::Result<Vec<Input>> {
        Ok(args.sources()?.into_iter().map(Input::new).collect())
    })
}
