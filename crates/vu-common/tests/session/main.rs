// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A session as a front end and a driver see it, and as it calls the device: both ends in this process.

#[path = "../support/mod.rs"]
mod support;

mod chains;
mod events;
mod interrupts;
mod lifecycle;
mod memory;
mod messages;
mod migration;
mod polling;
mod recovery;
mod uring;
