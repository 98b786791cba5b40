// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask house`: the metrics of the house, per package and for all, beside the targets.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::tidy::source::{Source, walk};
use crate::{tidy, util};
use duplicates::{Pair, pairs};
use metrics::Metrics;

mod documented;
mod duplicates;
mod metrics;

/// The arguments: none.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A column: its heading, the target, and what stands in a row.
type Column = (&'static str, &'static str, fn(&Metrics) -> String);

const COLUMNS: [Column; 14] = [
    ("files", "", |m| m.files.len().to_string()),
    ("code", "", |m| m.code.to_string()),
    ("test/code", ">=1.0", |m| ratio(m.weighed.0, m.weighed.1)),
    ("tests", "", |m| m.tests.to_string()),
    ("biggest", "<=600", |m| {
        m.biggest().map_or(0, |file| file.lines).to_string()
    }),
    ("median", "<=180", |m| m.median().to_string()),
    (">600", "0", |m| {
        m.files.iter().filter(|file| file.lines > 600).count().to_string()
    }),
    ("longest fn", "<=60", |m| {
        m.longest().map_or(0, |function| function.lines).to_string()
    }),
    ("dup src", "0", |m| m.duplicates.0.to_string()),
    ("dup tests", "<=5", |m| m.duplicates.1.to_string()),
    ("unsafe/kLOC", "<=1 in <=3", |m| {
        format!("{} in {}", per_kilo(m.unsafes, m.code), m.unsafe_files)
    }),
    ("unwrap/kLOC", "<=1", |m| per_kilo(m.unwraps, m.code)),
    ("swallowed", "0", |m| m.swallowed.to_string()),
    ("documented", "100 %", |m| m.documented_share()),
];

pub(crate) fn run(_: Args) -> Result<()> {
    let sources = tidy::parse(&walk(&util::root()?)?)?;
    let duplicates = pairs(&sources);
    let mut packages: BTreeMap<&str, Metrics> = BTreeMap::new();
    for source in &sources {
        packages.entry(source.package()).or_default().add(source);
    }
    for pair in &duplicates {
        count(&mut packages, &sources, pair);
    }
    let mut total = Metrics::default();
    packages.values().for_each(|package| total.merge(package));
    let cells = |name: &str, metrics: &Metrics| -> Vec<String> {
        [name.to_owned()]
            .into_iter()
            .chain(COLUMNS.iter().map(|column| column.2(metrics)))
            .collect()
    };
    let heading = ["package"]
        .into_iter()
        .chain(COLUMNS.iter().map(|column| column.0));
    let target = ["target"]
        .into_iter()
        .chain(COLUMNS.iter().map(|column| column.1));
    let mut rows: Vec<Vec<String>> = vec![heading.map(str::to_owned).collect()];
    rows.extend(packages.iter().map(|(name, metrics)| cells(name, metrics)));
    rows.push(cells("total", &total));
    rows.push(target.map(str::to_owned).collect());
    print(&rows);
    details(&total, &duplicates, &sources);
    Ok(())
}

/// Counts a pair of equal runs for the package of the first; across packages for that of the second too.
fn count(packages: &mut BTreeMap<&str, Metrics>, sources: &[Source], pair: &Pair) {
    let ends = [&sources[pair.first.file], &sources[pair.second.file]];
    let test = pair.test || ends.iter().all(|source| source.is_test_package());
    if let Some(package) = packages.get_mut(ends[0].package()) {
        let counter = if test {
            &mut package.duplicates.1
        } else {
            &mut package.duplicates.0
        };
        *counter += 1;
    }
}

/// A table with the first column to the left and the others to the right.
fn print(rows: &[Vec<String>]) {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        println!("{line}");
    }
}

/// Where the extremes and the things that should not be are.
fn details(total: &Metrics, duplicates: &[Pair], sources: &[Source]) {
    println!();
    if let Some(file) = total.biggest() {
        println!("biggest file: {} ({} lines of code)", file.path, file.lines);
    }
    if let Some(function) = total.longest() {
        println!(
            "longest function: {} ({} lines of code)",
            function.path, function.lines
        );
    }
    for place in &total.undocumented {
        println!("undocumented: {place}");
    }
    for place in &total.globs {
        println!("glob import: {place}");
    }
    for pair in duplicates {
        let place = |end: &duplicates::Place| format!("{}:{}", sources[end.file].path, end.line);
        println!(
            "{} equal lines: {} and {}",
            pair.lines,
            place(&pair.first),
            place(&pair.second)
        );
    }
}

fn ratio(part: usize, whole: usize) -> String {
    if whole == 0 {
        "-".to_owned()
    } else {
        format!("{:.2}", part as f64 / whole as f64)
    }
}

fn per_kilo(count: usize, lines: usize) -> String {
    if lines == 0 {
        "-".to_owned()
    } else {
        format!("{:.1}", count as f64 * 1000.0 / lines as f64)
    }
}
