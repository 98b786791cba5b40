// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that a build needs: found, installed where we may, else named with their package.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Whether `program` is in `PATH`, or in the folders that only root has there. An absolute path, such as that of a
/// header file, is looked for where it says.
pub fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir: PathBuf| dir.join(program).is_file())
}

/// The command of a program that [`installed`] may have found where only root looks.
pub fn command(program: &str) -> Command {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut command = Command::new(program);
    command.env("PATH", path);
    command
}

/// Sees to it that each tool is there. `tools` are pairs of a program (or the path of a
/// file) and the Debian package that has it.
///
/// What is missing is installed, after saying so, when we are root or `sudo` asks no password.
///
/// # Errors
/// Names the packages when they cannot be installed.
pub fn ensure(tools: &[(&str, &str)]) -> Result<()> {
    let mut packages: Vec<&str> = tools
        .iter()
        .filter(|(program, _)| !installed(program))
        .map(|&(_, package)| package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages).with_context(|| format!("install these packages first: {}", packages.join(" ")))
}

/// Installs Debian packages on the machine; the package lists are fetched only when the first attempt fails.
fn install(packages: &[&str]) -> Result<()> {
    if !installed("apt-get") {
        bail!("apt-get: not found");
    }
    let sudo: &[&str] = if rustix::process::geteuid().is_root() {
        &[]
    } else if sudo_without_password() {
        &["sudo", "-n"]
    } else {
        bail!("neither root nor allowed to sudo without a password");
    };
    eprintln!("lab: installing missing packages: {}", packages.join(" "));
    let apt = |args: &[&str]| -> Result<()> {
        let words = [
            sudo,
            &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"],
            args,
        ]
        .concat();
        let output = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .output()
            .context("apt-get")?;
        if !output.status.success() {
            bail!(
                "apt-get {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
}

fn sudo_without_password() -> bool {
    let quiet = |program: &str| {
        Command::new(program)
            .args(["-n", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    };
    installed("sudo") && quiet("sudo").is_ok_and(|status| status.success())
}

/// The first line that `program --version` prints.
///
/// # Errors
/// When the program cannot be run.
pub(super) fn version(program: impl AsRef<Path>) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
