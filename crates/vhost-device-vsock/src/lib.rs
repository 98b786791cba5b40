// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user socket device: streams and messages between a guest, its host and its siblings.
//!
//! | file | what it answers |
//! |---|---|
//! | `main.rs` | what the daemon opens: the sockets around each guest |
//! | `args.rs` | the options, their defaults and their checks |
//! | `spec.rs` | the wire format |
//! | `request.rs` | bytes to checked packets, and back |
//! | `credit.rs` | how much may be under way |
//! | `connection.rs` | the life of one connection |
//! | `backlog.rs` | what waits for the host |
//! | `pace.rs` | how often to read from who writes little at a time |
//! | `socket.rs` | the host's end of a connection |
//! | `network.rs` | guests that may speak to each other |
//! | `device.rs` | what there is for one guest, and how its packets are answered |
//! | `worker/` | the data path |
//! | `backend/` | the host side: the trait, and one file for each kind of sockets |
#![forbid(unsafe_code)]

mod args;
pub mod backend;
mod backlog;
mod connection;
mod credit;
mod device;
mod network;
mod pace;
mod request;
mod socket;
mod spec;
mod worker;

pub use args::VsockArgs;
pub use device::{ABOUT, Vsock};
pub use network::Network;
pub use request::{Address, Flow, Kind, Malformed, Op, Packet, Reset, Room};
pub use worker::{Bounds, VsockWorker};
