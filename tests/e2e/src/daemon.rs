// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's daemon: built, started, stopped.

use crate::launch::Launch;
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
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

/// What a daemon answers to `command` at its control socket, for people: that it does not is an answer, too.
pub fn answer(control: &Path, command: &str) -> String {
    let ask = || -> Result<String> {
        let mut stream = UnixStream::connect(control)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{}", json!({ "command": command }))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    ask().unwrap_or_else(|error| format!("{error:#}"))
}

/// What a daemon says when a front end may connect.
const LISTENS: &str = "Waiting for vhost-user socket connection...\n";

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    launch: Launch,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` and waits until it listens at a socket in `scratch`; its log is kept there.
    ///
    /// # Errors
    /// When it ends instead, with its log.
    pub fn start(program: &Path, args: &[&str], scratch: &Scratch) -> Result<Self> {
        Self::start_at(program, args, &Self::socket_in(scratch))
    }

    /// As [`Daemon::start`], at `socket`, which ends in `.sock`; its log lies beside it.
    ///
    /// # Errors
    /// When it ends instead, with its log.
    pub fn start_at(program: &Path, args: &[&str], socket: &Path) -> Result<Self> {
        let launch = Self::launch(program, args, socket);
        let log = socket.with_extension("log");
        Ok(Self {
            child: spawn(&launch, &log)?,
            launch,
            socket: socket.to_owned(),
            log,
        })
    }

    /// Kills it without warning and starts it again at the same socket, which the killed one has left behind.
    ///
    /// # Errors
    /// When the new one ends instead of listening, with its log.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.launch, &self.log)?;
        Ok(())
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

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the daemon has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has `text`.
    ///
    /// # Errors
    /// When it does not come, with the log.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            let log = self.log();
            ensure!(
                Instant::now() < end,
                "the daemon does not say {text:?}, but:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("{signal:?}"))
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
        self.signal(Signal::TERM)?;
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

/// Starts a daemon and waits until it listens.
fn spawn(launch: &Launch, log: &Path) -> Result<Child> {
    let output = File::options().create(true).append(true).open(log)?;
    // What an earlier one has said does not count.
    let before = usize::try_from(output.metadata()?.len())?;
    let mut command = launch.command();
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = command
        .spawn()
        .with_context(|| command.get_program().display().to_string())?;
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if text.get(before..).is_some_and(|text| text.contains(LISTENS)) {
            return Ok(child);
        }
        let status = child.try_wait()?;
        if status.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let _ = child.kill();
        let _ = child.wait();
        match status {
            Some(status) => bail!("the daemon ended at once: {status}\n{text}"),
            None => bail!(
                "the daemon does not listen after {} s\n{text}",
                PATIENCE.as_secs()
            ),
        }
    }
}
