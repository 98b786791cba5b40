// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Level interrupts, which only the kernel can ask for: by the module `lab_level`.
//!
//! `level,line=N,module=PATH,out=M,stop=K`: has it take the interrupt of line N, which must not come before the event
//! `armed`. Drives line M high when it has come [`REPEATS`] times, and waits until line K has an edge. Finds its `count`,
//! and how often it came `more` in the time after that.

use super::{Level, PATIENCE, inputs, output};
use crate::task::Options;
use crate::{modules, report};
use anyhow::{Context, ensure};
use gpiocdev::line::EdgeDetection;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the interrupt has to come until we take it for one that repeats.
const REPEATS: u64 = 5;

/// How long an interrupt must not come that should not.
const QUIET: Duration = Duration::from_millis(500);

const COUNT: &str = "/sys/module/lab_level/parameters/count";

pub(super) fn level(options: &Options) -> anyhow::Result<Value> {
    let out = options.get("out", 1)?;
    let output = output(options, out, Level::Inactive)?;
    let stop = inputs(options, &[options.get("stop", 2)?], EdgeDetection::BothEdges)?;
    let module = options.get("module", PathBuf::new())?;
    let line: u32 = options.get("line", 0)?;
    modules::insert(&module, &format!("line={line}")).with_context(|| module.display().to_string())?;
    std::thread::sleep(QUIET);
    ensure!(count()? == 0, "an interrupt without a reason");
    report::event("armed", Value::Null);
    let end = Instant::now() + PATIENCE;
    while count()? < REPEATS {
        ensure!(Instant::now() < end, "the interrupt came only {} times", count()?);
        std::thread::sleep(Duration::from_millis(5));
    }
    output.set_value(out, Level::Active)?;
    ensure!(stop.wait_edge_event(PATIENCE)?, "waited in vain for an edge");
    let before = count()?;
    std::thread::sleep(QUIET);
    let more = count()? - before;
    modules::remove("lab_level")?;
    Ok(json!({ "count": before, "more": more }))
}

fn count() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(COUNT).context(COUNT)?;
    Ok(text.trim().parse()?)
}
