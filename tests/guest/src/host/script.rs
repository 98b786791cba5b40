// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shell scripts: the root of a simulated host is the machine's, with all its programs.

use anyhow::{Context, bail};
use std::process::{Command, Stdio};

/// Runs `text` to its end; what it printed. The first command that fails ends it.
pub(super) fn run(text: &str) -> anyhow::Result<String> {
    let output = Command::new("/bin/sh")
        .args(["-eu", "-c", text])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .context("/bin/sh")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{}\n{said}{errors}", output.status);
    }
    Ok(said)
}
