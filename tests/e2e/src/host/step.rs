// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a simulated host does. What a step that waits waits for must come within a minute, or the play has failed.

use serde_json::{Value, json};
use std::path::Path;

/// One thing that a simulated host does.
#[derive(Clone, Debug)]
pub struct Step(Value);

impl Step {
    pub(super) fn new(name: &str, arguments: impl Into<Value>) -> Self {
        Self(json!({ name: arguments.into() }))
    }

    pub(super) fn as_json(&self) -> &Value {
        &self.0
    }

    /// Loads a kernel module with `parameters`, such as `a=1 b=2`.
    pub fn insert(module: &Path, parameters: &str) -> Self {
        Self::new("insert", json!([module.display().to_string(), parameters]))
    }

    /// Takes a kernel module out.
    pub fn remove(module: &str) -> Self {
        Self::new("remove", module)
    }

    /// Runs a shell script to its end, and finds what it printed. The first command that fails ends it, and the play.
    pub fn script(text: &str) -> Self {
        Self::new("script", text)
    }

    /// Writes to a file.
    pub fn write(path: &str, text: &str) -> Self {
        Self::new("write", json!([path, text]))
    }

    /// Waits until `text` is all that a file holds, but for space around it.
    pub fn expect(path: &str, text: &str) -> Self {
        Self::new("expect", json!([path, text]))
    }

    /// Waits until a file has `text` in it.
    pub fn contains(path: &str, text: &str) -> Self {
        Self::new("contains", json!([path, text]))
    }

    /// Waits until a file does not have `text` in it.
    pub fn lacks(path: &str, text: &str) -> Self {
        Self::new("lacks", json!([path, text]))
    }

    /// Waits until the daemon has logged `text`.
    pub fn says(text: &str) -> Self {
        Self::new("says", text)
    }

    /// Checks that the daemon is there, and that none of its threads runs.
    pub fn idle() -> Self {
        Self::new("idle", Value::Null)
    }

    /// Waits for an event of the guest, and finds it.
    pub fn event(name: &str) -> Self {
        Self::new("event", name)
    }

    /// Has the guest begin a task.
    pub fn say(task: &str) -> Self {
        Self::new("say", task)
    }

    /// Waits for the good result of a task of the guest, and finds it.
    pub fn result(task: &str) -> Self {
        Self::new("result", task)
    }

    /// Waits for the bad result of a task of the guest, and finds it.
    pub fn failure(task: &str) -> Self {
        Self::new("failure", task)
    }

    /// Waits for the end of the guest, for so many seconds.
    pub fn end(seconds: u32) -> Self {
        Self::new("end", seconds)
    }

    /// Kills the guest.
    pub fn kill() -> Self {
        Self::new("kill", Value::Null)
    }
}

/// A gpio chip of a simulated host, by the kernel's gpio-sim: the first one is `gpiochip0`.
#[derive(Clone, Debug)]
pub struct Chip {
    label: String,
    json: Value,
}

impl Chip {
    /// A chip of so many lines.
    pub fn new(label: &str, lines: u32) -> Self {
        Self {
            label: label.to_owned(),
            json: json!({ "name": label, "lines": lines, "names": {}, "hogs": {} }),
        }
    }

    /// Gives a line a name.
    #[must_use]
    pub fn name(mut self, line: u32, name: &str) -> Self {
        self.json["names"][line.to_string()] = name.into();
        self
    }

    /// Has `consumer` hold a line.
    #[must_use]
    pub fn hog(mut self, line: u32, consumer: &str) -> Self {
        self.json["hogs"][line.to_string()] = consumer.into();
        self
    }

    /// Makes it.
    pub fn make(&self) -> Step {
        Step::new("chip", self.json.clone())
    }

    /// Takes it away.
    pub fn unplug(&self) -> Step {
        Step::new("unplug", self.label.clone())
    }

    /// Drives a line from outside.
    pub fn pull(&self, line: u32, high: bool) -> Step {
        Step::write(&self.file(line, "pull"), pulls(high))
    }

    /// Waits until a line is high or low.
    pub fn is(&self, line: u32, high: bool) -> Step {
        Step::expect(&self.file(line, "value"), if high { "1" } else { "0" })
    }

    /// Drives a line from outside high and low, `times` times in all, with no regard to anybody, and finds the
    /// `seconds` that it took. An even number ends low.
    pub fn toggle(&self, line: u32, times: u32) -> Step {
        let values = [pulls(true), pulls(false)];
        Step::new(
            "toggle",
            json!({ "file": self.file(line, "pull"), "values": values, "times": times }),
        )
    }

    /// Drives a line from outside high and low for so many seconds, each time when the line `reply` has come to the
    /// same level, and finds how many `times`.
    pub fn ping_pong(&self, line: u32, reply: u32, seconds: u32) -> Step {
        let values = [pulls(true), pulls(false)];
        let (file, reply) = (self.file(line, "pull"), self.file(reply, "value"));
        Step::new(
            "toggle",
            json!({ "file": file, "values": values, "reply": reply, "replies": ["1", "0"], "seconds": seconds }),
        )
    }

    fn file(&self, line: u32, name: &str) -> String {
        format!("/run/{}/sim_gpio{line}/{name}", self.label)
    }
}

fn pulls(high: bool) -> &'static str {
    if high { "pull-up" } else { "pull-down" }
}
