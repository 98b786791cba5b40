// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The step `toggle`: two values written to a file in turn, as fast as it goes.
//!
//! `{"file": PATH, "values": [A, B], "times": N}` writes A, B, A, .. N times, with no regard to anybody.
//!
//! `{"file": PATH, "values": [A, B], "seconds": S, "reply": PATH, "replies": [C, D]}` waits each time until the other
//! file has C after A, and D after B, and goes on so for S seconds. That file belongs to who reacts to the first one.
//!
//! Finds how many `times`, and the `seconds` that it took.

use super::LIMIT;
use super::files::pair;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

pub(super) fn run(step: &Value) -> anyhow::Result<Value> {
    let (first, second) = pair(&step["values"])?;
    let path = step["file"].as_str().context("no file")?;
    let file = File::options()
        .write(true)
        .open(path)
        .with_context(|| path.to_owned())?;
    let start = Instant::now();
    let end = Duration::from_secs(step["seconds"].as_u64().unwrap_or(u64::MAX));
    let most = step["times"].as_u64().unwrap_or(u64::MAX);
    let mut reply = step["reply"]
        .as_str()
        .map(|path| Reply::open(path, &step["replies"]))
        .transpose()?;
    let mut times = 0;
    while times < most && start.elapsed() < end {
        let even = times % 2 == 0;
        let value = if even { first } else { second };
        file.write_all_at(value.as_bytes(), 0)
            .with_context(|| path.to_owned())?;
        if let Some(reply) = &mut reply {
            reply.wait(even).with_context(|| format!("after {times} times"))?;
        }
        times += 1;
    }
    Ok(json!({ "times": times, "seconds": start.elapsed().as_secs_f64() }))
}

/// The file that changes in reaction.
struct Reply<'a> {
    file: File,
    values: (&'a str, &'a str),
}

impl<'a> Reply<'a> {
    fn open(path: &str, values: &'a Value) -> anyhow::Result<Self> {
        Ok(Self {
            file: File::open(path).with_context(|| path.to_owned())?,
            values: pair(values)?,
        })
    }

    fn wait(&mut self, first: bool) -> anyhow::Result<()> {
        let wanted = if first { self.values.0 } else { self.values.1 };
        let end = Instant::now() + LIMIT;
        let mut buffer = [0; 64];
        loop {
            let n = self.file.read_at(&mut buffer, 0)?;
            if buffer[..n].trim_ascii() == wanted.as_bytes() {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "no reaction {wanted} in {} s",
                LIMIT.as_secs()
            );
            // Who reacts is on the same CPU.
            std::thread::yield_now();
        }
    }
}
