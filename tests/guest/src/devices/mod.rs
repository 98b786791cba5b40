// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the agent does with each device: one file per device, one line here.

use crate::task::Task;

mod blk;
mod gpio;
mod i2c;
mod input;
mod rng;
mod vsock;

/// Every device's task by the device's name.
pub(crate) const ALL: &[(&str, Task)] = &[
    ("blk", blk::run),
    ("gpio", gpio::run),
    ("i2c", i2c::run),
    ("input", input::run),
    ("rng", rng::run),
    ("vsock", vsock::run),
];
