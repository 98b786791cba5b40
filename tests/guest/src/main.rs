// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Init and agent of the test guest, in one static program.
//!
//! As PID 1 it sets the machine up and runs what the kernel command line asks for (see [`init`]). Started as
//! `vu-guest TASK`, which is what init does for each task, it runs that one task and reports the result as a line
//! of JSON. A task in a process of its own cannot take init with it, and closes every device when it ends.

mod console;
mod devices;
mod host;
mod init;
mod modules;
mod mounts;
mod report;
mod shell;
mod task;

use std::process::ExitCode;

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        init::run()
    }
    match std::env::args().nth(1) {
        Some(line) => task::run(&line),
        None => {
            eprintln!(
                "usage: vu-guest TASK[,KEY=VALUE...] with a task of: {}",
                task::names()
            );
            ExitCode::FAILURE
        }
    }
}
