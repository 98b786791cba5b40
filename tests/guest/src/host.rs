// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The task `host`: this machine plays the host of a further guest.
//!
//! `plan=PATH` names a JSON file that lies on the shared root file system:
//!
//! ```json
//! { "daemons": [{ "argv": ["/path/to/daemon", "..."], "env": {}, "socket": "/run/x.sock" }],
//!   "guest": { "argv": ["/path/to/kernel", "..."], "env": { "TMPDIR": "/dev/shm" } },
//!   "before": "modprobe ...", "during": "...", "after": "...",
//!   "seconds": 60 }
//! ```
//!
//! The three scripts are optional: they make hardware before the daemons start, play with it while the guest runs, and look at
//! it when the guest has ended. Their output is the result. Each daemon is started and its socket awaited; then the guest runs to its end, its console on ours; then the
//! daemons get SIGTERM and must go with exit code 0.

use crate::script::shell;
use crate::task::{Options, wait};
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to listen, and to go.
const DAEMON: Duration = Duration::from_secs(20);

/// Plays the plan.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    let path: String = options.get("plan", String::new())?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("plan={path}"))?;
    let plan: Value = serde_json::from_str(&text).with_context(|| path.clone())?;
    let limit = Duration::from_secs(plan["seconds"].as_u64().unwrap_or(60));
    let before = scripted(&plan, "before")?;
    let mut daemons = Vec::new();
    for daemon in plan["daemons"].as_array().into_iter().flatten() {
        daemons.push(start_daemon(daemon)?);
    }
    let mut guest = command(&plan["guest"])?
        .stdin(Stdio::null())
        .spawn()
        .context("start the guest")?;
    let during = scripted(&plan, "during");
    let Some(status) = wait(&mut guest, limit)? else {
        bail!("the guest was killed after {} s", limit.as_secs());
    };
    let after = scripted(&plan, "after")?;
    for (name, daemon) in &mut daemons {
        stop_daemon(name, daemon)?;
    }
    ensure!(status.success(), "the guest ended with {status}");
    Ok(json!({ "before": before, "during": during?, "after": after }))
}

/// Runs a script of the plan, if it has this one; what it printed.
fn scripted(plan: &Value, name: &str) -> anyhow::Result<String> {
    match plan[name].as_str() {
        Some(text) => shell(text).with_context(|| name.to_owned()),
        None => Ok(String::new()),
    }
}

fn command(program: &Value) -> anyhow::Result<Command> {
    let mut argv = program["argv"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let mut command = Command::new(argv.next().context("the plan names a program without argv")?);
    command.args(argv);
    for (key, value) in program["env"].as_object().into_iter().flatten() {
        command.env(key, value.as_str().unwrap_or_default());
    }
    Ok(command)
}

fn start_daemon(daemon: &Value) -> anyhow::Result<(String, Child)> {
    let socket = daemon["socket"]
        .as_str()
        .context("the plan names a daemon without socket")?;
    let mut child = command(daemon)?
        .spawn()
        .with_context(|| format!("start {}", daemon["argv"]))?;
    let end = Instant::now() + DAEMON;
    while !Path::new(socket).exists() {
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended before it listened at {socket}: {status}");
        }
        ensure!(
            Instant::now() < end,
            "no socket at {socket} after {} s",
            DAEMON.as_secs()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((socket.to_owned(), child))
}

fn stop_daemon(socket: &str, daemon: &mut Child) -> anyhow::Result<()> {
    kill_process(Pid::from_child(daemon), Signal::TERM).with_context(|| format!("daemon at {socket}"))?;
    match wait(daemon, DAEMON)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("the daemon at {socket} went with {status} after SIGTERM"),
        None => bail!(
            "the daemon at {socket} stayed {} s after SIGTERM",
            DAEMON.as_secs()
        ),
    }
}
