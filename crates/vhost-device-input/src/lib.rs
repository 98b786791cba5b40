// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user input device: a guest gets a keyboard, a mouse or a touch screen of the host, or a simulated one.
//!
//! | file | what it answers |
//! |---|---|
//! | `main.rs` | what the daemon opens: one device for each socket |
//! | `args.rs` | the options, their defaults and their checks |
//! | `spec.rs` | the constants of the specification, and of evdev |
//! | `request.rs` | events, to and from bytes |
//! | `config.rs` | what a device is and can do, and the configuration space that tells it |
//! | `state.rs` | what is pressed and touched, and the events from one such state to another |
//! | `backlog.rs` | what becomes of frames that wait for buffers |
//! | `worker.rs` | events to the guest, LEDs and sounds from it |
//! | `device.rs` | the fixed facts, and where the source is between two guests |
//! | `backend/` | the host side: the trait, evdev, and the simulated devices |

mod args;
pub mod backend;
mod backlog;
mod config;
mod device;
mod request;
mod spec;
mod state;
mod worker;

pub use args::{InputArgs, Replay, SourceName};
pub use config::{Axis, Bits, Description};
pub use device::{ABOUT, Input};
pub use request::Event;
pub use state::State;
pub use worker::InputWorker;
