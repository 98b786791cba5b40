// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts as only a driver of the kernel can take them: the module `lab_irq` has the one of line N.
//!
//! * `level,line=N,module=PATH,out=M,stop=K`: that of its high level, which must not come before the event `armed`.
//!   Drives line M high when it has come [`REPEATS`] times, and waits until line K has an edge. Finds its `count`, and how
//!   often it came `more` in the time after that.
//! * `edges,..`: that of both edges, with the line masked for [`PAUSE`] ms each time. Gives line M the level that line N
//!   had at the last interrupt, until line K has an edge. Finds the `count` of interrupts.

use super::{Level, PATIENCE, inputs, level as level_of, output};
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

/// How long a line stays masked, in milliseconds. In that time, a host drives it many times.
const PAUSE: u32 = 20;

const PARAMETERS: &str = "/sys/module/lab_irq/parameters";

pub(super) fn level(options: &Options) -> anyhow::Result<Value> {
    let out = options.get("out", 1)?;
    let output = output(options, out, Level::Inactive)?;
    let stop = inputs(options, &[options.get("stop", 2)?], EdgeDetection::BothEdges)?;
    insert(options, "")?;
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
    modules::remove("lab_irq")?;
    Ok(json!({ "count": before, "more": more }))
}

pub(super) fn edges(options: &Options) -> anyhow::Result<Value> {
    let out = options.get("out", 1)?;
    let output = output(options, out, Level::Inactive)?;
    let stop = inputs(options, &[options.get("stop", 2)?], EdgeDetection::BothEdges)?;
    insert(options, &format!("edges=1 pause_ms={PAUSE}"))?;
    report::event("armed", Value::Null);
    while !stop.wait_edge_event(Duration::from_millis(5))? {
        let high = parameter("level")? == "1";
        output.set_value(out, level_of(high))?;
    }
    let count = count()?;
    modules::remove("lab_irq")?;
    Ok(json!({ "count": count }))
}

/// Has the module take the interrupt of the line.
fn insert(options: &Options, parameters: &str) -> anyhow::Result<()> {
    let module = options.get("module", PathBuf::new())?;
    let line: u32 = options.get("line", 0)?;
    modules::insert(&module, &format!("line={line} {parameters}"))
        .with_context(|| module.display().to_string())
}

fn count() -> anyhow::Result<u64> {
    Ok(parameter("count")?.parse()?)
}

fn parameter(name: &str) -> anyhow::Result<String> {
    let path = format!("{PARAMETERS}/{name}");
    Ok(std::fs::read_to_string(&path).context(path)?.trim().to_owned())
}
