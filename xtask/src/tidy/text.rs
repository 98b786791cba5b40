// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What any file may say: its licence, the words of the house, and nothing about the machine it was written on.

use super::Finding;
use super::source::Text;

const SPDX: &str = "SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";
/// The specification says front end and back end, driver and device.
const WORDS: [&str; 4] = ["master", "slave", "masters", "slaves"];
/// Folders of one machine. A path that begins with one of them works nowhere else.
const MACHINE_PATHS: [&str; 2] = ["/root/", "/home/"];
/// Where packages come from is the business of the machine that fetches them: names and domains, kept apart so
/// that this file names no host either.
const REGISTRIES: [(&str, &str); 5] = [
    ("crates", "io"),
    ("debian", "org"),
    ("npmjs", "org"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
];
/// The one folder that has to spell out what it forbids.
const SPELLS_THEM_OUT: &str = "xtask/src/tidy/";

pub(super) fn check(file: &Text, findings: &mut Vec<Finding>) {
    licence(file, findings);
    if file.path.ends_with("Cargo.lock") || file.path.starts_with(SPELLS_THEM_OUT) {
        return;
    }
    let own_words = [".rs", ".md", ".toml"].iter().any(|end| file.path.ends_with(end));
    let hosts = REGISTRIES.map(|(name, domain)| format!("{name}.{domain}"));
    for (index, line) in file.text.lines().enumerate() {
        let mut push = |rule, text| findings.push(Finding::new(&file.path, index + 1, rule, text));
        if own_words && let Some(word) = forbidden_word(line) {
            push(
                "word",
                format!("`{word}`: say front end, back end, driver or device"),
            );
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|path| begins_a_path(line, path)) {
            push("machine-path", format!("`{path}` exists on one machine only"));
        }
        if let Some(host) = hosts.iter().find(|host| line.contains(host.as_str())) {
            push(
                "registry-host",
                format!("`{host}`: the machine that fetches knows its source"),
            );
        }
    }
}

fn licence(file: &Text, findings: &mut Vec<Finding>) {
    let mut lines = file.text.lines();
    let mut push = |line, rule, text| findings.push(Finding::new(&file.path, line, rule, text));
    if file.path.ends_with(".rs") {
        if lines.next() != Some(&format!("// {SPDX}")) {
            push(1, "spdx", format!("the first line is `// {SPDX}`"));
        }
        let documented = lines.find(|line| !line.is_empty() && !line.starts_with("// "));
        if !documented.is_some_and(|line| line.starts_with("//!") || line.starts_with("#![doc")) {
            push(
                2,
                "file-doc",
                "the second line says with `//!` what the file is for".to_owned(),
            );
        }
    } else if file.text.starts_with("#!")
        && !lines
            .take(3)
            .any(|line| line.contains("SPDX-License-Identifier:"))
    {
        push(
            2,
            "spdx",
            "a script names its licence under the first line".to_owned(),
        );
    }
}

/// The first forbidden word in `line`, also as a part of an identifier. `CONFIG_...` are names of the kernel's.
fn forbidden_word(line: &str) -> Option<String> {
    let identifiers = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    identifiers
        .filter(|identifier| !identifier.starts_with("CONFIG_"))
        .flat_map(|identifier| identifier.split('_'))
        .map(str::to_ascii_lowercase)
        .find(|word| WORDS.contains(&word.as_str()))
}

/// True if `path` stands in `line` as the beginning of an absolute path, not as a part of a longer one.
fn begins_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| {
            !(c.is_alphanumeric() || matches!(c, '.' | '}' | '/' | '-' | '_' | '*' | '>' | '~'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::short;
    use super::{Text, check};

    fn find(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(
            &Text {
                path: path.to_owned(),
                text: text.to_owned(),
            },
            &mut findings,
        );
        short(&findings)
    }

    fn rust(body: &str) -> String {
        format!("// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause\n//! A file.\n{body}\n")
    }

    #[test]
    fn a_rust_file_begins_with_its_licence_and_its_purpose() {
        assert!(find("xtask/src/x.rs", &rust("")).is_empty());
        assert_eq!(
            find("xtask/src/x.rs", "//! A file.\n"),
            ["1: spdx", "2: file-doc"]
        );
        let undocumented = rust("").replace("//! A file.\n", "fn f() {}\n");
        assert_eq!(find("xtask/src/x.rs", &undocumented), ["2: file-doc"]);
        let reasoned = rust("").replace("//! A", "// UNSAFETY: maps memory\n//! A");
        assert!(find("xtask/src/x.rs", &reasoned).is_empty());
    }

    #[test]
    fn a_script_names_its_licence() {
        assert_eq!(find("ci/x", "#!/bin/sh\nexit 0\n"), ["2: spdx"]);
        assert!(find("ci/x", "#!/bin/sh\n# SPDX-License-Identifier: X\n").is_empty());
    }

    #[test]
    fn a_forbidden_word_is_found() {
        assert_eq!(find("README.md", "fine\nthe Slave side\n"), ["2: word"]);
        assert_eq!(
            find("xtask/src/x.rs", &rust("const SET_SLAVE_FD: u8 = 5;")),
            ["3: word"]
        );
        assert!(find("README.md", "mastering CONFIG_SPI_MASTER\n").is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        assert_eq!(find("README.md", "cd /home/me/clone\n"), ["1: machine-path"]);
        assert_eq!(find("ci/x.toml", "dir = \"/root/.cargo\"\n"), ["1: machine-path"]);
        assert!(find("README.md", "see docs/work/x, $DIR/root/y and ${HOME}/home/z\n").is_empty());
    }

    #[test]
    fn a_host_of_a_registry_is_found() {
        let line = format!("url = \"https://{}.org/simple\"\n", "pypi");
        assert_eq!(find("ci/x.toml", &line), ["1: registry-host"]);
        assert!(find("Cargo.lock", &line).is_empty());
    }
}
