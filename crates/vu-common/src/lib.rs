// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shared ground of the vhost-device daemons, and the only crate that knows the vhost-user protocol.
//!
//! A device author writes a [`Device`] and its [`Worker`], and gets requests as [`Chain`]s; the
//! contract is below. The life of one request:
//!
//! 1. `serve` accepts a front end, and `connection` reads its messages; `handler` makes of them a
//!    `session`: guest memory, virtqueues, features.
//! 2. A kick wakes the thread of the virtqueue (`worker`, `poller`), which calls [`Worker::queue`]: a `turn`,
//!    during which the thread owns the rings of its `group`.
//! 3. [`Cx::pop`] takes a head off the available ring (`turn`, `flow`, `ring`), walks and checks its descriptors
//!    (`chain`, `memory`) and notes it in the in-flight region (`inflight`).
//! 4. The device reads it with a [`Reader`], acts, and writes its answer with a [`Writer`] (`cursor`).
//! 5. [`Chain::complete`] hands it to the turn, or wakes the worker for it from another thread. The turn fills
//!    the used ring; at its end the index is published once and the driver interrupted at most once (`flow`).
//!    While a migration runs, `dirty` marks the pages written.
//!
//! A malformed chain costs the driver that one buffer; a broken ring stops its virtqueue; neither ends the
//! process. The chores of a daemon have a file each: `args`, `socket`, `about`, `generate`, `sandbox`, `control`, `signal`, `log`,
//! `notify`, `pid_file`, `sigbus`, `shutdown`.
//!
#![doc = include_str!("../README.md")]

// The fields of rings are little-endian (virtio 1.3, section 1.4), and they are used as they lie in memory.
#[cfg(not(target_endian = "little"))]
compile_error!("vu-common needs a little-endian host");

mod about;
mod args;
mod chain;
mod connection;
mod control;
mod counters;
mod cursor;
mod cx;
mod daemon;
mod device;
mod dirty;
mod error;
mod flow;
mod frontend;
mod generate;
mod group;
mod handler;
mod inflight;
#[doc(hidden)]
pub mod log;
mod memory;
mod notify;
mod pid_file;
mod poller;
mod queue;
mod ring;
mod sandbox;
mod segments;
mod serve;
mod session;
mod shutdown;
mod sigbus;
mod signal;
mod socket;
mod socket_path;
mod spin;
mod state;
pub mod thread;
mod turn;
mod worker;

pub use about::{About, Command};
pub use args::{CommonArgs, queue_size};
pub use chain::Chain;
pub use control::CommandRequest;
pub use cursor::{Reader, Writer};
pub use cx::{Cx, Interest, Ready, Token, Waker};
pub use daemon::main;
pub use device::{Device, Migration, Refused, Spec, Start, Worker};
pub use error::SetupError;
pub use frontend::ConfigChange;
pub use sandbox::{Access, Needs};
pub use segments::Segments;
pub use serve::serve_stream;
pub use socket_path::{SocketPath, listen};
