// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a person sees while a part is built: one line per phase, alive on a terminal; the whole output goes to a log.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often a line appears where there is no terminal to rewrite one on.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How much of the log an error shows.
const TAIL: u64 = 1500;

/// The phases of one part, and their log.
#[derive(Debug)]
pub(super) struct Progress {
    part: String,
    log: PathBuf,
}

impl Progress {
    /// Begins the log of `part` anew.
    pub(super) fn new(part: &str, log: PathBuf) -> Result<Self> {
        File::create(&log).with_context(|| log.display().to_string())?;
        Ok(Self {
            part: part.to_owned(),
            log,
        })
    }

    /// Runs `command` to its end as the phase `what`.
    pub(super) fn run(&self, what: &str, command: &mut Command) -> Result<()> {
        let mut log = File::options()
            .append(true)
            .open(&self.log)
            .with_context(|| self.log.display().to_string())?;
        writeln!(log, "+ {command:?}")?;
        let start = Instant::now();
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.clone())?;
        let mut spoke = start;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            thread::sleep(TICK);
            if stderr().is_terminal() {
                eprint!("\r\x1b[K{} {:.60}", self.line(what, start), self.last_line());
            } else if spoke.elapsed() > HEARTBEAT {
                spoke = Instant::now();
                eprintln!("{} so far", self.line(what, start));
            }
        };
        if stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        eprintln!("{}", self.line(what, start));
        self.check(&program, status)
    }

    fn check(&self, program: &str, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        bail!(
            "{program}: {status}; the log {} ends with:\n{}",
            self.log.display(),
            tail(&self.log, TAIL).trim_end()
        )
    }

    fn line(&self, what: &str, start: Instant) -> String {
        format!(
            "lab: {}: {what}, {:.1} s",
            self.part,
            start.elapsed().as_secs_f32()
        )
    }

    fn last_line(&self) -> String {
        let text = tail(&self.log, 200);
        text.lines().last().unwrap_or_default().trim().to_owned()
    }
}

/// The last `length` bytes of a file as text; nothing when it cannot be read.
fn tail(path: &Path, length: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = fs::metadata(path)?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(length)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
