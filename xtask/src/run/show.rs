// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tasks of the guest program found out, in words.

use anyhow::{Context, Result};
use serde_json::Value;

fn number(result: &Value, key: &str) -> Result<f64> {
    let value = result[key].as_f64();
    value.with_context(|| format!("the guest gave no {key}"))
}

fn text<'a>(result: &'a Value, key: &str) -> Result<&'a str> {
    let value = result[key].as_str();
    value.with_context(|| format!("the guest gave no {key}"))
}

/// What the blk task found: the disk, its speed, and that files come back as they were.
pub(super) fn blk(result: &Value) -> Result<Vec<String>> {
    let facts = &result["facts"];
    let mib = |result: &Value, key| Ok::<_, anyhow::Error>(number(result, key)? / f64::from(1 << 20));
    let mut lines = vec![
        format!(
            "a disk of {:.1} MiB, serial {:?}, {}",
            mib(facts, "size")?,
            text(facts, "serial")?,
            if facts["read_only"] == true {
                "read-only"
            } else {
                text(facts, "cache")?
            },
        ),
        format!(
            "blocks of {} bytes (physical: {}), {} queue(s), discards up to {:.0} MiB at once",
            number(facts, "logical_block_size")?,
            number(facts, "physical_block_size")?,
            number(facts, "queues")?,
            mib(facts, "discard_max_bytes")?,
        ),
    ];
    for (key, verb) in [("write", "wrote"), ("read", "read")] {
        let speed = &result[key];
        if !speed.is_null() {
            let (mib, seconds) = (mib(speed, "bytes")?, number(speed, "seconds")?);
            let rate = mib / seconds;
            lines.push(format!("{verb} {mib:.0} MiB in {seconds:.2} s ({rate:.0} MiB/s)"));
        }
    }
    if let Some(files) = result["files"]["files"].as_u64() {
        let each = mib(&result["files"], "bytes")?;
        lines.push(format!(
            "made a file system, wrote {files} files of {each:.0} MiB, read them again: as written"
        ));
    }
    Ok(lines)
}

/// What the rng task found: whose bytes the kernel takes, how fast they came, how even they are.
pub(super) fn rng(result: &Value) -> Result<Vec<String>> {
    let (mib, seconds) = (
        number(result, "bytes")? / f64::from(1 << 20),
        number(result, "seconds")?,
    );
    let digits: Vec<char> = text(result, "hex")?.chars().collect();
    let bytes: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    Ok(vec![
        format!(
            "the kernel takes its random numbers from {}",
            text(result, "current")?
        ),
        format!(
            "read {mib:.1} MiB from /dev/hwrng in {seconds:.1} s ({:.1} MiB/s)",
            mib / seconds
        ),
        format!(
            "their chi-square is {:.0} (random bytes: 255 +- 23)",
            number(result, "chi_square")?
        ),
        format!("the first {}: {}", bytes.len(), bytes.join(" ")),
    ])
}

/// The lines of a chip: what they are called and which way they go.
pub(super) fn gpio(result: &Value) -> Result<Vec<String>> {
    let lines = result["lines"].as_array().context("the guest gave no lines")?;
    let mut said = vec![format!("{} has {} lines", text(result, "label")?, lines.len())];
    for (number, line) in lines.iter().enumerate() {
        let name = line["name"].as_str().filter(|name| !name.is_empty());
        let way = if line["output"] == true { "output" } else { "input" };
        said.push(format!(
            "line {number}: {}, {way}",
            name.unwrap_or("without a name")
        ));
    }
    Ok(said)
}

/// A light that follows a button.
pub(super) fn gpio_tour(result: &Value) -> Result<Vec<String>> {
    let mut lines = gpio(&result["chip"])?;
    let follow = &result["follow"];
    lines.push(format!(
        "the light followed the button {} times in {:.1} s, by interrupts",
        number(follow, "edges")?,
        number(follow, "seconds")?
    ));
    Ok(lines)
}

/// Who answered on a bus.
pub(super) fn detected(result: &Value) -> Result<Vec<String>> {
    let answered = result["answered"].as_array().context("the guest asked nobody")?;
    let addresses: Vec<String> = answered.iter().map(address).collect();
    Ok(vec![format!(
        "devices that answer on the bus: {}",
        addresses.join(", ")
    )])
}

fn address(value: &Value) -> String {
    value
        .as_u64()
        .map_or_else(|| value.to_string(), |address| format!("{address:#04x}"))
}

/// What the kernel's driver reads from a thermometer, in thousandths of a degree.
pub(super) fn thermometer(result: &Value) -> Result<Vec<String>> {
    let text = text(result, "text")?.trim();
    let degrees: f64 = text.parse().with_context(|| format!("temperature {text:?}"))?;
    Ok(vec![format!(
        "the driver lm75 measures {:.1} degrees",
        degrees / 1000.0
    )])
}

/// What the kernel's driver reads from an EEPROM after it has written there.
pub(super) fn eeprom(result: &Value) -> Result<Vec<String>> {
    let hex = text(result, "hex")?;
    Ok(vec![format!(
        "the driver at24 wrote to the EEPROM; it holds {hex}.."
    )])
}

