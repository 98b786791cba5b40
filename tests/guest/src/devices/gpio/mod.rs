// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines of a gpio chip in use, whatever the chip is.
//!
//! Options: `chip=PATH` (`/dev/gpiochip0`) and `do=ACTION`:
//! * `look`: the names and directions of all lines, and who uses them.
//! * `get,line=N`: the level of an input.
//! * `set,line=N,level=0|1`: drives a line; it is let go when the task ends. The event `set` says that it is driven.
//!   With `stop=K` that is when line K has an edge, which counts from the event `armed` on.
//! * `watch,line=N,edge=rising|falling|both,count=C`: waits for so many edges, and tells each as an event `edge`. The
//!   event `armed` says when an edge counts. Finds which `edges` came.
//! * `follow,in=N,out=M,stop=K`: gives line M the level that line N has at each of its edges, until line K has an edge,
//!   or until there were `count=C` of them. The event `armed` says when an edge counts. Finds the `edges` of N and its
//!   last `level`.
//! * `tour`: both `look` and `follow`.
//! * `drive,line=N,seconds=S`: drives a line as fast as it goes, for so long. The event `driving` says that it has begun.
//!   Finds how often it went `well` and how often it `failed`.
//! * `level` and `edges`: interrupts as drivers take them, see [`interrupt`].
//! * `keys,until=CODE`: tells each change of a key of gpio-keys as an event `key`, by its `code` and whether it is
//!   `pressed`, until one is released. The event `armed` says when a change counts.
//! * `light,name=NAME,level=0|1`: switches a light of leds-gpio, which stays so.

mod interrupt;

use crate::report;
use crate::task::{Options, Task};
use anyhow::{Context, bail, ensure};
use evdev::EventType;
use evdev::raw_stream::RawDevice;
use gpiocdev::chip::Chip;
use gpiocdev::line::{Direction, EdgeDetection, EdgeKind, Value as Level};
use gpiocdev::request::{Config, Request};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest that anybody may wait for an edge.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first input device: a guest whose lines have keys has no other.
const KEYS: &str = "/dev/input/event0";

const ACTIONS: &[(&str, Task)] = &[
    ("look", look),
    ("get", get),
    ("set", set),
    ("watch", watch),
    ("follow", follow),
    ("tour", tour),
    ("drive", drive),
    ("level", interrupt::level),
    ("edges", interrupt::edges),
    ("keys", keys),
    ("light", light),
];

/// Runs one action.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    super::act(options, ACTIONS, "look")
}

/// The chip's path, as soon as the driver has found it.
fn chip(options: &Options) -> anyhow::Result<PathBuf> {
    let path = options.get("chip", PathBuf::from("/dev/gpiochip0"))?;
    super::appears(&path)?;
    Ok(path)
}

