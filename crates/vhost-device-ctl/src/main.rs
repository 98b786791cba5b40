// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program `vhost-device-ctl`: one command to the control socket of one daemon.
//!
//! | file | what it answers |
//! |---|---|
//! | `args.rs` | the commands, and what each does |
//! | `client.rs` | how a daemon is asked |
//! | `text.rs` | what people read |
//! | `prometheus.rs` | what Prometheus reads |
//! | `generate.rs` | the manual page and the completions |
#![forbid(unsafe_code)]

mod args;
mod client;
mod generate;
mod prometheus;
mod text;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

fn main() -> ExitCode {
    let result = match generate::asked() {
        Some(paper) => generate::paper(&paper).and_then(|paper| args::print(&paper)),
        None => args::run(&Args::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
