// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A program to start: shown to people, started here, or handed to a simulated host that starts it inside.

use serde_json::{Map, Value, json};
use std::fmt;
use std::path::Path;
use std::process::Command;

/// A program, its arguments and what its environment has besides ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    argv: Vec<String>,
    env: Vec<(String, String)>,
}

impl Launch {
    /// `program` without arguments.
    pub fn new(program: &Path) -> Self {
        Self {
            argv: vec![program.display().to_string()],
            env: Vec::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an option with its value.
    #[must_use]
    pub fn option(self, name: &str, value: &str) -> Self {
        self.args([name, value])
    }

    /// Sets one variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As a [`Command`].
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.argv[0]);
        command
            .args(&self.argv[1..])
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// As `{"argv": [...], "env": {...}}`, the form that the guest program reads.
    pub fn to_json(&self) -> Value {
        let env: Map<String, Value> = self
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        json!({ "argv": self.argv, "env": env })
    }
}

/// A line to paste into a shell.
impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        for (i, arg) in self.argv.iter().enumerate() {
            let gap = match i {
                0 => "",
                _ if arg.starts_with('-') => " \\\n    ",
                _ => " ",
            };
            write!(f, "{gap}{}", quoted(arg))?;
        }
        Ok(())
    }
}

/// `word` as a shell takes it literally.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::Launch;
    use std::path::Path;

    #[test]
    fn a_shell_takes_the_shown_line_literally() {
        let words = ["a b", "it's", "", "$HOME", "-x", "plain,key=value"];
        let shown = Launch::new(Path::new("printf"))
            .args(["%s\\n"])
            .args(words)
            .to_string();
        let output = std::process::Command::new("sh")
            .args(["-c", &shown])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words.join("\n") + "\n");
    }
}
