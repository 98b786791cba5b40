// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Images of disks on the host, and the programs that make and examine them.

use crate::artifacts::tools;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs for images, each with its Debian package.
const TOOLS: &[(&str, &str)] = &[
    ("mke2fs", "e2fsprogs"),
    ("nbdkit", "nbdkit"),
    ("qemu-img", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
];

/// An image file.
#[derive(Clone, Debug)]
pub struct Image {
    path: PathBuf,
}

impl Image {
    /// A raw image of `size` bytes, all of them a hole.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn raw(path: PathBuf, size: u64) -> Result<Self> {
        let image = Self { path };
        File::create(&image.path).with_context(|| image.path.display().to_string())?;
        image.resize(size)?;
        Ok(image)
    }

    /// A new qcow2 image that shows `size` bytes.
    ///
    /// # Errors
    /// When `qemu-img` refuses.
    pub fn qcow2(path: PathBuf, size: u64) -> Result<Self> {
        let image = Self { path };
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", image.as_str()?, &size.to_string()],
        )?;
        Ok(image)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's path, for a command line.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn as_str(&self) -> Result<&str> {
        self.path.to_str().context("the path of an image is not UTF-8")
    }

    /// Grows or shrinks a raw image.
    ///
    /// # Errors
    /// What the host says.
    pub fn resize(&self, size: u64) -> Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        file.set_len(size)
            .with_context(|| self.path.display().to_string())
    }

    /// Bytes that it takes on the host's disk.
    ///
    /// # Errors
    /// What the host says.
    pub fn allocated(&self) -> Result<u64> {
        Ok(self.path.metadata()?.blocks() * 512)
    }

    /// Makes an ext4 file system in a raw image.
    ///
    /// # Errors
    /// When `mke2fs` refuses.
    pub fn make_ext4(&self) -> Result<()> {
        run("mke2fs", &["-q", "-F", "-t", "ext4", self.as_str()?]).map(drop)
    }

    /// Examines the ext4 file system of a raw image that is not mounted any more.
    ///
    /// # Errors
    /// When there is anything to repair.
    pub fn check_ext4(&self) -> Result<()> {
        run("e2fsck", &["-f", "-n", self.as_str()?]).map(drop)
    }

    /// A file of the ext4 file system of a raw image.
    ///
    /// # Errors
    /// When it is not there.
    pub fn file_of_ext4(&self, name: &str) -> Result<Vec<u8>> {
        let request = format!("cat /{name}");
        run("debugfs", &["-R", &request, self.as_str()?])
    }

    /// Examines a qcow2 image that nobody has open.
    ///
    /// # Errors
    /// When it has errors or leaks clusters.
    pub fn check_qcow2(&self) -> Result<()> {
        run("qemu-img", &["check", "-q", "-f", "qcow2", self.as_str()?]).map(drop)
    }

    /// Gives clusters back that a killed writer has left unused in a qcow2 image that nobody has open.
    ///
    /// # Errors
    /// When it has errors besides.
    pub fn repair_leaks(&self) -> Result<()> {
        run(
            "qemu-img",
            &["check", "-q", "-r", "leaks", "-f", "qcow2", self.as_str()?],
        )
        .map(drop)
    }

    /// Writes what a qcow2 image shows to a raw image at `path`.
    ///
    /// # Errors
    /// When `qemu-img` refuses.
    pub fn to_raw(&self, path: PathBuf) -> Result<Self> {
        let raw = Self { path };
        run(
            "qemu-img",
            &[
                "convert",
                "-q",
                "-f",
                "qcow2",
                "-O",
                "raw",
                self.as_str()?,
                raw.as_str()?,
            ],
        )?;
        Ok(raw)
    }
}

/// Runs a program for images and gives its output.
fn run(program: &str, args: &[&str]) -> Result<Vec<u8>> {
    tools::ensure(TOOLS)?;
    let output = tools::command(program)
        .args(args)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {}: {}\n{}{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// The command of an installed server of images.
///
/// # Errors
/// When it is not there and cannot be installed.
pub(crate) fn server(program: &str) -> Result<Command> {
    tools::ensure(TOOLS)?;
    Ok(tools::command(program))
}
