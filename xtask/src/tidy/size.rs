// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes: what does not fit on a few screens is two things.

use super::Finding;
use super::source::Source;

/// Lines of code in a file, tests aside: above the first it is noted, above the second it fails.
const FILE: (usize, usize) = (400, 600);
/// Lines of code in a function.
const FUNCTION: usize = 60;
/// Lines of code in a daemon's `main.rs`: it only dispatches.
const DEVICE_MAIN: usize = 40;

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.code_lines();
    let text = |limit| format!("{lines} lines of code without tests (at most {limit})");
    if source.device().is_some() && source.in_package() == "src/main.rs" && lines > DEVICE_MAIN {
        findings.push(Finding::new(&source.path, 1, "main-size", text(DEVICE_MAIN)));
    }
    if lines > FILE.1 {
        findings.push(Finding::new(&source.path, 1, "file-size", text(FILE.1)));
    } else if lines > FILE.0 {
        findings.push(Finding::note(&source.path, 1, "file-size", text(FILE.0)));
    }
    for function in source
        .functions()
        .iter()
        .filter(|function| function.lines > FUNCTION)
    {
        let text = format!(
            "`{}` has {} lines of code (at most {FUNCTION})",
            function.name, function.lines
        );
        let finding = if function.test {
            Finding::note
        } else {
            Finding::new
        };
        findings.push(finding(&source.path, function.line, "function-size", text));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;
    use super::check;

    fn statics(count: usize) -> String {
        "static X: u8 = 0;\n".repeat(count)
    }

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    f();\n".repeat(lines - 2))
    }

    #[test]
    fn a_file_above_600_lines_fails_and_one_above_400_is_noted() {
        let path = "crates/vu-common/src/x.rs";
        assert_eq!(found(check, path, &statics(601)), ["1: file-size"]);
        assert_eq!(found(check, path, &statics(401)), ["1: file-size"]);
        assert!(found(check, path, &statics(400)).is_empty());
        let mut notes = Vec::new();
        check(&super::Source::parse(path, &statics(401)).unwrap(), &mut notes);
        assert!(notes[0].note && notes[0].text.contains("401 lines"));
    }

    #[test]
    fn tests_do_not_count_for_the_size_of_a_file() {
        let text = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", statics(700));
        assert!(found(check, "crates/vu-common/src/x.rs", &text).is_empty());
    }

    #[test]
    fn a_function_above_60_lines_fails() {
        assert_eq!(
            found(check, "xtask/src/x.rs", &function(61)),
            ["1: function-size"]
        );
        assert!(found(check, "xtask/src/x.rs", &function(60)).is_empty());
    }

    #[test]
    fn a_daemon_main_above_40_lines_fails() {
        assert_eq!(
            found(check, "crates/vhost-device-x/src/main.rs", &statics(41)),
            ["1: main-size"]
        );
        assert!(found(check, "crates/vhost-device-x/src/main.rs", &statics(40)).is_empty());
        assert!(found(check, "xtask/src/main.rs", &statics(41)).is_empty());
    }
}
