// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs, built so that the same source gives the same bytes wherever it lies.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Package, Source};
use crate::util;

/// How a program finds its C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// The system's.
    Dynamic,
    /// It has its own, and needs no other file.
    Static,
}

/// Programs that were built.
pub(super) struct Programs(PathBuf);

impl Programs {
    pub(super) fn path(&self, package: &Package) -> PathBuf {
        self.0.join(&package.name)
    }
}

/// The target of this machine's compiler.
pub(super) fn target() -> Result<String> {
    let text = util::capture(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}

/// Builds them.
pub(super) fn programs(source: &Source, packages: &[Package], link: Link) -> Result<Programs> {
    let (folder, feature) = match link {
        Link::Dynamic => ("build", ""),
        Link::Static => ("build-static", " -C target-feature=+crt-static"),
    };
    let (folder, target) = (source.out.join(folder), target()?);
    let mut flags = String::new();
    // Paths of this machine would be in the messages of panics.
    for (path, name) in [
        (Some(source.root.clone()), "."),
        (cargo_home(), "cargo"),
        (sysroot(), "rust"),
    ] {
        if let Some(path) = path {
            flags.push_str(&format!(" --remap-path-prefix={}={name}", path.display()));
        }
    }
    let mut cargo = util::cargo(&["build", "--release", "--locked", "--target", &target])?;
    cargo
        .current_dir(&source.root)
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("SOURCE_DATE_EPOCH", source.epoch.to_string())
        .env("RUSTFLAGS", format!("{}{feature}", flags.trim_start()))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    for package in packages {
        cargo.args(["--package", &package.name]);
    }
    util::run(&mut cargo)?;
    Ok(Programs(folder.join(target).join("release")))
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))
}

fn sysroot() -> Option<PathBuf> {
    let text = util::capture(Command::new("rustc").args(["--print", "sysroot"])).ok()?;
    Some(text.trim().into())
}
