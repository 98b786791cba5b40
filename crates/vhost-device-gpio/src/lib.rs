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
//! | `device.rs` | what a message means, and what the driver gets |
//! | `backend/` | the host side: the trait, and one file for each kind of chip |
#![forbid(unsafe_code)]

mod args;
pub mod backend;
mod config;
mod device;
mod irq;
mod request;
mod spec;

pub use args::{ChipSource, GpioArgs};
pub use device::{CAPABILITIES, Gpio, GpioWorker, OnDisconnect};
pub use request::{Direction, Line, Malformed, Request, Trigger};
