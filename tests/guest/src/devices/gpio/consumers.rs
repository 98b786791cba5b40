// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drivers of the kernel that use lines.
//!
//! * `keys,count=C`: waits for so many changes of the keys of gpio-keys, and tells each as an event `key` with its `code`
//!   and whether it is `pressed`. The event `armed` says when one counts.
//! * `led,name=NAME,level=0|1`: sets a light of leds-gpio, which stays so.

use super::appears;
use crate::report;
use crate::task::Options;
use anyhow::Context;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The first input device; a guest with a keyboard of gpio-keys has no other.
const KEYS: &str = "/dev/input/event0";

/// The bytes of one `struct input_event` of a 64-bit kernel: a time of 16, type and code of 2 each, a value of 4.
const EVENT: usize = 24;

/// The type of an event that tells of a key.
const EV_KEY: u16 = 1;

pub(super) fn keys(options: &Options) -> anyhow::Result<Value> {
    appears(Path::new(KEYS))?;
    let mut keys = File::open(KEYS).context(KEYS)?;
    report::event("armed", Value::Null);
    for _ in 0..options.get("count", 1u32)? {
        let (code, pressed) = next_key(&mut keys).context(KEYS)?;
        report::event("key", json!({ "code": code, "pressed": pressed }));
    }
    Ok(Value::Null)
}

/// The next change of a key.
fn next_key(keys: &mut impl Read) -> std::io::Result<(u16, bool)> {
    loop {
        let mut event = [0; EVENT];
        keys.read_exact(&mut event)?;
        let field = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
        if field(16) == EV_KEY {
            return Ok((field(18), event[20..] != [0; 4]));
        }
    }
}

pub(super) fn led(options: &Options) -> anyhow::Result<Value> {
    let name: String = options.get("name", "led".to_owned())?;
    let led = Path::new("/sys/class/leds").join(name).join("brightness");
    appears(&led)?;
    fs::write(&led, options.get("level", 1u8)?.to_string()).with_context(|| led.display().to_string())?;
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::next_key;

    #[test]
    fn other_events_than_those_of_keys_are_passed_over() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![7; 16];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        let bytes = [event(4, 4, 30), event(1, 30, 1), event(0, 0, 0), event(1, 30, 0)].concat();
        let mut bytes = &bytes[..];
        assert_eq!(next_key(&mut bytes).unwrap(), (30, true));
        assert_eq!(next_key(&mut bytes).unwrap(), (30, false));
        assert!(next_key(&mut bytes).is_err());
    }
}
