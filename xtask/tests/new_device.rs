// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask new-device`, in a copy of the workspace: what it makes compiles and passes its tests.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Not part of the source.
const SKIPPED: [&str; 3] = [".git", "target", "dist"];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if !SKIPPED.iter().any(|name| entry.file_name() == *name) {
                copy(&path, &target);
            }
        } else if kind.is_file() {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    // Indented: results of tests within a test are no results of ours.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\n', "\n    ");
    assert!(
        output.status.success(),
        "{command:?}: {}\n    {}\n    {}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

#[test]
fn a_new_device_compiles_and_passes_the_tests_of_the_one_it_was_copied_from() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-device");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).unwrap();
    }
    copy(workspace, &scratch);
    let xtask = |arguments: &[&str]| {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        xtask
            .args(arguments)
            .env_remove("CARGO_MANIFEST_DIR")
            .current_dir(&scratch);
        xtask
    };
    run(&mut xtask(&["new-device", "can-it"]));

    // A target folder of its own: cargo takes packages of the same name and place for the same.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-device-target");
    let mut tests = Command::new(env!("CARGO"));
    tests.args(["test", "--offline", "--package", "vhost-device-can-it"]);
    // A test that skips itself there did so under its first name already.
    tests
        .env_remove("VU_SKIP_LOG")
        .env("CARGO_TARGET_DIR", target)
        .current_dir(&scratch);
    let output = run(&mut tests);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout
            .lines()
            .any(|line| line.starts_with("test ") && line.ends_with("... ok")),
        "no test ran"
    );

    let mut fmt = Command::new(env!("CARGO"));
    run(fmt
        .args(["fmt", "--check", "--package", "vhost-device-can-it"])
        .current_dir(&scratch));

    let tidy = xtask(&["tidy"]).output().unwrap();
    let findings = String::from_utf8_lossy(&tidy.stdout).into_owned();
    let broken: Vec<&str> = findings
        .lines()
        .filter(|line| line.contains("vhost-device-can-it"))
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");

    let again = xtask(&["new-device", "can-it"]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
    fs::remove_dir_all(&scratch).unwrap();
}
