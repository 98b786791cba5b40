// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon `vhost-device-rng`: options to devices, one for each socket; `vu-common` serves them.

use std::process::ExitCode;

use vhost_device_rng::{ABOUT, Rng, RngArgs, backend};

fn main() -> ExitCode {
    vu_common::main(&ABOUT, open)
}

/// One source for the whole process, one device with its own limit for each socket.
fn open(args: &RngArgs) -> anyhow::Result<Vec<Rng>> {
    let backend = backend::open(&args.source)?;
    Ok((0..args.common.sockets())
        .map(|_| Rng::new(backend.clone(), args.limit()))
        .collect())
}
