// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Steps on files, which most hardware is in the kernel's file systems.

use super::LIMIT;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// `["A", "B"]`.
pub(super) fn pair(value: &Value) -> anyhow::Result<(&str, &str)> {
    value[0]
        .as_str()
        .zip(value[1].as_str())
        .context("not two strings")
}

pub(super) fn write(step: &Value) -> anyhow::Result<Value> {
    let (path, text) = pair(step)?;
    std::fs::write(path, text).with_context(|| path.to_owned())?;
    Ok(Value::Null)
}

pub(super) fn expect(step: &Value) -> anyhow::Result<Value> {
    wait(step, |content, text| content.trim() == text)
}

pub(super) fn contains(step: &Value) -> anyhow::Result<Value> {
    wait(step, |content, text| content.contains(text))
}

pub(super) fn lacks(step: &Value) -> anyhow::Result<Value> {
    wait(step, |content, text| !content.contains(text))
}

/// Waits until the file is as it should.
fn wait(step: &Value, good: impl Fn(&str, &str) -> bool) -> anyhow::Result<Value> {
    let (path, text) = pair(step)?;
    let end = Instant::now() + LIMIT;
    loop {
        let content = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
        if good(&content, text) {
            return Ok(Value::Null);
        }
        ensure!(
            Instant::now() < end,
            "after {} s there is: {content}",
            LIMIT.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
