// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NBD disks: against servers that others wrote, servers that go and come back, and servers that lie.

#[path = "../support/mod.rs"]
mod support;

mod features;
mod hostile;
mod reconnect;
mod server;
