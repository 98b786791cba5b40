// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench`: our daemon and its peer under the same driver, in turn.
//!
//! Absolute numbers depend on the machine and its mood; the rounds of both daemons alternate, and what is printed for
//! the record are the ratios of each round's pair. One file per device says what to measure:
//!
//! - `rng.rs`, `gpio.rs` and `i2c.rs` under the driver of `vu-testkit`, by `pair.rs`
//! - `input/` beside a relay that does nothing but wake, for no peer runs without a device of the host
//! - `vsock/` under a driver with connections, by `pair.rs`
//! - `blk/` under a driver that is not ours, with disks of several kinds
//! - `cpus.rs` keeps driver and daemons apart
//! - `report.rs` and `plot.rs` print the ratios and draw them

use anyhow::Result;

mod blk;
mod cpus;
mod gpio;
mod i2c;
mod input;
mod pair;
mod plot;
mod report;
mod rng;
mod vsock;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    device: Device,
}

#[derive(clap::Subcommand)]
enum Device {
    /// The entropy device beside rust-vmm's
    Rng(pair::Args),
    /// The GPIO device beside rust-vmm's
    Gpio(pair::Args),
    /// The I2C adapter beside rust-vmm's
    I2c(pair::Args),
    /// The input device: latency, events per second, and that no key edge is lost
    Input(input::Args),
    /// The socket device beside rust-vmm's
    Vsock(pair::Args),
    /// The block device beside qemu-storage-daemon
    Blk(blk::Args),
}

/// One line of the result: a value per round for each of the two.
pub(crate) struct Row {
    title: String,
    unit: &'static str,
    higher_is_better: bool,
    /// How many times better ours shall be at least.
    goal: Option<f64>,
    pairs: Vec<(f64, f64)>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.device {
        Device::Rng(args) => rng::run(&args),
        Device::Gpio(args) => gpio::run(&args),
        Device::I2c(args) => i2c::run(&args),
        Device::Input(args) => input::run(&args),
        Device::Vsock(args) => vsock::run(&args),
        Device::Blk(args) => blk::run(&args),
    }
}
