// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask`: builds, tests and measures the workspace. This file only dispatches; one file per task.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod conform;
mod dist;
mod e2e;
mod house;
mod lab;
mod new_device;
mod run;
mod test;
mod tidy;
mod util;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, tests and measures the vhost-user devices"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boot a Linux guest in QEMU that uses one of the devices
    Run(run::Args),
    /// Run every test: unit, conformance and guests in the loop
    Test(test::Args),
    /// Run the tests with guests in the loop
    E2e(e2e::Args),
    /// Run the conformance table against any back end
    Conform(conform::Args),
    /// Measure a device beside its peer
    Bench(bench::Args),
    /// Build the test lab: kernels, QEMU, initramfs
    Lab(lab::Args),
    /// Formatting, lints, docs, dependencies and house rules
    Check(check::Args),
    /// The house rules: sizes, names, imports
    Tidy(tidy::Args),
    /// Make packages: Debian, RPM, container images, and what they are made of
    Dist(dist::Args),
    /// Start a new device from the shape of rng
    NewDevice(new_device::Args),
    /// Print the metrics of the house
    House(house::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Run(args) => run::run(args),
        Task::Test(args) => test::run(args),
        Task::E2e(args) => e2e::run(args),
        Task::Conform(args) => conform::run(args),
        Task::Bench(args) => bench::run(args),
        Task::Lab(args) => lab::run(args),
        Task::Check(args) => check::run(args),
        Task::Tidy(args) => tidy::run(args),
        Task::Dist(args) => dist::run(args),
        Task::NewDevice(args) => new_device::run(args),
        Task::House(args) => house::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
