// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask check`: what needs no test to be seen as wrong. Each step runs, also after one that failed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use vu_e2e::artifacts::tools;

use crate::test::Totals;
use crate::{tidy, util};

/// The version that is installed when the machine has no cargo-deny of its own.
const CARGO_DENY: &str = "0.20.2";

/// The arguments: none.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What became of a step that did not fail.
pub(crate) enum Outcome {
    Passed,
    Skipped(String),
}

pub(crate) type Step = fn() -> Result<Outcome>;

const STEPS: [(&str, Step); 7] = [
    ("fmt", fmt),
    ("clippy", clippy),
    ("doc", doc),
    ("deny", deny),
    ("advisories", advisories),
    ("package", package),
    ("tidy", tidy),
];

pub(crate) fn run(_: Args) -> Result<()> {
    let totals = steps()?;
    println!(
        "check: {} passed, {} failed, {} skipped",
        totals.passed, totals.failed, totals.skipped
    );
    if totals.failed > 0 {
        bail!("check failed");
    }
    Ok(())
}

pub(crate) fn steps() -> Result<Totals> {
    run_steps("check", &STEPS)
}

/// Runs each step of a group; one that fails is told and counted.
pub(crate) fn run_steps(group: &str, steps: &[(&str, Step)]) -> Result<Totals> {
    let mut totals = Totals::default();
    for (name, step) in steps {
        match step() {
            Ok(Outcome::Passed) => totals.passed += 1,
            Ok(Outcome::Skipped(reason)) => {
                util::skip(&format!("{group}::{name}"), &reason)?;
                totals.skipped += 1;
            }
            Err(error) => totals.fail(format!("{group}::{name}: {error:#}")),
        }
    }
    Ok(totals)
}

fn fmt() -> Result<Outcome> {
    util::run(&mut util::cargo(&["fmt", "--all", "--check"])?)
        .context("`cargo fmt` mends it; `rustup component add rustfmt` if it is not there")?;
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    util::run(&mut util::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])?)
    .context("`rustup component add clippy` if it is not there")?;
    Ok(Outcome::Passed)
}

fn doc() -> Result<Outcome> {
    util::run(util::cargo(&["doc", "--workspace", "--no-deps"])?.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::Passed)
}

fn deny() -> Result<Outcome> {
    util::run(cargo_deny()?.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))?;
    Ok(Outcome::Passed)
}

fn advisories() -> Result<Outcome> {
    if let Err(error) = util::capture(cargo_deny()?.args(["fetch", "db"])) {
        let why = error.to_string();
        let last = why
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        return Ok(Outcome::Skipped(format!(
            "the advisory database cannot be fetched: {last}"
        )));
    }
    util::run(cargo_deny()?.args(["check", "--hide-inclusion-graph", "--disable-fetch", "advisories"]))?;
    Ok(Outcome::Passed)
}

/// What is published can be packed: each dependency has a version, each file that a manifest names is there.
fn package() -> Result<Outcome> {
    util::run(&mut pack()?)?;
    Ok(Outcome::Passed)
}

/// The command that packs the crates which are published.
pub(crate) fn pack() -> Result<Command> {
    let mut command = util::cargo(&[
        "package",
        "--workspace",
        "--no-verify",
        "--allow-dirty",
        "--quiet",
    ])?;
    for private in ["xtask", "vu-bench", "vu-e2e", "vu-guest"] {
        command.args(["--exclude", private]);
    }
    Ok(command)
}

fn tidy() -> Result<Outcome> {
    util::step("tidy");
    tidy::run(tidy::Args {})?;
    Ok(Outcome::Passed)
}

/// cargo-deny with our configuration: the machine's own, else one that is built once into the cache.
fn cargo_deny() -> Result<Command> {
    let mut program = PathBuf::from("cargo-deny");
    if !tools::installed("cargo-deny") {
        let folder = util::cache()?
            .join("tools")
            .join(format!("cargo-deny-{CARGO_DENY}"));
        program = folder.join("bin/cargo-deny");
        if !program.is_file() {
            util::step("cargo-deny: not found, building it once");
            // A debug build takes a third of the time and is quick enough for a tree of our size.
            let install = [
                "install",
                "cargo-deny",
                "--locked",
                "--debug",
                "--version",
                CARGO_DENY,
                "--root",
            ];
            let mut install = util::cargo(&install)?;
            install
                .arg(&folder)
                .env("CARGO_PROFILE_DEV_DEBUG", "0")
                .env_remove("CARGO_TARGET_DIR");
            util::run(&mut install)?;
        }
    }
    let mut command = Command::new(program);
    let root = util::root()?;
    command.arg("--manifest-path").arg(root.join("Cargo.toml"));
    command
        .arg("--config")
        .arg(root.join("ci/deny.toml"))
        .args(["--all-features", "--locked"]);
    Ok(command)
}
