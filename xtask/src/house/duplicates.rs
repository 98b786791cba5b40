// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs of equal lines in two places: the second was copied, and will be mended in one place only.

use std::collections::HashMap;

use crate::tidy::source::Source;

/// The fewest lines of code in a row that count.
const LINES: usize = 12;

/// A line of a file, given by its place in the list of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) line: usize,
}

/// Two equal runs of lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) first: Place,
    pub(super) second: Place,
    pub(super) lines: usize,
    /// True if both are tests.
    pub(super) test: bool,
}

/// Every pair of equal runs, each as long as it goes. Blanks, comments and indentation do not matter.
pub(super) fn pairs(sources: &[Source]) -> Vec<Pair> {
    let files: Vec<Vec<(usize, &str)>> = sources.iter().map(|source| source.code().collect()).collect();
    let mut windows: HashMap<Vec<&str>, Vec<(usize, usize)>> = HashMap::new();
    for (file, lines) in files.iter().enumerate() {
        for (start, window) in lines.windows(LINES).enumerate() {
            let text = window.iter().map(|&(_, line)| line).collect();
            windows.entry(text).or_default().push((file, start));
        }
    }
    let mut found = Vec::new();
    for places in windows.values() {
        for (index, &a) in places.iter().enumerate() {
            for &b in &places[index + 1..] {
                found.extend(longest(sources, &files, a, b));
            }
        }
    }
    found.sort_by_key(|pair: &Pair| (pair.first, pair.second));
    found
}

/// The pair that begins at `a` and `b`; none if it began a line earlier.
fn longest(
    sources: &[Source],
    files: &[Vec<(usize, &str)>],
    a: (usize, usize),
    b: (usize, usize),
) -> Option<Pair> {
    let text = |(file, index): (usize, usize)| files[file].get(index).map(|&(_, line)| line);
    let before = |(file, index): (usize, usize)| index.checked_sub(1).and_then(|index| text((file, index)));
    if before(a).is_some() && before(a) == before(b) {
        return None;
    }
    let after = |(file, index): (usize, usize), more| text((file, index + more));
    let lines = (0..)
        .take_while(|&more| after(a, more).is_some() && after(a, more) == after(b, more))
        .count();
    let place = |(file, index): (usize, usize)| Place {
        file,
        line: files[file][index].0,
    };
    let (first, second) = (place(a), place(b));
    let test = [first, second]
        .iter()
        .all(|place| sources[place.file].is_test(place.line));
    Some(Pair {
        first,
        second,
        lines,
        test,
    })
}

#[cfg(test)]
mod tests {
    use super::{Pair, Place, Source, pairs};

    fn body(name: &str, lines: usize) -> String {
        let calls: String = (0..lines).map(|n| format!("    call({n});\n")).collect();
        format!("fn {name}() {{\n{calls}    last_of_{name}();\n}}\n")
    }

    #[test]
    fn equal_runs_are_found_once_at_full_length() {
        let parse = |path, text: &str| Source::parse(path, text).unwrap();
        let sources = [
            parse("xtask/src/a.rs", &body("f", 15)),
            parse("xtask/src/b.rs", &body("g", 15)),
        ];
        let (first, second) = (Place { file: 0, line: 2 }, Place { file: 1, line: 2 });
        assert_eq!(
            pairs(&sources),
            [Pair {
                first,
                second,
                lines: 15,
                test: false
            }]
        );
    }

    #[test]
    fn short_runs_are_not_counted() {
        let text = body("f", 11) + &body("g", 11);
        assert!(pairs(&[Source::parse("xtask/src/a.rs", &text).unwrap()]).is_empty());
    }

    #[test]
    fn runs_within_one_file_and_in_tests_are_told_apart() {
        let text = body("f", 12) + &body("g", 12);
        let found = pairs(&[Source::parse("crates/x/tests/a.rs", &text).unwrap()]);
        assert!(found.len() == 1 && found[0].test && found[0].lines == 12);
    }
}
