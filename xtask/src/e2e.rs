// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask e2e`: the tests with guests in the loop.

use std::num::NonZero;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::Result;
use vu_e2e::artifacts::{Lab, Part};

use crate::util;

/// Guests that run at the same time, where there are CPUs for them: each is pinned to one.
const LANES: usize = 2;

/// What a quick run needs of the lab.
const QUICK: [Part; 3] = [Part::Qemu, Part::Guest, Part::Debian];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the tests of this device, such as rng
    device: Option<String>,
    /// Only the tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Leave out the guests whose kernels are built from source
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    prepare(args.quick)?;
    let mut command = tests(args.device.as_deref(), args.quick)?;
    util::run(command.args(args.filter))
}

/// Builds what the guests need and what is not there yet.
pub(crate) fn prepare(quick: bool) -> Result<()> {
    let lab = Lab::open()?;
    let parts = if quick { &QUICK[..] } else { &Part::ALL };
    parts.iter().try_for_each(|part| lab.build(*part).map(drop))
}

/// The `cargo test` of one device, or of all; a filter may follow.
pub(crate) fn tests(device: Option<&str>, quick: bool) -> Result<Command> {
    let lanes = available_parallelism().map_or(1, NonZero::get).min(LANES);
    let mut command = util::cargo(&["test", "--no-fail-fast", "--package", "vu-e2e"])?;
    command.args(["--test", device.unwrap_or("*")]);
    command.arg("--").arg(format!("--test-threads={lanes}"));
    if quick {
        command.env("VU_QUICK", "1");
    }
    Ok(command)
}
