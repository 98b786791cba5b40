// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two daemons of a comparison: ours, and the one of rust-vmm from the crate registry.
//!
//! Those for gpio and i2c know only the kernel's chips and adapters. Their own code is built as it is; what they reach the
//! kernel through is replaced by a simulation (`stand_in/`), so that they run where there is no such hardware.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use vu_testkit::devices;
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
    let args: &[&str] = match device {
        "blk" => devices::blk::ARGS,
        "gpio" => devices::gpio::ARGS,
        "i2c" => devices::i2c::ARGS,
        "vsock" => devices::vsock::ARGS,
        _ => &[],
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
///
/// The one for gpio has as many lines as the number after `-l` says; the one for i2c has 256 registers at address 32 and a
/// sensor at 72.
pub(crate) fn rust_vmm(device: &str) -> Result<Launch> {
    let root = util::cache()?.join("peers");
    fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let socket = "--socket-path {stem}";
    Launch::parse(&match device {
        "gpio" => {
            let program = install(&root, device, Some(&simulated_chip(&root)?))?;
            format!("{} {socket} -l 8", program.display())
        }
        "i2c" => {
            let program = install(&root, device, None)?;
            let adapter = simulated_adapter(&root)?;
            let (program, adapter) = (program.display(), adapter.display());
            format!("/usr/bin/env LD_PRELOAD={adapter} {program} {socket} -l sim:32:72")
        }
        "vsock" => {
            let program = install(&root, device, None)?;
            let program = program.display();
            format!("{program} --vm guest-cid=3,socket={{socket}},uds-path={{unique}}")
        }
        _ => format!("{} {socket}", install(&root, device, None)?.display()),
    })
}

/// Installs `vhost-device-<device>` below `root` unless it is there; with the crate in the folder `patch` in place of
/// the one of that name from the registry.
fn install(root: &Path, device: &str, patch: Option<&Path>) -> Result<PathBuf> {
    let package = format!("vhost-device-{device}");
    let program = root.join("bin").join(&package);
    if program.is_file() {
        return Ok(program);
    }
    // Outside the workspace, for our own package has the same name.
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install
        .args(["install", "--quiet", "--registry", "crates-io", &package])
        .arg("--root")
        .arg(root);
    if let Some(folder) = patch {
        let name = folder.file_name().unwrap_or_default().display();
        install.args([
            "--config",
            &format!("patch.crates-io.{name}.path={:?}", folder.display().to_string()),
        ]);
    }
    // A target folder of its own, for peers may be installed at once.
    let target = root.join("target").join(device);
    util::run(install.current_dir(root).env("CARGO_TARGET_DIR", &target))?;
    let _ = fs::remove_dir_all(&target);
    Ok(program)
}

/// Writes the crate that stands in for `libgpiod`; gives its folder. The program goes when it was built with another.
fn simulated_chip(root: &Path) -> Result<PathBuf> {
    let folder = root.join("libgpiod");
    let manifest = "[package]\nname = \"libgpiod\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n";
    let changed = [
        replace(&folder.join("Cargo.toml"), manifest)?,
        replace(&folder.join("src/lib.rs"), include_str!("stand_in/libgpiod.rs"))?,
    ];
    if changed.contains(&true) {
        let _ = fs::remove_file(root.join("bin/vhost-device-gpio"));
    }
    Ok(folder)
}

/// Builds the library that stands in for the kernel's `i2c-dev`; gives its path.
fn simulated_adapter(root: &Path) -> Result<PathBuf> {
    let folder = root.join("i2c-dev");
    replace(&folder.join("sys/bus/i2c/devices/i2c-1/name"), "sim\n")?;
    replace(&folder.join("dev/i2c-1"), "")?;
    let source = folder.join("i2c_dev.c");
    let library = folder.join("i2c_dev.so");
    if replace(&source, include_str!("stand_in/i2c_dev.c"))? || !library.is_file() {
        let defines = format!("-DFOLDER={:?}", folder.display().to_string());
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-Wall", &defines, "-o"]);
        util::run(compiler.arg(&library).arg(&source))?;
    }
    Ok(library)
}

/// Gives a file the content `text`; whether it had another.
fn replace(path: &Path, text: &str) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(path, text).with_context(|| path.display().to_string())?;
    Ok(true)
}
