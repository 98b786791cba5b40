// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user GPIO device: a guest sees lines of the host, or of a simulated board when there is none.
//!
//! | file | what it answers |
//! |---|---|
//! | `main.rs` | what the daemon opens: one chip for each socket |
//! | `args.rs` | the options, their defaults and their checks |
//! | `spec.rs` | the constants of the specification |
//! | `request.rs` | bytes to checked requests |
//! | `config.rs` | the configuration space, and the block of names |
//! | `irq.rs` | the interrupt of one line: enabled, masked, latched |
//! | `lines.rs` | what the driver has told of each line |
//! | `worker.rs` | what a message means, and what the driver gets |
//! | `device.rs` | the fixed facts, and where the lines are between two guests |
//! | `backend/` | the host side: the trait, and one file for each kind of chip |
#![forbid(unsafe_code)]

mod args;
pub mod backend;
mod config;
mod device;
mod irq;
mod lines;
mod request;
mod spec;
mod worker;

pub use args::{ChipSource, GpioArgs};
pub use device::{ABOUT, Gpio, OnDisconnect};
pub use request::{Direction, Line, Malformed, Request, Trigger};
pub use worker::GpioWorker;
