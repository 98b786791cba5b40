// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the agent does with each device: one file per device, one line here.

use crate::task::{Options, Task};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

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

/// The longest that a driver may take to find its device.
const PROBE: Duration = Duration::from_secs(20);

/// Runs the action that `do=` names, or else `usual`.
fn act(options: &Options, actions: &[(&str, Task)], usual: &str) -> anyhow::Result<Value> {
    let action: String = options.get("do", usual.to_owned())?;
    let found = actions.iter().find(|(name, _)| *name == action);
    let (_, act) = found.with_context(|| format!("do={action}: no such action"))?;
    act(options)
}

/// Waits until `path` is there.
fn appears(path: &Path) -> anyhow::Result<()> {
    let end = Instant::now() + PROBE;
    while !path.exists() {
        ensure!(
            Instant::now() < end,
            "no {} after {} s",
            path.display(),
            PROBE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
