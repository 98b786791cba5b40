// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replies in the text format of Prometheus, version 0.0.4.

use std::fmt::Write as _;

use serde_json::Value;

use crate::text::{COUNTERS, count, items, latencies};

/// What the counters mean, in their order.
const HELP: [&str; COUNTERS.len()] = [
    "Requests taken off the available ring.",
    "Kicks of the driver.",
    "Interrupts sent to the driver.",
    "Bytes of device-readable buffers.",
    "Bytes written into device-writable buffers.",
    "Malformed descriptor chains, given back empty.",
];

/// The metrics of a daemon, from its replies to `status` and `stats`.
pub(crate) fn metrics(status: &Value, stats: &Value) -> String {
    let device = status["name"].as_str().unwrap_or_default();
    let mut text = String::new();
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
        let name = format!("{counter}_total");
        head(&mut text, &name, "counter", help);
        for (labels, socket, queue) in queues(device, stats) {
            let number = count(stats, socket, queue, counter);
            let _ = writeln!(text, "vhost_device_{name}{{{labels}}} {number}");
        }
    }
    head(
        &mut text,
        "in_flight",
        "gauge",
        "Requests that the device has not answered yet.",
    );
    for (labels, socket, queue) in queues(device, stats) {
        let number = count(stats, socket, queue, "in_flight");
        let _ = writeln!(text, "vhost_device_in_flight{{{labels}}} {number}");
    }
    histogram(&mut text, device, stats);
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(
        text,
        "# HELP vhost_device_{name} {help}\n# TYPE vhost_device_{name} {kind}\n"
    );
}

/// The virtqueues of all sockets, and the labels of each.
fn queues(device: &str, stats: &Value) -> Vec<(String, usize, usize)> {
    let sockets = items(&stats["devices"]).enumerate();
    let queues = sockets.flat_map(|(socket, one)| {
        let queues = 0..items(&one["queues"]).count();
        queues.map(move |queue| (socket, queue))
    });
    let labels = |(socket, queue)| {
        let labels = format!("device=\"{device}\",socket=\"{socket}\",queue=\"{queue}\"");
        (labels, socket, queue)
    };
    queues.map(labels).collect()
}

/// Seconds from a request to its answer, of those that were timed.
fn histogram(text: &mut String, device: &str, stats: &Value) {
    const NAME: &str = "request_seconds";
    head(
        text,
        NAME,
        "histogram",
        "From a request to its answer, of the requests that are timed.",
    );
    for (labels, socket, queue) in queues(device, stats) {
        let mut sum = 0;
        for (bound, count) in latencies(stats, socket, queue) {
            sum += count;
            let bound = bound.map_or_else(|| "+Inf".into(), |micros| (micros as f64 / 1e6).to_string());
            let _ = writeln!(
                text,
                "vhost_device_{NAME}_bucket{{{labels},le=\"{bound}\"}} {sum}"
            );
        }
        let seconds = count(stats, socket, queue, "latency_sum_us") as f64 / 1e6;
        let _ = writeln!(text, "vhost_device_{NAME}_sum{{{labels}}} {seconds}");
        let _ = writeln!(text, "vhost_device_{NAME}_count{{{labels}}} {sum}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::metrics;

    #[test]
    fn each_metric_has_its_type_before_its_values() {
        let status = json!({"name": "rng", "devices": [{"front_end": {}}, {"front_end": null}]});
        let stats = json!({"devices": [
            {"connections": 3, "queues": [{"requests": 7, "interrupts": 5, "bad_chains": 1,
                "latency": [[1, 2], [2, 3], [null, 1]], "latency_sum_us": 4}]},
            {"connections": 0, "queues": [{}]},
        ]});
        let text = metrics(&status, &stats);
        let mut known = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                known.push(name.to_owned());
            } else if !line.starts_with("# HELP ") {
                let (name, rest) = line.split_once('{').unwrap();
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|part| name.strip_suffix(part))
                    .unwrap_or(name);
                assert_eq!(Some(family), known.last().map(String::as_str), "{line}");
                let (labels, value) = rest.split_once("} ").unwrap();
                assert!(labels.starts_with("device=\"rng\",socket=\""), "{line}");
                value.parse::<f64>().unwrap();
            }
        }
        assert_eq!(known.len(), 10);
        for line in [
            "vhost_device_front_end_connected{device=\"rng\",socket=\"1\"} 0",
            "vhost_device_connections_total{device=\"rng\",socket=\"0\"} 3",
            "vhost_device_requests_total{device=\"rng\",socket=\"0\",queue=\"0\"} 7",
            "vhost_device_bad_chains_total{device=\"rng\",socket=\"1\",queue=\"0\"} 0",
            "vhost_device_request_seconds_bucket{device=\"rng\",socket=\"0\",queue=\"0\",le=\"0.000002\"} 5",
            "vhost_device_request_seconds_bucket{device=\"rng\",socket=\"0\",queue=\"0\",le=\"+Inf\"} 6",
            "vhost_device_request_seconds_sum{device=\"rng\",socket=\"0\",queue=\"0\"} 0.000004",
            "vhost_device_request_seconds_count{device=\"rng\",socket=\"0\",queue=\"0\"} 6",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is not in {text}");
        }
    }
}