fn look(options: &Options) -> anyhow::Result<Value> {
    let chip = Chip::from_path(chip(options)?)?;
    let info = chip.info()?;
    let lines = (0..info.num_lines)
        .map(|line| {
            let info = chip.line_info(line)?;
            Ok(json!({
                "name": info.name,
                "output": info.direction == Direction::Output,
                "consumer": info.consumer,
            }))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(json!({ "label": info.label, "lines": lines }))
}

fn get(options: &Options) -> anyhow::Result<Value> {
    let line = options.get("line", 0)?;
    let mut config = Config::default();
    config.on_chip(chip(options)?).with_line(line).as_input();
    let level = request(config)?.value(line)?;
    Ok(json!({ "level": u8::from(level == Level::Active) }))
}

fn set(options: &Options) -> anyhow::Result<Value> {
    let level = level(options.get("level", 1u8)? != 0);
    let request = output(options, options.get("line", 0)?, level)?;
    // The host looks while the line is ours.
    report::event("set", Value::Null);
    wait_for_stop(options)?;
    drop(request);
    Ok(Value::Null)
}

/// With `stop=K`, waits until line K has an edge.
fn wait_for_stop(options: &Options) -> anyhow::Result<()> {
    if !options.has("stop") {
        return Ok(());
    }
    let edges = inputs(options, &[options.get("stop", 0)?], EdgeDetection::BothEdges)?;
    report::event("armed", Value::Null);
    ensure!(edges.wait_edge_event(PATIENCE)?, "waited in vain for an edge");
    Ok(())
}

fn watch(options: &Options) -> anyhow::Result<Value> {
    let edge: String = options.get("edge", "both".to_owned())?;
    let edge = match edge.as_str() {
        "rising" => EdgeDetection::RisingEdge,
        "falling" => EdgeDetection::FallingEdge,
        "both" => EdgeDetection::BothEdges,
        other => bail!("edge={other}: not rising, falling or both"),
    };
    let lines = inputs(options, &[options.get("line", 0)?], edge)?;
    report::event("armed", Value::Null);
    let mut edges = Vec::new();
    for count in 0..options.get("count", 1u32)? {
        ensure!(
            lines.wait_edge_event(PATIENCE)?,
            "waited in vain for an edge after {count}"
        );
        let kind = match lines.read_edge_event()?.kind {
            EdgeKind::Rising => "rising",
            EdgeKind::Falling => "falling",
        };
        report::event("edge", json!({ "kind": kind }));
        edges.push(kind);
    }
    Ok(json!({ "edges": edges }))
}

fn follow(options: &Options) -> anyhow::Result<Value> {
    let (line, out) = (options.get("in", 0)?, options.get("out", 1)?);
    let stop: Option<u32> = match options.has("stop") {
        true => Some(options.get("stop", 0)?),
        false => None,
    };
    let most: u64 = options.get("count", u64::MAX)?;
    let output = output(options, out, Level::Inactive)?;
    let watched: Vec<u32> = [line].into_iter().chain(stop).collect();
    let edges = inputs(options, &watched, EdgeDetection::BothEdges)?;
    report::event("armed", Value::Null);
    let start = Instant::now();
    let mut count = 0u64;
    while count < most {
        ensure!(
            edges.wait_edge_event(PATIENCE)?,
            "waited in vain for an edge after {count}"
        );
        if Some(edges.read_edge_event()?.offset) == stop {
            break;
        }
        count += 1;
        let level = edges.value(line)?;
        output
            .set_value(out, level)
            .with_context(|| format!("after {count} edges"))?;
    }
    Ok(json!({
        "edges": count,
        "level": u8::from(edges.value(line)? == Level::Active),
        "seconds": start.elapsed().as_secs_f64(),
    }))
}

fn tour(options: &Options) -> anyhow::Result<Value> {
    Ok(json!({ "chip": look(options)?, "follow": follow(options)? }))
}

fn drive(options: &Options) -> anyhow::Result<Value> {
    let line = options.get("line", 0)?;
    let duration = Duration::from_secs(options.get("seconds", 5)?);
    let output = output(options, line, Level::Inactive)?;
    report::event("driving", Value::Null);
    let start = Instant::now();
    let (mut well, mut failed, mut high) = (0u64, 0u64, false);
    let mut error = String::new();
    while start.elapsed() < duration {
        high = !high;
        match output.set_value(line, level(high)) {
            Ok(()) => well += 1,
            Err(e) => {
                failed += 1;
                error = e.to_string();
                // A driver that warns each time would do nothing else.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    Ok(json!({ "well": well, "failed": failed, "last": error }))
}

fn keys(options: &Options) -> anyhow::Result<Value> {
    super::appears(Path::new(KEYS))?;
    let mut device = RawDevice::open(KEYS).context(KEYS)?;
    report::event("armed", Value::Null);
    let until: u16 = options.get("until", 0)?;
    loop {
        for event in device.fetch_events().context(KEYS)? {
            if event.event_type() == EventType::KEY {
                let (code, pressed) = (event.code(), event.value() != 0);
                report::event("key", json!({ "code": code, "pressed": pressed }));
                if code == until && !pressed {
                    return Ok(Value::Null);
                }
            }
        }
    }
}

fn light(options: &Options) -> anyhow::Result<Value> {
    let name: String = options.get("name", "led".to_owned())?;
    let path = Path::new("/sys/class/leds").join(name).join("brightness");
    super::appears(&path)?;
    let level: u8 = options.get("level", 1)?;
    std::fs::write(&path, level.to_string()).with_context(|| path.display().to_string())?;
    Ok(Value::Null)
}

fn level(high: bool) -> Level {
    if high { Level::Active } else { Level::Inactive }
}

fn output(options: &Options, line: u32, level: Level) -> anyhow::Result<Request> {
    let mut config = Config::default();
    config.on_chip(chip(options)?).with_line(line).as_output(level);
    request(config)
}

/// Inputs whose edges of this kind are told.
fn inputs(options: &Options, lines: &[u32], edge: EdgeDetection) -> anyhow::Result<Request> {
    let mut config = Config::default();
    config
        .on_chip(chip(options)?)
        .with_lines(lines)
        .as_input()
        .with_edge_detection(edge);
    request(config)
}

fn request(config: Config) -> anyhow::Result<Request> {
    let mut builder = Request::from_config(config);
    Ok(builder.with_consumer("vu-guest").request()?)
}
