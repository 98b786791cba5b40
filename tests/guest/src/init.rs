// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PID 1 of a test guest. The kernel command line says what to do, in this order:
//!
//! * `vu.run=TASK[,KEY=VALUE...]`, as often as needed: run a task and report its result.
//! * `vu.end=poweroff` (the default), `reboot`, or `serve`: read further tasks from the console, one a line, besides
//!   the words `poweroff` and `reboot`.
//!
//! Events on the console: `boot`, one `result` per task, `ready` when `serve` begins to read, and `end`.

use crate::{console, modules, mounts, report, task};
use rustix::system::{RebootCommand, reboot, uname};
use serde_json::{Value, json};
use std::io::BufRead;

/// How a guest ends.
#[derive(Clone, Copy)]
enum End {
    PowerOff,
    Reboot,
}

impl End {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "poweroff" => Some(Self::PowerOff),
            "reboot" => Some(Self::Reboot),
            _ => None,
        }
    }
}

/// Runs the guest from its first instruction to its end.
pub(crate) fn run() -> ! {
    let problems = set_up();
    report::event(
        "boot",
        json!({ "kernel": uname().release().to_string_lossy(), "uptime": uptime(), "problems": problems }),
    );
    let words = command_line();
    for line in words.iter().filter_map(|word| word.strip_prefix("vu.run=")) {
        task::spawn(line);
    }
    let end = words.iter().find_map(|word| word.strip_prefix("vu.end="));
    finish(match end {
        Some("serve") => serve(),
        Some(word) => End::parse(word).unwrap_or(End::PowerOff),
        None => End::PowerOff,
    })
}

/// Mounts, console and modules. What fails is reported with the first event: a guest that can still speak is worth
/// more than one that panics here.
fn set_up() -> Vec<String> {
    let mut problems = mounts::mount_all();
    console::adopt().unwrap_or_else(|error| problems.push(format!("{error:#}")));
    problems.extend(modules::load_all());
    problems
}

/// Runs tasks from the console until it says how to end, or until it closes.
fn serve() -> End {
    report::event("ready", Value::Null);
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let line = line.trim();
        match End::parse(line) {
            Some(end) => return end,
            None if line.is_empty() => {}
            None => task::spawn(line),
        }
    }
    End::PowerOff
}

fn finish(end: End) -> ! {
    let (word, command) = match end {
        End::PowerOff => ("poweroff", RebootCommand::PowerOff),
        End::Reboot => ("reboot", RebootCommand::Restart),
    };
    report::event("end", json!({ "how": word, "uptime": uptime() }));
    console::drain();
    rustix::fs::sync();
    let error = reboot(command);
    report::event("end", json!({ "how": word, "error": format!("{error:?}") }));
    loop {
        std::thread::park();
    }
}

fn command_line() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Seconds since the kernel started.
fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_default()
}
