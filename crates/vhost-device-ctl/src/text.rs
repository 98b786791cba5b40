// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replies as tables for people.

use std::fmt::Write as _;

use serde_json::Value;

/// The counters of a virtqueue, in the order of the columns.
pub(crate) const COUNTERS: [&str; 3] = ["requests", "interrupts", "bad_chains"];

/// The reply to `status`.
pub(crate) fn status(status: &Value) -> String {
    let word = |key: &str| match &status[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = String::new();
    for (name, value) in [
        ("device", format!("{}, version {}", word("name"), word("version"))),
        (
            "process",
            format!("{}, for {} s", word("pid"), word("uptime_seconds")),
        ),
        ("log level", word("log_level")),
        ("sandbox", word("sandbox")),
    ] {
        let _ = writeln!(text, "{name:10} {value}");
    }
    for (number, device) in items(&status["devices"]).enumerate() {
        let _ = writeln!(text, "socket {number:<3} {}", front_end(device));
    }
    text
}

fn front_end(device: &Value) -> String {
    let front_end = &device["front_end"];
    if device.is_null() {
        return "served no longer".into();
    }
    if front_end == "busy" {
        return "a front end that is being set up or leaving".into();
    }
    if front_end.is_null() {
        return "no front end".into();
    }
    let running = items(&front_end["queues"]).filter(|queue| queue["running"] == true);
    format!(
        "a front end, {} virtqueue(s) running, {} region(s) of memory, features {:#x}",
        running.count(),
        front_end["memory_regions"],
        front_end["features"].as_u64().unwrap_or(0)
    )
}

/// The reply to `stats`.
pub(crate) fn stats(stats: &Value) -> String {
    table(COUNTERS.map(str::to_owned), stats, |socket, queue| {
        COUNTERS.map(|counter| Some(count(stats, socket, queue, counter)))
    })
}

/// What happened in the seconds between two of them, per second.
pub(crate) fn rates(before: &Value, now: &Value, seconds: u64) -> String {
    table(
        COUNTERS.map(|counter| format!("{counter}/s")),
        now,
        |socket, queue| {
            COUNTERS.map(|counter| {
                let more =
                    count(now, socket, queue, counter).saturating_sub(count(before, socket, queue, counter));
                more.checked_div(seconds)
            })
        },
    )
}

fn table(
    columns: [String; COUNTERS.len()],
    stats: &Value,
    row: impl Fn(usize, usize) -> [Option<u64>; COUNTERS.len()],
) -> String {
    let mut text = format!("{:>6} {:>5}", "socket", "queue");
    for column in columns {
        let _ = write!(text, " {column:>14}");
    }
    text.push('\n');
    for (socket, device) in items(&stats["devices"]).enumerate() {
        for queue in 0..items(&device["queues"]).count() {
            let _ = write!(text, "{socket:>6} {queue:>5}");
            for number in row(socket, queue) {
                let _ = write!(text, " {:>14}", number.unwrap_or(0));
            }
            text.push('\n');
        }
    }
    text
}

/// The reply to `commands`.
pub(crate) fn commands(commands: &Value) -> String {
    let mut text = String::new();
    for command in items(commands) {
        let word = |key: &str| command[key].as_str().unwrap_or_default();
        let usage = format!("{} {}", word("name"), word("arguments"));
        let _ = writeln!(text, "{:40} {}", usage.trim_end(), word("help"));
    }
    text
}

/// The reply to a device's own command: a line for each element of an array, and nothing for null.
pub(crate) fn answer(answer: &Value) -> String {
    match answer {
        Value::Null => String::new(),
        Value::Array(elements) => elements.iter().map(line).collect(),
        other => line(other),
    }
}

/// The fields of an object side by side.
fn line(value: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| format!("{key}={}", word(value));
            let fields: Vec<_> = fields.iter().map(field).collect();
            fields.join(" ") + "\n"
        }
        other => word(other) + "\n",
    }
}

/// One counter of a reply to `stats`.
pub(crate) fn count(stats: &Value, socket: usize, queue: usize, counter: &str) -> u64 {
    stats["devices"][socket]["queues"][queue][counter]
        .as_u64()
        .unwrap_or(0)
}

/// The elements of an array, none of anything else.
pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{answer, commands, rates, stats, status};

    #[test]
    fn a_row_for_each_virtqueue() {
        let value = json!({"devices": [
            {"queues": [{"requests": 7, "interrupts": 5, "bad_chains": 1}, {"requests": 2}]},
            null,
            {"queues": "busy"},
        ]});
        let text = stats(&value);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[1..], [["0", "0", "7", "5", "1"], ["0", "1", "2", "0", "0"]]);
    }

    #[test]
    fn answers_and_commands_are_lines() {
        assert_eq!(answer(&json!(null)), "");
        assert_eq!(answer(&json!("a b")), "a b\n");
        assert_eq!(
            answer(&json!([{"line": 1, "name": "LED"}, 7])),
            "line=1 name=LED\n7\n"
        );
        let text = commands(&json!([{"name": "quit", "arguments": "", "help": "End"}]));
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["quit", "End"]);
    }

    #[test]
    fn rates_are_per_second_and_never_negative() {
        let at = |requests| json!({"devices": [{"queues": [{"requests": requests}]}]});
        let row = |before, now| rates(&at(before), &at(now), 2).lines().nth(1).unwrap().to_owned();
        assert_eq!(row(10, 30).split_whitespace().nth(2), Some("10"));
        assert_eq!(row(30, 10).split_whitespace().nth(2), Some("0"));
    }

    #[test]
    fn status_says_who_is_there() {
        let value = json!({"name": "rng", "version": "1", "pid": 4, "uptime_seconds": 5, "devices": [
            null, {"front_end": null}, {"front_end": "busy"},
            {"front_end": {"features": 255, "memory_regions": 2, "queues": [{"running": true}, {"running": false}]}},
        ]});
        let text = status(&value);
        for line in [
            "device     rng, version 1",
            "socket 0   served no longer",
            "socket 1   no front end",
            "socket 2   a front end that is being set up or leaving",
            "socket 3   a front end, 1 virtqueue(s) running, 2 region(s) of memory, features 0xff",
        ] {
            assert!(text.lines().any(|is| is == line), "{line:?} is not in {text}");
        }
    }
}
