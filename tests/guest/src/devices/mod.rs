// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the agent does with each device: one file per device, one line here.

use crate::task::Task;

mod blk;
mod bus;
mod lines;
mod rng;
mod vsock;

/// Every device's task by the device's name.
pub(crate) const ALL: &[(&str, Task)] = &[
    ("blk", blk::run),
    ("bus", bus::run),
    ("lines", lines::run),
    ("rng", rng::run),
    ("vsock", vsock::run),
];
