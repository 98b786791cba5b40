// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! virtio-blk: what the kernel says of a disk, and its use with and without a file system.
//!
//! Options of each action: `do=ACTION` (facts) and `disk=NAME` (vda). One file per kind of action: [`facts`] what the
//! kernel knows, [`direct`] reading, writing and discarding past the page cache, [`filesystem`] the life of an ext4,
//! [`memory`] the same from all over the guest's memory, [`load`] writers that verify without an end. What a byte must be is said by [`pattern`].

mod direct;
mod facts;
mod filesystem;
mod load;
mod memory;
mod pattern;

use crate::mounts::is_program;
use crate::task::{Options, Task};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest that the driver may take to find its device.
const PROBE: Duration = Duration::from_secs(20);

const ACTIONS: &[(&str, Task)] = &[
    ("facts", facts::show),
    ("cache", facts::set_cache),
    ("write", direct::write),
    ("read", direct::read),
    ("zero", direct::zero),
    ("discard", direct::discard),
    ("erase", direct::erase),
    ("queues", direct::use_queues),
    ("memory", memory::use_all),
    ("mkfs", filesystem::make),
    ("mount", filesystem::mount),
    ("fill", filesystem::fill),
    ("check", filesystem::check),
    ("trim", filesystem::trim),
    ("umount", filesystem::unmount),
    ("load", load::run),
    ("tour", tour),
];

/// Runs one action.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    let action: String = options.get("do", "facts".to_owned())?;
    match ACTIONS.iter().find(|(name, _)| *name == action) {
        Some((_, act)) => act(options),
        None => bail!("do={action}: no such action"),
    }
}

/// A look at a disk, for people: its facts, and how fast it is read; with `wipe`, which takes all that is on it, also
/// how fast it is written, and a file system with files in it.
fn tour(options: &Options) -> anyhow::Result<Value> {
    let mut seen = json!({ "facts": facts::show(options)? });
    if !options.has("wipe") {
        seen["read"] = direct::read(options)?;
        return Ok(seen);
    }
    seen["write"] = direct::write(options)?;
    seen["read"] = direct::read(options)?;
    filesystem::make(options)?;
    filesystem::mount(options)?;
    filesystem::fill(options)?;
    seen["files"] = filesystem::check(options)?;
    filesystem::unmount(options)?;
    Ok(seen)
}

/// A disk, there as soon as the driver has found it.
struct Disk {
    name: String,
}

impl Disk {
    fn find(options: &Options) -> anyhow::Result<Self> {
        let name = options.get("disk", "vda".to_owned())?;
        let disk = Self { name };
        let end = Instant::now() + PROBE;
        while !disk.node().exists() {
            ensure!(
                Instant::now() < end,
                "no {} after {} s",
                disk.name,
                PROBE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(disk)
    }

    fn node(&self) -> PathBuf {
        ["/dev", &self.name].iter().collect()
    }

    /// A file in the disk's folder of sysfs.
    fn attribute(&self, name: &str) -> PathBuf {
        ["/sys/block", &self.name, name].iter().collect()
    }

    fn read_attribute(&self, name: &str) -> anyhow::Result<String> {
        let path = self.attribute(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    fn read_number(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.read_attribute(name)?;
        text.trim()
            .parse()
            .with_context(|| format!("{}: {text:?}", self.attribute(name).display()))
    }

    /// Bytes that it holds.
    fn size(&self) -> anyhow::Result<u64> {
        Ok(self.read_number("size")? * 512)
    }

    /// Opened past the page cache.
    fn open(&self, write: bool) -> anyhow::Result<File> {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(direct)
            .open(self.node())
            .with_context(|| format!("open {}", self.node().display()))
    }
}

/// A program that is busybox's in an initramfs, and the machine's own elsewhere.
fn tool(name: &str, args: &[&str]) -> anyhow::Result<String> {
    const BUSYBOX: &str = "/bin/busybox";
    let mut command = if is_program(BUSYBOX) {
        let mut command = Command::new(BUSYBOX);
        command.arg(name);
        command
    } else {
        let mut command = Command::new(name);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    };
    let output = command.args(args).output().with_context(|| name.to_owned())?;
    ensure!(
        output.status.success(),
        "{name}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
