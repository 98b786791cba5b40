// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The task `shell`: an interactive busybox shell on the console, with job control.

use crate::mounts::is_program;
use crate::task::Options;
use anyhow::{Context, bail};
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::Command;

const BUSYBOX: &str = "/bin/busybox";

/// Becomes the shell: returns only when that fails.
pub(crate) fn run(_: &Options) -> anyhow::Result<Value> {
    if !is_program(BUSYBOX) {
        bail!("{BUSYBOX}: not in this guest");
    }
    // `/bin/ls` and the like; a shell without them would still be one.
    let _ = Command::new(BUSYBOX).args(["--install", "-s", "/bin"]).status();
    setsid().context("setsid")?;
    let path = terminal();
    // Not `/dev/console`: a console cannot be a controlling terminal, and Ctrl-C needs one.
    let tty = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| path.clone())?;
    ioctl_tiocsctty(&tty).with_context(|| format!("{path}: cannot be the controlling terminal"))?;
    let mut modes = tcgetattr(&tty)?;
    modes.local_modes.insert(LocalModes::ECHO);
    modes.output_modes.insert(OutputModes::ONLCR);
    tcsetattr(&tty, OptionalActions::Now, &modes)?;
    let error = Command::new(BUSYBOX)
        .args(["sh", "-i"])
        .env_clear()
        .envs([
            ("PATH", "/bin:/sbin:/usr/bin:/usr/sbin"),
            ("HOME", "/"),
            ("TERM", "vt102"),
            ("PS1", "guest# "),
        ])
        .stdin(tty.try_clone()?)
        .stdout(tty.try_clone()?)
        .stderr(tty)
        .exec();
    Err(error).context(BUSYBOX)
}

/// The terminal behind `/dev/console`: the last one that the kernel lists.
fn terminal() -> String {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    format!("/dev/{}", active.split_whitespace().last().unwrap_or("console"))
}
