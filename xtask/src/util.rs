// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every task needs: where things are, running a program with a line of progress, what did not run.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use vu_e2e::artifacts::Lab;

/// The folder of the workspace: the nearest one upwards whose `Cargo.toml` has a `[workspace]`.
pub(crate) fn root() -> Result<PathBuf> {
    let start = match env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => env::current_dir().context("current folder")?,
    };
    let is_root = |dir: &&Path| {
        std::fs::read_to_string(dir.join("Cargo.toml"))
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "[workspace]"))
    };
    match start.ancestors().find(is_root) {
        Some(dir) => Ok(dir.to_path_buf()),
        None => bail!("{}: not inside the workspace", start.display()),
    }
}

/// The cache folder of the lab, for what else is built once per user and outlives a clone.
pub(crate) fn cache() -> Result<PathBuf> {
    Ok(Lab::open()?.folder().to_path_buf())
}

/// Prints a line of progress.
pub(crate) fn step(what: &str) {
    eprintln!("==> {what}");
}

/// `cargo`, the one that runs us, in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root()?);
    Ok(command)
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![
        Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy(),
    ];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy()));
    words.join(" ")
}

/// Runs to the end with our own stdin, stdout and stderr; an error if it did not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    step(&shown(command));
    let status = command.status().with_context(|| shown(command))?;
    if !status.success() {
        bail!("`{}`: {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end and hands back stdout; an error, with stderr in it, if it did not exit with 0.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| shown(command))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}: {}", shown(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", shown(command)))
}

/// Runs to the end, prints each line of stdout as it comes and shows it to `each`. True if it exited with 0.
pub(crate) fn watch(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    step(&shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| shown(command))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("output of `{}`", shown(command)))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            each(&line);
        }
    }
    Ok(child.wait().with_context(|| shown(command))?.success())
}

/// Says on stderr that `what` did not run, and records it for the totals of `cargo xtask test`.
pub(crate) fn skip(what: &str, reason: &str) -> Result<()> {
    let line = format!("SKIP {what}: {reason}");
    eprintln!("{line}");
    if let Some(log) = env::var_os("VU_SKIP_LOG") {
        let mut file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| Path::new(&log).display().to_string())?;
        writeln!(file, "{line}").with_context(|| Path::new(&log).display().to_string())?;
    }
    Ok(())
}
