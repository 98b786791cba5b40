// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's daemon: built, started, stopped.

use crate::launch::Launch;
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to listen, and to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which build of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// With overflow checks and debug assertions: for tests.
    Debug,
    /// As users run it.
    Release,
}

/// Builds the package `name` of this workspace and gives the path of its program of the same name.
///
/// # Errors
/// When it does not compile.
pub fn build(name: &str, profile: Profile) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--package",
            name,
            "--bin",
            name,
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    if profile == Profile::Release {
        command.arg("--release");
    }
    let output = command.output().context("cargo")?;
    ensure!(
        output.status.success(),
        "cargo build --package {name}: {}",
        output.status
    );
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    programs
        .next_back()
        .with_context(|| format!("cargo build --package {name}: no program"))
}

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` and waits until it listens at a socket in `scratch`; its log is kept there.
    ///
    /// # Errors
    /// When it ends instead, with its log.
    pub fn start(program: &Path, args: &[&str], scratch: &Scratch) -> Result<Self> {
        let socket = Self::socket_in(scratch);
        let log = scratch.path("daemon.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let child = Self::launch(program, args, &socket)
            .command()
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut daemon = Self { child, socket, log };
        daemon.wait_for_socket()?;
        Ok(daemon)
    }

    /// Where a daemon that is started in `scratch` listens.
    pub fn socket_in(scratch: &Scratch) -> PathBuf {
        scratch.path("vhost.sock")
    }

    /// The line that starts `program` at `socket`.
    pub fn launch(program: &Path, args: &[&str], socket: &Path) -> Launch {
        Launch::new(program)
            .args(["--socket-path".to_owned(), socket.display().to_string()])
            .args(args.iter().copied())
    }

    fn wait_for_socket(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.socket.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended at once: {status}\n{}", self.log());
            }
            ensure!(
                Instant::now() < end,
                "no socket after {} s\n{}",
                PATIENCE.as_secs(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the daemon has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("SIGTERM")?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "still there {} s after SIGTERM\n{}",
                PATIENCE.as_secs(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
    }
}
