// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replies in the text format of Prometheus, version 0.0.4.

use std::fmt::Write as _;

use serde_json::Value;

use crate::text::{COUNTERS, count, items};

/// What the counters mean, in their order.
const HELP: [&str; COUNTERS.len()] = [
    "Requests taken off the available ring.",
    "Interrupts sent to the driver.",
    "Malformed descriptor chains, given back empty.",
];

/// The metrics of a daemon, from its replies to `status` and `stats`.
pub(crate) fn metrics(status: &Value, stats: &Value) -> String {
    let device = status["name"].as_str().unwrap_or_default();
    let mut text = String::new();
    let head = |text: &mut String, name: &str, kind: &str, help: &str| {
        let _ = write!(
            text,
            "# HELP vhost_device_{name} {help}\n# TYPE vhost_device_{name} {kind}\n"
        );
    };
    head(
        &mut text,
        "front_end_connected",
        "gauge",
        "Whether a front end is connected.",
    );
    for (socket, one) in items(&status["devices"]).enumerate() {
        let connected = u8::from(!one["front_end"].is_null());
        let _ = writeln!(
            text,
            "vhost_device_front_end_connected{{device=\"{device}\",socket=\"{socket}\"}} {connected}"
        );
    }
    head(
        &mut text,
        "connections_total",
        "counter",
        "Front ends that have connected.",
    );
    for (socket, one) in items(&stats["devices"]).enumerate() {
        let connections = one["connections"].as_u64().unwrap_or(0);
        let _ = writeln!(
            text,
            "vhost_device_connections_total{{device=\"{device}\",socket=\"{socket}\"}} {connections}"
        );
    }
    for (counter, help) in COUNTERS.into_iter().zip(HELP) {
        head(&mut text, &format!("{counter}_total"), "counter", help);
        for (socket, one) in items(&stats["devices"]).enumerate() {
            for queue in 0..items(&one["queues"]).count() {
                let number = count(stats, socket, queue, counter);
                let _ = writeln!(
                    text,
                    "vhost_device_{counter}_total{{device=\"{device}\",socket=\"{socket}\",queue=\"{queue}\"}} {number}"
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::metrics;

    #[test]
    fn each_metric_has_its_type_before_its_values() {
        let status = json!({"name": "rng", "devices": [{"front_end": {}}, {"front_end": null}]});
        let stats = json!({"devices": [
            {"connections": 3, "queues": [{"requests": 7, "interrupts": 5, "bad_chains": 1}]},
            {"connections": 0, "queues": [{}]},
        ]});
        let text = metrics(&status, &stats);
        let mut known = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                known.push(name.to_owned());
            } else if !line.starts_with("# HELP ") {
                let (name, rest) = line.split_once('{').unwrap();
                assert_eq!(Some(name), known.last().map(String::as_str), "{line}");
                let (labels, value) = rest.split_once("} ").unwrap();
                assert!(labels.starts_with("device=\"rng\",socket=\""), "{line}");
                value.parse::<u64>().unwrap();
            }
        }
        assert_eq!(known.len(), 5);
        for line in [
            "vhost_device_front_end_connected{device=\"rng\",socket=\"1\"} 0",
            "vhost_device_connections_total{device=\"rng\",socket=\"0\"} 3",
            "vhost_device_requests_total{device=\"rng\",socket=\"0\",queue=\"0\"} 7",
            "vhost_device_bad_chains_total{device=\"rng\",socket=\"1\",queue=\"0\"} 0",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is not in {text}");
        }
    }
}
