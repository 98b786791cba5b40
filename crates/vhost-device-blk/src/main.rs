// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon `vhost-device-blk`: options to disks, one for each socket; `vu-common` serves them.

use std::process::ExitCode;

use vhost_device_blk::{ABOUT, BlkArgs, backend};

fn main() -> ExitCode {
    vu_common::main(&ABOUT, |args: &BlkArgs| {
        args.disks()?.iter().map(backend::open).collect()
    })
}
