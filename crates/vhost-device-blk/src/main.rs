// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon `vhost-device-blk`: options to disks, one for each socket; `vu-common` serves them.

use std::process::ExitCode;

use vhost_device_blk::{BlkArgs, CAPABILITIES, backend};

fn main() -> ExitCode {
    vu_common::main(&CAPABILITIES, |args: &BlkArgs| {
        args.disks()?.iter().map(backend::open).collect()
    })
}
