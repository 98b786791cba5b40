// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two daemons of a comparison: ours, and the one of rust-vmm from the crate registry.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use vu_testkit::spawn::Launch;

use crate::util;

/// Builds our daemon of `device` as it is shipped; gives its path.
pub(crate) fn build_ours(device: &str) -> Result<PathBuf> {
    build(&format!("vhost-device-{device}"))
}

/// Builds a program of the workspace that is named as its package; gives its path.
pub(crate) fn build(package: &str) -> Result<PathBuf> {
    util::run(
        util::cargo(&["build", "--quiet", "--release", "--package", package])?
            .stdin(std::process::Stdio::null()),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(util::root()?.join("target"), PathBuf::from);
    Ok(target.join("release").join(package))
}

/// How our daemon is started.
pub(crate) fn ours(device: &str) -> Result<Launch> {
    let program = build_ours(device)?;
    let args: &[&str] = if device == "blk" {
        vu_testkit::devices::blk::ARGS
    } else {
        &[]
    };
    Ok(Launch::ours(&program.to_string_lossy(), args))
}

/// The title of the peer to compare ours with, and how it is started.
pub(crate) fn other(device: &str) -> Result<(&'static str, Launch)> {
    Ok(match device {
        "blk" => ("qemu-storage-daemon", qemu_storage_daemon()?),
        _ => ("rust-vmm", rust_vmm(device)?),
    })
}

/// QEMU's storage daemon, as the system has it, on a raw file.
fn qemu_storage_daemon() -> Result<Launch> {
    Launch::parse(
        "qemu-storage-daemon --blockdev driver=file,node-name=disk,filename={storage},locking=off,discard=unmap \
         --export type=vhost-user-blk,id=export,addr.type=unix,addr.path={socket},node-name=disk,writable=on,num-queues=4",
    )
}

/// Installs the daemon of rust-vmm for `device` into the lab's cache, once; gives how it is started. It appends an
/// index to the path that it is told.
pub(crate) fn rust_vmm(device: &str) -> Result<Launch> {
    let package = format!("vhost-device-{device}");
    let root = util::cache()?.join("peers");
    let program = root.join("bin").join(&package);
    if !program.is_file() {
        std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        // Outside the workspace, for our own package has the same name.
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install
            .args([
                "install",
                "--quiet",
                "--registry",
                "crates-io",
                &package,
                "--root",
            ])
            .arg(&root);
        util::run(
            install
                .current_dir(&root)
                .env("CARGO_TARGET_DIR", root.join("target")),
        )?;
        let _ = std::fs::remove_dir_all(root.join("target"));
    }
    Launch::parse(&format!("{} --socket-path {{stem}}", program.display()))
}
