// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One task: `NAME[,KEY=VALUE...]`, run in a process of its own.

use crate::{devices, host, report, shell};
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, ExitCode, ExitStatus};
use std::str::FromStr;
use std::time::Duration;

/// What a task is: options in, findings out as a JSON object.
pub(crate) type Task = fn(&Options) -> anyhow::Result<Value>;

/// The tasks that are no device of their own.
const COMMON: &[(&str, Task)] = &[("host", host::run), ("shell", shell::run)];

/// The longest that a task may take when its line has no `timeout=SECONDS`.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The options of a task line.
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    /// Splits `NAME,KEY=VALUE,...`; a word without `=` is a key with an empty value.
    fn split(line: &str) -> (&str, Self) {
        let mut words = line.trim().split(',');
        let name = words.next().unwrap_or_default();
        let pairs = words.map(|word| word.split_once('=').unwrap_or((word, "")));
        (
            name,
            Self(
                pairs
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            ),
        )
    }

    /// Whether `key` is there, with or without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The value of `key`, or `default` where it is absent.
    pub(crate) fn get<T>(&self, key: &str, default: T) -> anyhow::Result<T>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        match self.0.get(key) {
            Some(text) => text.parse().with_context(|| format!("option {key}={text}")),
            None => Ok(default),
        }
    }
}

fn all() -> impl Iterator<Item = &'static (&'static str, Task)> {
    COMMON.iter().chain(devices::ALL)
}

/// The names of all tasks, for people.
pub(crate) fn names() -> String {
    all().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Runs one task in this process and reports its result.
pub(crate) fn run(line: &str) -> ExitCode {
    let (name, options) = Options::split(line);
    let outcome = match all().find(|(known, _)| *known == name) {
        Some((_, task)) => task(&options),
        None => Err(anyhow::anyhow!("no task {name:?}, only: {}", names())),
    };
    report::result(line, &outcome);
    if outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one task in a child and reports its result where the child could not.
pub(crate) fn spawn(line: &str) {
    if let Err(error) = spawn_and_wait(line) {
        report::result(line, &Err(error));
    }
}

fn spawn_and_wait(line: &str) -> anyhow::Result<()> {
    let limit = Options::split(line).1.get("timeout", TIMEOUT.as_secs())?;
    let mut child = Command::new("/proc/self/exe")
        .arg(line)
        .spawn()
        .context("cannot start the task")?;
    match wait(&mut child, Duration::from_secs(limit))? {
        None => bail!("killed after {limit} s"),
        // What exits has reported; a panic aborts.
        Some(status) if status.code().is_some() => Ok(()),
        Some(status) => bail!("the task died: {status}"),
    }
}

/// Waits for `child` at most `limit` (forever with zero); kills it and gives `None` when it takes longer.
pub(crate) fn wait(child: &mut std::process::Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("pidfd_open")?;
    let limit = Timespec::try_from(limit)?;
    let limit = Some(&limit).filter(|limit| limit.tv_sec != 0 || limit.tv_nsec != 0);
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], limit)? == 0 {
        pidfd_send_signal(&pidfd, Signal::KILL)?;
        child.wait()?;
        return Ok(None);
    }
    Ok(Some(child.wait()?))
}