/// A device of the kernel, and what was typed on it.
pub(super) fn input(result: &Value) -> Result<Vec<String>> {
    let mut lines = vec![format!(
        "the kernel has the input device {:?}",
        text(result, "name")?
    )];
    let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let typed: String = events
        .iter()
        .filter(|event| event[0] == 1 && event[2] == 1)
        .filter_map(|event| letter(event[1].as_u64()?))
        .collect();
    if !events.is_empty() {
        lines.push(format!("read {} events; somebody typed {typed:?}", events.len()));
    }
    Ok(lines)
}

/// The letter on the key with this code: the three rows of a keyboard.
fn letter(code: u64) -> Option<char> {
    let rows = [(16, "qwertyuiop"), (30, "asdfghjkl"), (44, "zxcvbnm")];
    rows.iter()
        .find_map(|(first, keys)| keys.chars().nth(usize::try_from(code.checked_sub(*first)?).ok()?))
}

/// Bytes that went to the host and came back.
pub(super) fn vsock(result: &Value) -> Result<Vec<String>> {
    let (mib, seconds) = (
        number(result, "bytes")? / f64::from(1 << 20),
        number(result, "seconds")?,
    );
    Ok(vec![format!(
        "sent {mib:.0} MiB to port 1234 of the host, and got them back as they were, in {seconds:.2} s"
    )])
}

/// A port at which nobody listens.
pub(super) fn vsock_refused(result: &Value) -> Result<Vec<String>> {
    Ok(vec![format!(
        "nobody listens at port 1 of the host: {}",
        text(result, "error")?
    )])
}

#[cfg(test)]
mod tests {
    use super::{blk, detected, eeprom, gpio_tour, input, rng, thermometer, vsock};
    use serde_json::json;

    #[test]
    fn the_result_of_blk_is_readable() {
        let facts = json!({
            "size": 64 << 20, "serial": "disk", "read_only": false, "cache": "write back", "queues": 1,
            "logical_block_size": 512, "physical_block_size": 4096, "discard_max_bytes": 2 << 20,
        });
        let speed = json!({ "bytes": 64 << 20, "seconds": 0.5 });
        let files = json!({ "files": 8, "bytes": 1 << 20 });
        let all = json!({ "facts": facts, "write": speed, "read": speed, "files": files });
        let lines = blk(&all).unwrap();
        assert_eq!(lines[0], "a disk of 64.0 MiB, serial \"disk\", write back");
        assert_eq!(lines[2], "wrote 64 MiB in 0.50 s (128 MiB/s)");
        assert!(lines[4].contains("8 files of 1 MiB"), "{}", lines[4]);
        let looked = blk(&json!({ "facts": facts, "read": speed })).unwrap();
        assert_eq!(looked.len(), 3, "{looked:?}");
        assert!(blk(&json!({})).is_err());
    }

    #[test]
    fn the_result_of_rng_is_readable() {
        let result = json!({
            "current": "virtio_rng.0", "bytes": 1 << 20, "seconds": 0.5, "chi_square": 250.4, "hex": "00ff1a",
        });
        let lines = rng(&result).unwrap();
        assert!(lines[0].ends_with("virtio_rng.0"), "{}", lines[0]);
        assert!(
            lines[1].contains("1.0 MiB") && lines[1].contains("(2.0 MiB/s)"),
            "{}",
            lines[1]
        );
        assert!(lines[2].contains("250 "), "{}", lines[2]);
        assert!(lines[3].ends_with("00 ff 1a"), "{}", lines[3]);
        assert!(rng(&json!({})).is_err());
    }

    #[test]
    fn the_results_of_lines_and_buses_are_readable() {
        let chip =
            json!({ "label": "1.virtio", "lines": [{ "name": "button", "output": false }, { "name": "" }] });
        let tour = json!({ "chip": chip, "follow": { "edges": 4, "seconds": 2.04 } });
        let lines = gpio_tour(&tour).unwrap();
        assert_eq!(lines[1], "line 0: button, input");
        assert_eq!(lines[2], "line 1: without a name, input");
        assert!(lines[3].contains("4 times in 2.0 s"), "{}", lines[3]);
        let lines = detected(&json!({ "answered": [0x48, 0x50] })).unwrap();
        assert!(lines[0].ends_with("0x48, 0x50"), "{}", lines[0]);
        let lines = thermometer(&json!({ "text": "23500\n" })).unwrap();
        assert!(lines[0].ends_with("23.5 degrees"), "{}", lines[0]);
        assert!(eeprom(&json!({ "hex": "68656c" })).unwrap()[0].contains("68656c"));
        assert!(thermometer(&json!({})).is_err());
    }

    #[test]
    fn the_results_of_events_and_streams_are_readable() {
        let events = json!([
            [1, 35, 1],
            [0, 0, 0],
            [1, 35, 0],
            [0, 0, 0],
            [1, 18, 1],
            [1, 44, 1]
        ]);
        let lines = input(&json!({ "name": "keyboard", "events": events })).unwrap();
        assert_eq!(lines[1], "read 6 events; somebody typed \"hez\"");
        let lines = vsock(&json!({ "bytes": 1 << 20, "seconds": 0.5 })).unwrap();
        assert!(lines[0].starts_with("sent 1 MiB"), "{}", lines[0]);
    }
}
