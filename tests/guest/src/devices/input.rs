// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! virtio-input: describes the event device of the kernel, and reads what is typed.
//!
//! | `do=` | what happens | options |
//! |---|---|---|
//! | `events` | reads events of the device; what is done without `do` | `led=N`, an LED to switch on first; `events=N`, how many |
//! | `console` | reads a line from the first virtual console, which every keyboard types on | |
//!
//! Both report `reading` when they begin to, and `events` reports `came` when something has.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use evdev::raw_stream::{RawDevice, enumerate};
use evdev::{InputEvent, LedCode};
use serde_json::{Value, json};

use super::act;
use crate::report;
use crate::task::Options;

/// The longest that the driver may take to find its device.
const PROBE: Duration = Duration::from_secs(20);
const EV_LED: u16 = 0x11;

/// The virtual console that is in front when a kernel has started.
const CONSOLE: &str = "/dev/tty1";

/// Does what `do` says.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    act(options, &[("events", events), ("console", console)], "events")
}

/// Reads a line that is typed.
fn console(_options: &Options) -> anyhow::Result<Value> {
    wait_for_device()?;
    let console = File::open(CONSOLE).context(CONSOLE)?;
    report::event("reading", Value::Null);
    let mut line = String::new();
    BufReader::new(console).read_line(&mut line).context(CONSOLE)?;
    Ok(json!({ "line": line }))
}

/// Describes the device, and reads as many events as are asked for.
fn events(options: &Options) -> anyhow::Result<Value> {
    let (path, mut device) = wait_for_device()?;
    if options.has("led") {
        let led: u16 = options.get("led", 0)?;
        device
            .send_events(&[InputEvent::new(EV_LED, led, 1), InputEvent::new(0, 0, 0)])
            .with_context(|| format!("{}: LED {led}", path.display()))?;
    }
    report::event("reading", Value::Null);
    let mut events = Vec::new();
    let (mut last, mut monotonic) = (SystemTime::UNIX_EPOCH, true);
    let count: usize = options.get("events", 0)?;
    while events.len() < count {
        let new = device.fetch_events();
        let new = new.with_context(|| path.display().to_string())?;
        if events.is_empty() {
            report::event("came", Value::Null);
        }
        for event in new {
            monotonic &= event.timestamp() >= last;
            last = event.timestamp();
            events.push(json!([event.event_type().0, event.code(), event.value()]));
        }
    }
    let mut found = describe(&device)?;
    found["events"] = events.into();
    found["monotonic"] = monotonic.into();
    Ok(found)
}

fn describe(device: &RawDevice) -> anyhow::Result<Value> {
    let axis = |(code, info): (evdev::AbsoluteAxisCode, evdev::AbsInfo)| {
        let (range, noise) = ([info.minimum(), info.maximum()], [info.fuzz(), info.flat()]);
        json!([code.0, range[0], range[1], noise[0], noise[1], info.resolution()])
    };
    let axes: Vec<Value> = device.get_absinfo()?.map(axis).collect();
    let id = device.input_id();
    let leds = device.get_led_state().unwrap_or_default();
    Ok(json!({
        "name": device.name(),
        "serial": device.unique_name(),
        "ids": [id.bus_type().0, id.vendor(), id.product(), id.version()],
        "props": device.properties().iter().map(|prop| prop.0).collect::<Vec<_>>(),
        "types": device.supported_events().iter().map(|kind| kind.0).collect::<Vec<_>>(),
        "keys": device.supported_keys().map_or(0, |keys| keys.iter().count()),
        "axes": axes,
        "leds": leds.iter().map(|led: LedCode| led.0).collect::<Vec<_>>(),
    }))
}

/// The device whose driver is virtio's, as soon as there is one.
fn wait_for_device() -> anyhow::Result<(PathBuf, RawDevice)> {
    let end = Instant::now() + PROBE;
    loop {
        let is_virtio = |(_, device): &(PathBuf, RawDevice)| {
            device
                .physical_path()
                .is_some_and(|phys| phys.starts_with("virtio"))
        };
        if let Some(found) = enumerate().find(is_virtio) {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("no device of virtio_input after {} s", PROBE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
