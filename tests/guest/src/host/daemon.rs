// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemons of a simulated host.

use super::output::Output;
use super::{LIMIT, command};
use crate::task::wait;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long the daemons are watched when they should do nothing.
const WATCH: Duration = Duration::from_millis(500);

/// How often the threads of an idle daemon may run in that time, which they have no reason to do at all.
const FEW: u64 = 3;

/// A running daemon. Killed when dropped.
pub(super) struct Daemon {
    socket: String,
    child: Child,
    log: Output,
}

impl Daemon {
    /// Starts a daemon and waits for its socket.
    pub(super) fn start(program: &Value) -> anyhow::Result<Self> {
        let socket = program["socket"].as_str().context("a daemon without socket")?;
        let mut child = command(program)?
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program["argv"]))?;
        let log = Output::copy(child.stderr.take().context("stderr")?);
        let mut daemon = Self {
            socket: socket.to_owned(),
            child,
            log,
        };
        let end = Instant::now() + LIMIT;
        while !Path::new(socket).exists() {
            daemon.must_run()?;
            ensure!(
                Instant::now() < end,
                "no socket at {socket} after {} s",
                LIMIT.as_secs()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(daemon)
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the daemon for {} has ended: {status}", self.socket),
            None => Ok(()),
        }
    }

    /// How often its threads have been given a CPU.
    fn runs(&self) -> anyhow::Result<u64> {
        let mut runs = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let path = thread?.path().join("status");
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let counts = text
                .lines()
                .filter_map(|line| line.split_once("ctxt_switches:"))
                .filter_map(|(_, count)| count.trim().parse::<u64>().ok());
            runs += counts.sum::<u64>();
        }
        Ok(runs)
    }

    /// Ends it, which must go well.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let socket = &self.socket;
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .with_context(|| format!("daemon at {socket}"))?;
        match wait(&mut self.child, LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the daemon at {socket} went with {status} after SIGTERM"),
            None => bail!(
                "the daemon at {socket} stayed {} s after SIGTERM",
                LIMIT.as_secs()
            ),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until one of them has logged `text`.
pub(super) fn says(daemons: &[Daemon], text: &str) -> anyhow::Result<Value> {
    let end = Instant::now() + LIMIT;
    while !daemons.iter().any(|daemon| daemon.log.has(text)) {
        ensure!(
            Instant::now() < end,
            "no daemon has said {text:?} after {} s",
            LIMIT.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Value::Null)
}

/// Checks that they are all there and do nothing.
pub(super) fn idle(daemons: &mut [Daemon]) -> anyhow::Result<Value> {
    for daemon in daemons {
        let end = Instant::now() + LIMIT;
        // What it has still to do may take it a moment.
        loop {
            daemon.must_run()?;
            let before = daemon.runs()?;
            std::thread::sleep(WATCH);
            let more = daemon.runs()?.saturating_sub(before);
            if more <= FEW {
                break;
            }
            ensure!(
                Instant::now() < end,
                "the daemon at {} does not come to rest: it ran {more} times in {} ms",
                daemon.socket,
                WATCH.as_millis()
            );
        }
    }
    Ok(Value::Null)
}
