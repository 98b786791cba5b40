// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shell scripts, for machines whose root file system has a shell: those under User-mode Linux.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::task::Options;

/// The task `script`: runs the file that `path=` names; its output is the result.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    let path: String = options.get("path", String::new())?;
    ensure!(Path::new(&path).is_file(), "path={path}: no such file");
    let text = std::fs::read_to_string(&path).context(path)?;
    Ok(json!({ "output": shell(&text)? }))
}

/// Runs `text` to its end; what it printed. The first command that fails ends it.
pub(crate) fn shell(text: &str) -> anyhow::Result<String> {
    let output = command(text).output().context("/bin/sh")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("script: {}\n{said}{errors}", output.status);
    }
    Ok(said)
}

/// The command that runs `text`.
pub(crate) fn command(text: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-eu", "-c", text])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null());
    command
}
