// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads a vhost-user block device for a while and prints what it took as one line of JSON.
//!
//! The driver and the front end are those of the crate `virtio-driver`, which knows nothing of our back ends.
//! `cargo xtask bench blk` starts this program anew for each measurement; it can be used alone, too:
//!
//! ```console
//! $ vu-bench --socket /run/disk.sock --pid 4711 --write --depth 32 --cpus 0
//! ```
//!
//! - `load.rs` one measurement from the connection to the result
//! - `lane.rs` the closed loop of one queue
//! - `buffers.rs` the memory that requests read and write
//! - `histogram.rs` latencies
//! - `host.rs` CPU time of the daemon, of this process, of all others

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

mod buffers;
mod histogram;
mod host;
mod lane;
mod load;

/// Loads a vhost-user block device through the virtio-driver crate.
#[derive(Parser)]
struct Args {
    /// Socket of the daemon
    #[arg(long)]
    socket: String,
    /// Process id of the daemon, whose CPU time is counted
    #[arg(long)]
    pid: u32,
    /// Write instead of reading
    #[arg(long)]
    write: bool,
    /// One after the other instead of at random
    #[arg(long)]
    sequential: bool,
    /// Bytes per request, a multiple of 512
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Requests in flight in each queue
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Number of queues, a thread for each
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// Entries of each queue; a request takes three
    #[arg(long, default_value_t = 512)]
    queue_size: u16,
    /// Milliseconds of load before anything is counted
    #[arg(long, default_value_t = 100)]
    warm_up: u64,
    /// Milliseconds that are counted
    #[arg(long, default_value_t = 500)]
    time: u64,
    /// CPUs of this process, e.g. 0,2; all without it
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Look at the used ring all the time instead of waiting for an interrupt
    #[arg(long)]
    poll: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done: Result<()> = load::run(&args).map(|result| println!("{result}"));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
