// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user I2C adapter: a guest talks to devices on a bus of the host, or on a simulated one when there is none.
//!
//! | file | what it answers |
//! |---|---|
//! | `main.rs` | what the daemon opens: one bus for each socket |
//! | `args.rs` | the options, their defaults and their checks |
//! | `allow.rs` | which addresses a guest may talk to |
//! | `spec.rs` | the constants of the specification |
//! | `request.rs` | bytes to checked requests |
//! | `group.rs` | requests that become one transfer, and their answers |
//! | `control.rs` | what somebody at the control socket does on a simulated bus |
//! | `device.rs` | what a request means, and what the driver gets |
//! | `bus_thread.rs` | a bus that may block, on a thread of its own |
//! | `backend/` | the host side: the trait, the host's buses and simulated ones |
//!
//! The device has no configuration space, so there is no `config.rs`.

mod allow;
mod args;
pub mod backend;
mod bus_thread;
mod control;
mod device;
mod group;
mod request;
mod spec;

pub use allow::{AllowList, ListError};
pub use args::{BusPlace, BusSource, I2cArgs, SourceError};
pub use device::{ABOUT, I2c, I2cWorker, Limits, MAX_GROUP};
pub use request::{Header, Malformed, Request};
