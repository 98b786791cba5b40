// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest inside the simulated host.

use super::command;
use super::output::Output;
use crate::task::wait;
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

/// A running guest; its console is copied to ours. Killed when dropped.
pub(super) struct Inner {
    child: Child,
    stdin: ChildStdin,
    console: Output,
}

impl Inner {
    pub(super) fn start(program: &Value) -> anyhow::Result<Self> {
        let mut child = command(program)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the guest")?;
        Ok(Self {
            stdin: child.stdin.take().context("stdin")?,
            console: Output::copy(child.stdout.take().context("stdout")?),
            child,
        })
    }

    pub(super) fn say(&mut self, line: &str) -> anyhow::Result<Value> {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush())?;
        Ok(Value::Null)
    }

    pub(super) fn event(&mut self, name: &str) -> anyhow::Result<Value> {
        self.console
            .next(name, |line| event(line).filter(|event| event["event"] == name))
    }

    /// The result of `task`, which must be good or bad as `ok` says.
    pub(super) fn result(&mut self, task: &str, ok: bool) -> anyhow::Result<Value> {
        let result = self.console.next(&format!("result of {task}"), |line| {
            event(line).filter(|event| event["event"] == "result" && event["task"] == task)
        })?;
        ensure!(result["ok"] == ok, "the guest's result: {result}");
        Ok(result)
    }

    /// Waits for the end of a guest.
    pub(super) fn end(mut self, seconds: &Value) -> anyhow::Result<Value> {
        let limit = seconds.as_u64().context("no number of seconds")?;
        match wait(&mut self.child, Duration::from_secs(limit))? {
            Some(status) if status.success() => Ok(Value::Null),
            Some(status) => bail!("the guest ended with {status}"),
            None => bail!("the guest was killed after {limit} s"),
        }
    }

    pub(super) fn kill(mut self) -> anyhow::Result<Value> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(Value::Null)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The event on a line of the console, behind what a kernel may have begun to say.
fn event(line: &str) -> Option<Value> {
    let start = line.find("{\"")?;
    serde_json::from_str(line[start..].trim_end()).ok()
}
