// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask tidy`: the house rules that a compiler does not know. Each finding is `file:line: rule: text`.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

use crate::util;
use source::{Source, Text};

pub(crate) mod code;
mod manifest;
mod size;
pub(crate) mod source;
mod text;
mod tree;
mod unsafety;

/// The arguments: none.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One place where a rule is broken, or (a note) nearly so.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    text: String,
    note: bool,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, text: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule,
            text: text.into(),
            note: false,
        }
    }

    fn note(path: &str, line: usize, rule: &'static str, text: impl Into<String>) -> Self {
        Self {
            note: true,
            ..Self::new(path, line, rule, text)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.note { " (note)" } else { "" };
        write!(
            f,
            "{}:{}: {}{note}: {}",
            self.path, self.line, self.rule, self.text
        )
    }
}

pub(crate) fn run(_: Args) -> Result<()> {
    let root = util::root()?;
    let (files, findings) = examine(&root)?;
    for finding in &findings {
        println!("{finding}");
    }
    let notes = findings.iter().filter(|finding| finding.note).count();
    let broken = findings.len() - notes;
    println!("tidy: {files} files, {broken} rules broken, {notes} notes");
    if broken > 0 {
        bail!("house rules broken in {broken} places");
    }
    Ok(())
}

/// Applies every rule to the tree at `root`: the number of files, and what was found in order of the place.
fn examine(root: &Path) -> Result<(usize, Vec<Finding>)> {
    let texts = source::walk(root)?;
    let sources = parse(&texts)?;
    let mut findings = Vec::new();
    for text in &texts {
        text::check(text, &mut findings);
    }
    for source in &sources {
        size::check(source, &mut findings);
        code::check(source, &mut findings);
    }
    unsafety::check(&sources, &mut findings);
    tree::check(root, &sources, &mut findings)?;
    manifest::check(root, &texts, &mut findings)?;
    findings.sort();
    Ok((texts.len(), findings))
}

/// The Rust files among `texts`.
pub(crate) fn parse(texts: &[Text]) -> Result<Vec<Source>> {
    let rust = texts.iter().filter(|text| text.path.ends_with(".rs"));
    rust.map(|text| Source::parse(&text.path, &text.text)).collect()
}

/// What the rules' own tests share.
#[cfg(test)]
mod testing {
    use super::{Finding, Source};

    /// What `check` finds in one Rust file, as `line: rule`.
    pub(super) fn found(check: fn(&Source, &mut Vec<Finding>), path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Source::parse(path, text).unwrap(), &mut findings);
        short(&findings)
    }

    /// The findings as `line: rule`.
    pub(super) fn short(findings: &[Finding]) -> Vec<String> {
        findings
            .iter()
            .map(|finding| format!("{}: {}", finding.line, finding.rule))
            .collect()
    }
}
