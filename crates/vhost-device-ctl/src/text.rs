// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replies as tables for people.

use std::fmt::Write as _;

use serde_json::Value;

/// The counters of a virtqueue, in the order of the columns.
pub(crate) const COUNTERS: [&str; 6] = [
    "requests",
    "kicks",
    "interrupts",
    "bytes_read",
    "bytes_written",
    "bad_chains",
];
/// Parts of the requests whose latency is told.
const PERCENTILES: [u64; 2] = [50, 99];

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
    let names = COUNTERS.into_iter().chain(["in_flight"]).map(str::to_owned);
    table(
        names.collect(),
        stats,
        |socket, queue| {
            let counters = COUNTERS.into_iter().chain(["in_flight"]);
            let counts = counters.map(|counter| count(stats, socket, queue, counter).to_string());
            counts.collect()
        },
        |socket, queue| latencies(stats, socket, queue),
    )
}

/// What happened in the seconds between two of them, per second.
pub(crate) fn rates(before: &Value, now: &Value, seconds: u64) -> String {
    let names = COUNTERS.map(|counter| format!("{counter}/s"));
    table(
        names.into(),
        now,
        |socket, queue| {
            let more = |counter| {
                let before = count(before, socket, queue, counter);
                count(now, socket, queue, counter).saturating_sub(before)
            };
            let rate = |counter| more(counter).checked_div(seconds).unwrap_or(0).to_string();
            COUNTERS.into_iter().map(rate).collect()
        },
        |socket, queue| {
            let before = latencies(before, socket, queue);
            let mut now = latencies(now, socket, queue);
            for (now, before) in now.iter_mut().zip(before) {
                now.1 = now.1.saturating_sub(before.1);
            }
            now
        },
    )
}

/// The timed requests of a virtqueue: pairs of an upper bound in microseconds, if there is one, and how many there are between the
/// bound before and this one.
pub(crate) fn latencies(stats: &Value, socket: usize, queue: usize) -> Vec<(Option<u64>, u64)> {
    let buckets = items(&stats["devices"][socket]["queues"][queue]["latency"]);
    buckets
        .map(|bucket| (bucket[0].as_u64(), bucket[1].as_u64().unwrap_or(0)))
        .collect()
}

/// The bound below which `percent` of them stay.
fn percentile(latencies: &[(Option<u64>, u64)], percent: u64) -> String {
    let all: u64 = latencies.iter().map(|(_, count)| count).sum();
    let wanted = all.saturating_mul(percent).div_ceil(100);
    let mut sum = 0;
    for (bound, count) in latencies {
        sum += count;
        if sum >= wanted && wanted > 0 {
            return bound.map_or_else(|| "more".into(), |bound| format!("<{bound}"));
        }
    }
    "-".into()
}

fn table(
    columns: Vec<String>,
    stats: &Value,
    row: impl Fn(usize, usize) -> Vec<String>,
    latencies: impl Fn(usize, usize) -> Vec<(Option<u64>, u64)>,
) -> String {
    let mut text = format!("{:>6} {:>5}", "socket", "queue");
    for column in columns
        .into_iter()
        .chain(PERCENTILES.map(|percent| format!("p{percent} us")))
    {
        let _ = write!(text, " {column:>15}");
    }
    text.push('\n');
    for (socket, device) in items(&stats["devices"]).enumerate() {
        for queue in 0..items(&device["queues"]).count() {
            let _ = write!(text, "{socket:>6} {queue:>5}");
            let latencies = latencies(socket, queue);
            let latencies = PERCENTILES.map(|percent| percentile(&latencies, percent));
            for cell in row(socket, queue).into_iter().chain(latencies) {
                let _ = write!(text, " {cell:>15}");
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

    fn rows(text: &str) -> Vec<Vec<&str>> {
        let rows = text.lines().skip(1);
        rows.map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn a_row_for_each_virtqueue() {
        let value = json!({"devices": [
            {"queues": [{"requests": 7, "kicks": 3, "interrupts": 5, "bytes_read": 8, "bytes_written": 9, "bad_chains": 1,
                "in_flight": 2, "latency": [[1, 0], [2, 98], [4, 1], [null, 1]]}, {"requests": 2}]},
            null,
            {"queues": "busy"},
        ]});
        assert_eq!(
            rows(&stats(&value)),
            [
                ["0", "0", "7", "3", "5", "8", "9", "1", "2", "<2", "<4"],
                ["0", "1", "2", "0", "0", "0", "0", "0", "0", "-", "-"]
            ]
        );
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
        let at = |requests, slow| json!({"devices": [{"queues": [{"requests": requests, "latency": [[1, 5], [null, slow]]}]}]});
        let text = rates(&at(10, 0), &at(30, 1), 2);
        assert_eq!(
            rows(&text)[0][2..],
            ["10", "0", "0", "0", "0", "0", "more", "more"]
        );
        let text = rates(&at(30, 0), &at(10, 0), 2);
        assert_eq!(rows(&text)[0][2..], ["0", "0", "0", "0", "0", "0", "-", "-"]);
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
