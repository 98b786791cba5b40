// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user block device: the disks of a virtual machine.
//!
//! A request's way through the files:
//!
//! | file | what it answers |
//! |---|---|
//! | `main.rs` | what the daemon opens: one disk for each socket |
//! | `args/` | the options, their defaults and their checks |
//! | `backend.rs` | which storage engine stands behind a disk, and how it is opened |
//! | `config.rs` | what is offered: feature bits, configuration space, and the bounds that follow from them |
//! | `spec.rs` | the wire: structures, types, status values |
//! | `request.rs` | bytes to a checked request |
//! | `device.rs` | what a request means, and the one table from faults and errors to the status |
//! | `worker.rs` | the data path of a thread: pop, submit, reap, complete |
//! | `bucket.rs` | how `--rate-iops` and `--rate-bps` meter the requests |
//!
//! The storage engines are in `vu-storage`, and know nothing of any of this. Tests beside those of the modules are
//! in `tests/`: they talk to the real daemon.
#![forbid(unsafe_code)]

mod args;
pub mod backend;
mod bucket;
pub mod config;
mod device;
pub mod request;
pub mod spec;
mod worker;

pub use args::{BlkArgs, CacheMode, Cpus, DiskArgs, DiskOptions, Format, NoDisk, Source};
pub use bucket::Rate;
pub use device::{ABOUT, Blk, Service};
pub use worker::BlkWorker;
