// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices of the host: a simulated host has the `uinput` that this machine may lack, and runs the daemon's own tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vu_e2e::artifacts::Lab;
use vu_e2e::host::{Host, Step};
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;

/// The program with the daemon's tests.
fn tests() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "test",
            "--no-run",
            "--package",
            "vhost-device-input",
            "--test",
            "behaviour",
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cargo")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["target"]["name"] == "behaviour";
        message["executable"]
            .as_str()
            .filter(|_| is_test)
            .map(PathBuf::from)
    });
    programs.next_back().context("no program")
}

/// Grab, hotkey, unplugging and plugging in again, ten fingers, lost events: with the devices of a real kernel.
#[test]
fn devices_of_a_simulated_host() -> Result<()> {
    if quick::skips("host::devices_of_a_simulated_host")? {
        return Ok(());
    }
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let script = format!("mkdir /run/t; TMPDIR=/run/t {} evdev:: 2>&1", tests()?.display());
        let host = Host::new(&lab.um_kernel()?, &lab.guest_program()?).then(Step::script(&script));
        let found = host.play(scratch)?;
        let said = found
            .first()
            .and_then(Value::as_str)
            .context("nothing was said")?;
        ensure!(said.contains("test result: ok. 6 passed"), "{said}");
        ensure!(!said.contains("SKIP"), "{said}");
        Ok(())
    })
}
