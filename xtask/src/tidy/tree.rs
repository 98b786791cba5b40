// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things lie: the rooms of the house, and the same question answered by the same file name in each device.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;
use super::source::Source;

/// Everything at the top, dot files aside.
const TOP: [&str; 11] = [
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-BSD",
    "README.md",
    "ci",
    "crates",
    "docs",
    "tests",
    "xtask",
];
/// What git ignores.
const BUILT: [&str; 2] = ["dist", "target"];
/// The files of a device crate, the same in each.
const DEVICE: [&str; 8] = [
    "args", "backend", "config", "device", "lib", "main", "request", "spec",
];

pub(super) fn check(root: &Path, sources: &[Source], findings: &mut Vec<Finding>) -> Result<()> {
    let mut top = Vec::new();
    for entry in fs::read_dir(root).with_context(|| root.display().to_string())? {
        top.push(entry?.file_name().to_string_lossy().into_owned());
    }
    top_level(&top, findings);
    for source in sources {
        device_file(source, sources, findings);
    }
    Ok(())
}

fn top_level(names: &[String], findings: &mut Vec<Finding>) {
    let known = |name: &str| name.starts_with('.') || TOP.contains(&name) || BUILT.contains(&name);
    for name in names.iter().filter(|name| !known(name)) {
        findings.push(Finding::new(
            name,
            1,
            "top-level",
            "belongs into one of the folders",
        ));
    }
    for name in TOP
        .iter()
        .filter(|name| !names.iter().any(|there| there == *name))
    {
        findings.push(Finding::new(name, 1, "top-level", "is missing"));
    }
}

/// A file (or folder) of a device with a name of its own is explained in the crate's `lib.rs`, or in the `main.rs` of a
/// program that has none.
fn device_file(source: &Source, all: &[Source], findings: &mut Vec<Finding>) {
    let (Some(device), Some(inside)) = (source.device(), source.in_package().strip_prefix("src/")) else {
        return;
    };
    let name = inside
        .split('/')
        .next()
        .unwrap_or(inside)
        .trim_end_matches(".rs")
        .trim_end_matches("_tests");
    if DEVICE.contains(&name) || name == "tests" {
        return;
    }
    let root = |file: &str| {
        let mut sources = all.iter();
        sources.find(|other| other.device() == Some(device) && other.in_package() == file)
    };
    let library = root("src/lib.rs").or_else(|| root("src/main.rs"));
    let explained = library.is_some_and(|library| {
        let names = [format!("`{name}`"), format!("`{name}.rs`"), format!("`{name}/`")];
        let docs = library.text.lines().filter(|line| line.starts_with("//!"));
        docs.into_iter()
            .any(|line| names.iter().any(|name| line.contains(name.as_str())))
    });
    if !explained {
        let text = format!("`{name}` is no name of the house: use one, or explain it in the docs of lib.rs");
        findings.push(Finding::new(&source.path, 1, "device-file", text));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::short;
    use super::{Source, TOP, device_file, top_level};

    #[test]
    fn a_stranger_at_the_top_and_a_missing_room_are_found() {
        let mut names: Vec<String> = TOP.iter().map(|name| (*name).to_owned()).collect();
        names.extend([".github".to_owned(), "target".to_owned()]);
        let mut findings = Vec::new();
        top_level(&names, &mut findings);
        assert!(findings.is_empty());
        names.retain(|name| name != "docs");
        names.push("scripts".to_owned());
        top_level(&names, &mut findings);
        let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "scripts:1: top-level: belongs into one of the folders",
                "docs:1: top-level: is missing"
            ]
        );
    }

    #[test]
    fn a_file_name_of_its_own_is_explained_in_lib() {
        let parse = |path: &str, text: &str| Source::parse(path, text).unwrap();
        let find = |docs: &str, path: &str| {
            let all = [
                parse("crates/vhost-device-x/src/lib.rs", docs),
                parse(path, "fn f() {}"),
            ];
            let mut findings = Vec::new();
            device_file(&all[1], &all, &mut findings);
            short(&findings)
        };
        let own = "crates/vhost-device-x/src/source/file.rs";
        assert_eq!(find("//! A device.\n", own), ["1: device-file"]);
        assert!(find("//! - `source/` where the bytes come from\n", own).is_empty());
        for fine in ["request.rs", "backend/fake.rs", "tests.rs", "device_tests.rs"] {
            assert!(find("//! A device.\n", &format!("crates/vhost-device-x/src/{fine}")).is_empty());
        }
        assert!(find("//! A crate.\n", "crates/vu-common/src/anything.rs").is_empty());
    }
}
