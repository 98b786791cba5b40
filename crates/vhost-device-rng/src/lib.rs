// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user entropy device: a virtual machine's random numbers from the host's.
//!
//! The simplest device of the suite, and the one to copy. A request's way through the files:
//!
//! | file | what it answers |
//! |---|---|
//! | `main.rs` | what the daemon opens: one source, one device for each socket |
//! | `args.rs` | the options, their defaults and their checks |
//! | `device.rs` | what a request means, and what the driver gets when the host has no bytes |
//! | `bucket.rs` | how `--max-bytes` and `--period` meter the bytes |
//! | `backend/` | the host side: the trait, and one file for each source |
//!
//! The device has no configuration space, no feature bits and no request header, so there is no
//! `config.rs`, `request.rs` or `spec.rs`. Tests are in `tests/`: `conformance.rs` is what every
//! device has to pass, `behaviour.rs` what is special to this one; both talk to the real daemon.
#![forbid(unsafe_code)]

mod args;
pub mod backend;
mod bucket;
mod device;

pub use args::{RngArgs, Source, SourceError};
pub use bucket::Limit;
pub use device::{ABOUT, MAX_ANSWER, Rng, RngWorker};
