// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An ext4 on a disk: made, mounted, filled, checked, trimmed, unmounted.
//!
//! Options of `fill` and `check`: `files=N` (8) of `bytes=N` (1 MiB), named after their number, and `seed=N` (1).

use super::pattern;
use super::{Disk, tool};
use crate::task::Options;
use anyhow::{Context, bail};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Where it is mounted.
const FOLDER: &str = "/run/disk";

/// Makes one.
pub(super) fn make(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    // Blocks of 1 KiB, which small disks would get, are smaller than the disk's own may be.
    tool(
        "mke2fs",
        &["-F", "-b", "4096", &disk.node().display().to_string()],
    )?;
    Ok(Value::Null)
}

/// Mounts it.
pub(super) fn mount(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    std::fs::create_dir_all(FOLDER).context(FOLDER)?;
    let flags = if disk.read_number("ro")? == 0 {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    rustix::mount::mount(disk.node(), FOLDER, "ext4", flags, c"")
        .with_context(|| format!("mount {}", disk.name))?;
    Ok(Value::Null)
}

/// Writes files, with `remove` after removing those that are there; then makes all durable.
pub(super) fn fill(options: &Options) -> anyhow::Result<Value> {
    if options.has("remove") {
        for entry in std::fs::read_dir(FOLDER).context(FOLDER)? {
            let path = entry?.path();
            if path.is_file() {
                std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
    }
    let mut data = vec![0; options.get("bytes", 1 << 20)?];
    let files = files(options)?;
    for (path, seed) in &files {
        pattern::fill(&mut data, 0, *seed);
        File::create(path)
            .and_then(|mut file| file.write_all(&data))
            .with_context(|| path.display().to_string())?;
    }
    rustix::fs::syncfs(File::open(FOLDER)?).context("syncfs")?;
    Ok(json!({ "files": files.len(), "bytes": data.len() }))
}

/// Reads the files anew, from the disk.
pub(super) fn check(options: &Options) -> anyhow::Result<Value> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")?;
    let bytes: usize = options.get("bytes", 1 << 20)?;
    let files = files(options)?;
    for (path, seed) in &files {
        let mut data = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut data))
            .with_context(|| path.display().to_string())?;
        if data.len() != bytes {
            bail!("{}: {} bytes", path.display(), data.len());
        }
        if let Err(difference) = pattern::check(&data, 0, *seed) {
            bail!("{}: {difference}", path.display());
        }
    }
    Ok(json!({ "files": files.len(), "bytes": bytes }))
}

/// Discards what is free.
pub(super) fn trim(_: &Options) -> anyhow::Result<Value> {
    tool("fstrim", &[FOLDER])?;
    Ok(Value::Null)
}

/// Unmounts it.
pub(super) fn unmount(_: &Options) -> anyhow::Result<Value> {
    rustix::mount::unmount(FOLDER, UnmountFlags::empty()).context("umount")?;
    Ok(Value::Null)
}

/// The files' paths, each with the seed of what stands in it.
fn files(options: &Options) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let seed: u64 = options.get("seed", 1)?;
    let count: u64 = options.get("files", 8)?;
    let file = |number: u64| (Path::new(FOLDER).join(format!("file-{number}")), seed + number);
    Ok((0..count).map(file).collect())
}
