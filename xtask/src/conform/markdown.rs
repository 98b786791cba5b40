// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results as a Markdown table.

use std::fmt::Write as _;

use vu_testkit::conformance::{Case, Outcome};

use super::Results;

/// A table with a row per case and a column per back end, and below it the totals and the reasons of the failures.
pub(super) fn table(cases: &[&'static Case], columns: &[(String, Results)]) -> String {
    let mut text = String::from("| case | rule |");
    for (title, _) in columns {
        let _ = write!(text, " {title} |");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for (index, case) in cases.iter().enumerate() {
        let name = format!("{}: {}", case.group, case.name.replace('_', " "));
        let _ = write!(text, "| {name} | {} |", case.kind);
        for (_, results) in columns {
            let _ = write!(text, " {} |", results.get(&index).map_or("", word));
        }
        text.push('\n');
    }
    let _ = write!(text, "| **passed / failed / skipped** | |");
    for (_, results) in columns {
        let count = |wanted: &str| results.values().filter(|outcome| word(outcome) == wanted).count();
        let _ = write!(
            text,
            " {} / {} / {} |",
            count("pass"),
            count("**fail**"),
            count("skip")
        );
    }
    text.push('\n');
    for (title, results) in columns {
        let _ = writeln!(text, "\nFailures of {title}:\n");
        for (index, case) in cases.iter().enumerate() {
            if let Some(Outcome::Failed(reason)) = results.get(&index) {
                let first = reason.lines().next().unwrap_or("").replace('|', "/");
                let _ = writeln!(
                    text,
                    "- {}: {} — {first}",
                    case.group,
                    case.name.replace('_', " ")
                );
            }
        }
    }
    text
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "pass",
        Outcome::Failed(_) => "**fail**",
        Outcome::Skipped(_) => "skip",
    }
}
