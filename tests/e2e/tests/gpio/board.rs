// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The world around a simulated board: what is outside of its lines.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the guest may take to do something to a line.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the commands of a board.
pub(crate) struct Board(BufReader<UnixStream>);

impl Board {
    pub(crate) fn at(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Gives a command, and gets the answer of one line.
    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.0.get_ref(), "{command}")?;
        self.answer().with_context(|| command.to_owned())
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Gives a line a level from outside.
    pub(crate) fn set(&mut self, line: &str, high: bool) -> Result<()> {
        let answer = self.ask(&format!("set {line} {}", u8::from(high)))?;
        ensure!(answer == "ok", "{line}: {answer}");
        Ok(())
    }

    /// The level that a line has now.
    pub(crate) fn level(&mut self, line: &str) -> Result<bool> {
        let answer = self.ask(&format!("get {line}"))?;
        ensure!(["0", "1"].contains(&&*answer), "{line}: {answer}");
        Ok(answer == "1")
    }

    /// Waits until a line has a level.
    pub(crate) fn wait(&mut self, line: &str, high: bool) -> Result<()> {
        self.until(
            |board| Ok(board.level(line)? == high),
            || format!("{line} is not {}", u8::from(high)),
        )
    }

    /// What is known of each line: number, name, direction and level.
    pub(crate) fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = vec![self.ask("lines")?];
        while lines.last().is_some_and(|line| line != "ok") {
            lines.push(self.answer()?);
        }
        lines.pop();
        Ok(lines)
    }

    /// Waits until [`Board::lines`] has `line`.
    pub(crate) fn wait_for(&mut self, line: &str) -> Result<()> {
        self.until(
            |board| Ok(board.lines()?.iter().any(|known| known == line)),
            || format!("no line is {line:?}"),
        )
    }

    fn until(
        &mut self,
        done: impl Fn(&mut Self) -> Result<bool>,
        complaint: impl Fn() -> String,
    ) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(self)? {
            ensure!(
                Instant::now() < end,
                "{} after {} s",
                complaint(),
                PATIENCE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
