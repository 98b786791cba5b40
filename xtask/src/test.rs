// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask test`: every test there is. It goes on after a failure and closes with the totals of all.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};

use vu_e2e::artifacts::tools;

use crate::{e2e, util};

/// Programs of others that tests talk to or guests run, and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-img", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("nbdkit", "nbdkit"),
    ("filefrag", "e2fsprogs"),
    ("i2cget", "i2c-tools"),
    ("man", "man-db"),
    ("systemd-analyze", "systemd"),
    ("apparmor_parser", "apparmor"),
    ("virsh", "libvirt-clients"),
    (
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
    ),
    ("nix-instantiate", "nix-bin"),
    ("/usr/lib/python3/dist-packages/yaml/__init__.py", "python3-yaml"),
];

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the guests whose kernels are built from source (11 minutes, once); they count as skipped
    #[arg(long)]
    quick: bool,
    /// Run what `cargo xtask check` runs too, each step counted as a test
    #[arg(long)]
    check: bool,
    /// Make all packages, too, and prove them: they install, serve and come out the same twice (10 minutes)
    #[arg(long)]
    full: bool,
}

pub(crate) fn run(Args { quick, check, full }: Args) -> Result<()> {
    let log = SkipLog::open()?;
    let mut totals = Totals::default();
    if check {
        totals.add(crate::check::steps()?);
    }
    if let Err(error) = tools::ensure(PROGRAMS) {
        eprintln!("tests that need them will be skipped: {error:#}");
    }
    let before = log.lines()?;
    for words in [
        &["--workspace", "--exclude", "vu-e2e"][..],
        &["--package", "vu-e2e", "--lib"],
    ] {
        let mut command = util::cargo(&["test", "--no-fail-fast"])?;
        command.args(words);
        totals.suite(&words.join(" "), log.tell(command))?;
    }
    match e2e::prepare(quick) {
        Ok(()) => totals.suite("guests in the loop", log.tell(e2e::tests(None, quick)?))?,
        Err(error) => totals.fail(format!("lab: {error:#}")),
    }
    totals.take_skips(before, log.lines()?);
    if full {
        totals.add(crate::dist::proof::steps()?);
    }
    drop(log);
    totals.close()
}

/// The file to which a test that cannot run writes `SKIP <name>: <reason>`.
struct SkipLog {
    path: PathBuf,
    ours: bool,
}

impl SkipLog {
    /// The one that the environment names, else a new one that goes when we go.
    fn open() -> Result<Self> {
        if let Some(path) = env::var_os("VU_SKIP_LOG") {
            return Ok(Self {
                path: env::current_dir()?.join(path),
                ours: false,
            });
        }
        let path = env::temp_dir().join(format!("vhost-device-skipped-{}", std::process::id()));
        fs::write(&path, "").with_context(|| path.display().to_string())?;
        Ok(Self { path, ours: true })
    }

    /// Has the tests of `command` write to it.
    fn tell(&self, mut command: Command) -> Command {
        command.env("VU_SKIP_LOG", &self.path);
        command
    }

    /// How many tests it names.
    fn lines(&self) -> Result<usize> {
        let text = if self.path.exists() {
            fs::read_to_string(&self.path)
        } else {
            Ok(String::new())
        };
        Ok(skips(&text.with_context(|| self.path.display().to_string())?))
    }
}

impl Drop for SkipLog {
    fn drop(&mut self) {
        if self.ours {
            // Nothing is lost when a file in the temporary folder stays.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// How many lines say `SKIP <name>: <reason>`. Tests of two devices may have the same name.
fn skips(log: &str) -> usize {
    log.lines().filter(|line| line.starts_with("SKIP ")).count()
}

/// How many tests did what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// A line for each failure.
    failures: Vec<String>,
    /// The tests that the program now running has announced.
    announced: Option<usize>,
}

impl Totals {
    pub(crate) fn fail(&mut self, what: String) {
        eprintln!("FAILED {what}");
        self.failed += 1;
        self.failures.push(what);
    }

    fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
        self.failures.extend(more.failures);
    }

    /// Runs one `cargo test`. That nothing was built or a program crashed is a failure like any other.
    fn suite(&mut self, name: &str, mut command: Command) -> Result<()> {
        let failed = self.failed;
        let fine = util::watch(&mut command, |line| self.read(line))?;
        self.expect_no_result();
        if !fine && self.failed == failed {
            self.fail(format!("{name}: `cargo test` failed without a failed test"));
        }
        Ok(())
    }

    /// Reads one line of the output of `cargo test`.
    fn read(&mut self, line: &str) {
        if let Some(count) = line
            .strip_prefix("running ")
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
        {
            self.expect_no_result();
            self.announced = Some(count);
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.announced = None;
            let count = |word: &str| -> usize {
                let part = result
                    .split(['.', ';'])
                    .find_map(|part| part.trim().strip_suffix(word));
                part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
            };
            self.passed += count(" passed");
            self.failed += count(" failed");
            self.skipped += count(" ignored");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    /// A program that announced tests owes a result before the next one starts.
    fn expect_no_result(&mut self) {
        if let Some(count) = self.announced.take() {
            self.fail(format!(
                "a test program with {count} tests ended without a result"
            ));
        }
    }

    /// Skips by the log before and after the tests: a test that skipped itself was reported as passed.
    fn take_skips(&mut self, before: usize, after: usize) {
        let new = after.saturating_sub(before);
        self.passed = self.passed.saturating_sub(new);
        self.skipped += new;
    }

    /// Prints the failures again, then the totals alone on the last line. Ends the process with 1 if any failed.
    fn close(self) -> Result<()> {
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        if self.failed > 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Totals, skips};

    fn read(lines: &[&str]) -> Totals {
        let mut totals = Totals::default();
        lines.iter().for_each(|line| totals.read(line));
        totals.expect_no_result();
        totals
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let totals = read(&[
            "running 2 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.04s",
            "running 12 tests",
            "test result: ok. 11 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.04s",
        ]);
        assert_eq!((totals.passed, totals.failed, totals.skipped), (12, 1, 1));
        assert_eq!(totals.failures, ["a::c"]);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let result = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(read(&["running 3 tests", "running 1 test", result]).failed, 1);
        assert_eq!(read(&["running 1 test", result, "running 3 tests"]).failed, 1);
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        let result = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let mut totals = read(&["running 5 tests", result]);
        let before = "SKIP check::advisories: no network\n";
        let after = "SKIP check::advisories: no network\nSKIP uml: no kernel\nnoise\nSKIP uml: no kernel\n";
        totals.take_skips(skips(before), skips(after));
        assert_eq!((totals.passed, totals.failed, totals.skipped), (3, 0, 2));
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        let mut totals = Totals::default();
        totals.suite("none", std::process::Command::new("false")).unwrap();
        assert_eq!(totals.failed, 1);
    }
}
