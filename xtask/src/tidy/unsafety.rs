// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `unsafe` is a property of a file: it is listed here, says why at its top, and each block argues for itself.

use std::collections::HashMap;

use super::Finding;
use super::source::Source;

/// The files that may contain `unsafe`. A new one needs a reason that survives a review.
const LISTED: &[&str] = &[
    "crates/vhost-device-i2c/src/backend/linux/sys.rs",
    "crates/vhost-device-input/src/backend/evdev/sys.rs",
    "crates/vu-common/src/memory.rs",
    "crates/vu-common/src/sandbox/namespace.rs",
    "crates/vu-common/src/segments.rs",
    "crates/vu-common/src/sigbus.rs",
    "crates/vu-common/src/signal.rs",
    "crates/vu-common/src/socket.rs",
    "crates/vu-common/src/spin.rs",
    "crates/vu-common/tests/session/uring.rs",
    "crates/vu-storage/src/file/sys.rs",
    "crates/vu-storage/src/file/uring.rs",
    "crates/vu-storage/src/nbd/sys.rs",
    "crates/vu-storage/src/qcow2/storage.rs",
    "crates/vu-testkit/src/memory.rs",
    "crates/vu-testkit/src/page_cache.rs",
    "tests/bench/src/buffers.rs",
];

pub(super) fn check(sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources {
        declared(source, LISTED, findings);
    }
    for listed in LISTED
        .iter()
        .filter(|listed| !sources.iter().any(|source| source.path == **listed))
    {
        findings.push(Finding::new(
            listed,
            1,
            "unsafe-listed",
            "is listed in tidy but does not exist",
        ));
    }
    arguments(sources, findings);
}

/// A file with `unsafe` is on the list and says why at its top; a file on the list has `unsafe`.
fn declared(source: &Source, list: &[&str], findings: &mut Vec<Finding>) {
    let listed = list.contains(&source.path.as_str());
    let first = source
        .find(&["unsafe"])
        .chain(source.find(&["allow", "(", "unsafe_code"]))
        .min();
    let mut push = |line, rule, text| findings.push(Finding::new(&source.path, line, rule, text));
    let Some(line) = first else {
        if listed {
            push(
                1,
                "unsafe-listed",
                "is listed in tidy but has no `unsafe`: take it off the list",
            );
        }
        return;
    };
    if !listed {
        push(
            line,
            "unsafe-listed",
            "only the files listed in tidy may have `unsafe`",
        );
    }
    let head = source
        .text
        .lines()
        .take_while(|line| line.starts_with("//") || line.trim().is_empty());
    if !head
        .into_iter()
        .any(|line| line.trim_start_matches(['/', '!']).starts_with(" UNSAFETY: "))
    {
        push(
            line,
            "unsafety",
            "the file's head needs `UNSAFETY: why this file`",
        );
    }
}

/// The same argument in two places was not thought about in one of them.
fn arguments(sources: &[Source], findings: &mut Vec<Finding>) {
    let mut seen: HashMap<String, String> = HashMap::new();
    for source in sources {
        for (line, argument) in safety_comments(&source.text) {
            let place = format!("{}:{line}", source.path);
            if let Some(earlier) = seen.get(&argument) {
                let text = format!("the same SAFETY text as {earlier}");
                findings.push(Finding::new(&source.path, line, "safety-copied", text));
            } else {
                seen.insert(argument, place);
            }
        }
    }
}

/// Each `// SAFETY:` comment: its line, and its text with the lines that continue it.
fn safety_comments(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim).enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let Some(argument) = line.strip_prefix("// SAFETY:") else {
            continue;
        };
        let mut words: Vec<&str> = argument.split_whitespace().collect();
        while let Some((_, more)) =
            lines.next_if(|(_, line)| line.starts_with("//") && !line.contains("SAFETY:"))
        {
            words.extend(more.trim_start_matches('/').split_whitespace());
        }
        found.push((index + 1, words.join(" ")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::short;
    use super::{Source, arguments, declared};

    const GOOD: &str = "// SPDX\n// UNSAFETY: maps memory\n\nfn f() {\n    unsafe { g() }\n}\n";

    fn find(text: &str, list: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        declared(
            &Source::parse("crates/vu-common/src/x.rs", text).unwrap(),
            list,
            &mut findings,
        );
        short(&findings)
    }

    #[test]
    fn unsafe_outside_of_the_list_is_found() {
        assert_eq!(find(GOOD, &[]), ["5: unsafe-listed"]);
        assert!(find(GOOD, &["crates/vu-common/src/x.rs"]).is_empty());
        assert_eq!(
            find("// UNSAFETY: x\n#![allow(unsafe_code, reason = \"x\")]", &[]),
            ["2: unsafe-listed"]
        );
    }

    #[test]
    fn a_listed_file_says_why() {
        assert!(find(&GOOD.replace("// UNS", "//! UNS"), &["crates/vu-common/src/x.rs"]).is_empty());
        let text = GOOD.replace("// UNSAFETY: maps memory\n", "");
        assert_eq!(find(&text, &["crates/vu-common/src/x.rs"]), ["4: unsafety"]);
    }

    #[test]
    fn a_stale_entry_is_found() {
        assert_eq!(
            find("fn f() {}\n", &["crates/vu-common/src/x.rs"]),
            ["1: unsafe-listed"]
        );
    }

    #[test]
    fn a_copied_argument_is_found() {
        let text = |words| format!("fn f() {{\n    // SAFETY: the mapping\n    // {words}.\n    g();\n}}\n");
        let parse = |path, words| Source::parse(path, &text(words)).unwrap();
        let mut findings = Vec::new();
        arguments(
            &[parse("a.rs", "outlives us"), parse("b.rs", "outlives  us")],
            &mut findings,
        );
        assert_eq!(short(&findings), ["2: safety-copied"]);
        assert_eq!(findings[0].path, "b.rs");
        findings.clear();
        arguments(
            &[parse("a.rs", "outlives us"), parse("b.rs", "is ours")],
            &mut findings,
        );
        assert!(findings.is_empty());
    }
}
