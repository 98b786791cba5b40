// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program `vhost-device-ctl`: one command to the control socket of one daemon.
//!
//! | file | what it answers |
//! |---|---|
//! | `args.rs` | the commands, and what each does |
//! | `client.rs` | how a daemon is asked |
//! | `text.rs` | what people read |
//! | `prometheus.rs` | what Prometheus reads |
#![forbid(unsafe_code)]

mod args;
mod client;
mod prometheus;
mod text;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

fn main() -> ExitCode {
    match args::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
