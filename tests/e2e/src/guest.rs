// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A running guest, whatever runs it: its console, the events on it, its end.

use crate::cpu::Cpu;
use crate::launch::Launch;
use crate::scratch::Scratch;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long a guest may take from its start to its end, unless it says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// How much of a console an error shows.
const TAIL: usize = 60;

/// How much of each line of it.
const WIDTH: usize = 200;

/// How a guest ends when its tasks are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// It powers off.
    #[default]
    PowerOff,
    /// It reboots, and does the same again where the machine allows it.
    Reboot,
    /// It reads further tasks from the console: see [`Guest::task`].
    Serve,
}

/// What a guest does: tasks of the guest program, in order, and its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    tasks: Vec<String>,
    pub(crate) end: End,
}

impl Script {
    /// Runs one task, `NAME[,KEY=VALUE...]`, and ends with `end`.
    pub fn new(task: &str, end: End) -> Self {
        Self {
            tasks: vec![task.to_owned()],
            end,
        }
    }

    /// Runs a further task before the end.
    #[must_use]
    pub fn then(mut self, task: &str) -> Self {
        self.tasks.push(task.to_owned());
        self
    }

    /// Waits for tasks from the console.
    pub fn serve() -> Self {
        Self {
            tasks: Vec::new(),
            end: End::Serve,
        }
    }
}

/// The words of the kernel command line.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks: String = self.tasks.iter().map(|task| format!("vu.run={task} ")).collect();
        let end = match self.end {
            End::PowerOff => "poweroff",
            End::Reboot => "reboot",
            End::Serve => "serve",
        };
        write!(f, "{tasks}vu.end={end}")
    }
}

/// A guest. Killed when dropped; its console stays in the scratch folder when the test failed.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    console: PathBuf,
    end: Instant,
    _cpu: Cpu,
}

impl Guest {
    /// Starts a guest whose console is on the standard input and output of `launch`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(launch: &Launch, scratch: &Scratch) -> Result<Self> {
        let cpu = Cpu::take()?;
        let console = (0..)
            .map(|i| scratch.path(&format!("console-{i}.log")))
            .find(|path| !path.exists())
            .context("no free name for the console")?;
        let log = File::create(&console)?;
        let mut command = launch.command();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        let mut child = cpu.spawn(&mut command)?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().context("stdout")?;
        std::thread::spawn(move || copy_lines(stdout, log, &sender));
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            stdin,
            lines,
            console,
            end: Instant::now() + DEADLINE,
            _cpu: cpu,
        })
    }

    /// Waits for the next event `name` on the console.
    ///
    /// # Errors
    /// When the guest ends or its deadline passes first; with the end of the console.
    pub fn event(&mut self, name: &str) -> Result<Value> {
        self.find(name, |event| event["event"] == name)
    }

    /// Waits for the result of the task `name` and checks that it went well.
    ///
    /// # Errors
    /// As [`Guest::event`], and with the task's own error.
    pub fn result(&mut self, name: &str) -> Result<Value> {
        let result = self.outcome(name)?;
        if result["ok"] != true {
            let error = result["error"].as_str().unwrap_or_default();
            return Err(self.failed(anyhow!("{name} in the guest: {error}")));
        }
        Ok(result)
    }

    /// Waits for the result of the task `name`, good or bad.
    ///
    /// # Errors
    /// When the guest ends or its deadline passes first.
    pub fn outcome(&mut self, name: &str) -> Result<Value> {
        let what = format!("result of {name}");
        self.find(&what, |event| event["event"] == "result" && event["task"] == name)
    }

    /// Has a guest with [`End::Serve`] run `task` and waits for its result.
    ///
    /// # Errors
    /// As [`Guest::event`].
    pub fn task(&mut self, task: &str) -> Result<Value> {
        self.say(task)?;
        self.result(task.split(',').next().unwrap_or_default())
    }

    /// Writes a line to the console.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the console is closed")?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .map_err(|error| self.failed(error.into()))
    }

    /// Waits until the guest's machine is off, and checks that it went well.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn finish(mut self) -> Result<()> {
        while self.line("end")?.is_some() {}
        while Instant::now() < self.end {
            if let Some(status) = self.child.try_wait()? {
                ensure!(
                    status.success(),
                    self.failed(anyhow!("the guest's program ended with {status}"))
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(self.failed(anyhow!("the guest closed its console and did not end")))
    }

    fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        while let Some(line) = self.line(what)? {
            let Some(event) = parse_event(&line) else { continue };
            if wanted(&event) {
                return Ok(event);
            }
        }
        Err(self.failed(anyhow!("the guest ended without: {what}")))
    }

    /// The next line of the console; none when it is closed.
    fn line(&mut self, what: &str) -> Result<Option<String>> {
        match self
            .lines
            .recv_timeout(self.end.saturating_duration_since(Instant::now()))
        {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.failed(anyhow!("waited {} s in vain for: {what}", DEADLINE.as_secs())))
            }
        }
    }

    /// `error` with the end of the console; the console is kept.
    fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        let text = std::fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let lines: Vec<String> = lines.map(|line| line.chars().take(WIDTH).collect()).collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        error.context(format!("console {} ends with:\n{tail}\n", self.console.display()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the guest's console is in {}", self.console.display());
        }
    }
}

/// Copies the console to its log and sends each line, as soon as it is whole.
fn copy_lines(stdout: ChildStdout, mut log: File, sender: &Sender<String>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // The log is for people, who can do without a line of it; the guest goes on when nobody listens.
        let _ = log.write_all(&line);
        let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        line.clear();
    }
}

/// The event on a line of the console, after whatever else stands on it.
pub fn parse_event(line: &str) -> Option<Value> {
    let mut objects = line
        .match_indices('{')
        .filter_map(|(start, _)| serde_json::from_str(line[start..].trim_end()).ok());
    objects.find(|object: &Value| object["event"].is_string())
}

#[cfg(test)]
mod tests {
    use super::{End, Script, parse_event};

    #[test]
    fn an_event_is_found_behind_a_kernel_message() {
        let event =
            parse_event("[    1.0] foo: {bar} {\"at\":{\"a\":1},\"event\":\"end\",\"how\":\"reboot\"}\r\n")
                .unwrap();
        assert_eq!(event["how"], "reboot");
        assert_eq!(parse_event("{\"event\":\"en\r\n"), None);
        assert_eq!(parse_event("plain"), None);
    }

    #[test]
    fn a_script_is_words_of_the_kernel_command_line() {
        assert_eq!(
            Script::new("rng,bytes=1", End::Reboot).to_string(),
            "vu.run=rng,bytes=1 vu.end=reboot"
        );
        assert_eq!(
            Script::new("a", End::PowerOff).then("b,x=1").to_string(),
            "vu.run=a vu.run=b,x=1 vu.end=poweroff"
        );
        assert_eq!(Script::serve().to_string(), "vu.end=serve");
    }
}
