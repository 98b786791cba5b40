// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a test guest is made of: kernels, QEMU, the guest program and its initramfs.
//!
//! [`Lab`] hands out the path of each part and builds it first where that is needed. All parts lie in one cache
//! folder outside the work tree, each in a folder named by a hash of what it is made from (`um-0123456789abcdef`),
//! so that a part is built once per user and again only when an ingredient has changed.
//!
//! One file per concern: [`store`] the cache folder and its locks, [`apt`] packages without touching the machine,
//! [`tools`] programs that a build needs, [`progress`] what a waiting person sees; then one file per part.

mod accel;
mod apt;
mod cpio;
mod debian;
mod guest;
mod kconfig;
mod kernel;
mod lab_modules;
mod modules;
mod progress;
mod qemu;
mod store;
pub mod tools;
mod vsock_tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

pub use accel::Accel;
pub use apt::mirror;
use store::Store;

/// One thing that the lab makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Debian's kernel source of the newest 7.x, with our patches.
    Source,
    /// QEMU 10.2 or newer.
    Qemu,
    /// Debian's stock kernel and the modules of the virtio drivers.
    Debian,
    /// The static guest program and the initramfs that holds it.
    Guest,
    /// The User-mode Linux kernel: a guest, and a host with simulated hardware.
    Um,
    /// The small x86-64 kernel for QEMU.
    X86,
    /// Which accelerator QEMU can use on this machine.
    Accel,
}

impl Part {
    /// Every part, in an order in which nothing waits for what comes later.
    pub const ALL: [Self; 7] = [
        Self::Qemu,
        Self::Guest,
        Self::Debian,
        Self::Accel,
        Self::Source,
        Self::Um,
        Self::X86,
    ];

    /// The name on the command line and in the cache folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Qemu => "qemu",
            Self::Debian => "debian-kernel",
            Self::Guest => "guest",
            Self::Um => "um",
            Self::X86 => "x86",
            Self::Accel => "accel",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Part {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name);
        match Self::ALL.into_iter().find(|part| part.name() == word) {
            Some(part) => Ok(part),
            None => bail!("{word}: no such part of the lab (parts: {})", known.join(", ")),
        }
    }
}

/// A kernel and the initramfs that fits it, for QEMU's `-kernel` and `-initrd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs: the guest program as `/init`, busybox, and the modules that this kernel needs.
    pub initramfs: PathBuf,
}

/// The test lab: each method gives the path of an artefact and builds it first if that has to be.
///
/// Safe to use from several threads and processes at once: one builds, the others wait for it.
#[derive(Debug)]
pub struct Lab {
    store: Store,
    workspace: PathBuf,
}

impl Lab {
    /// The lab of this user, in `$XDG_CACHE_HOME/vhost-device-lab`. Builds nothing yet.
    ///
    /// # Errors
    /// Where there is no place for a cache folder: neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn open() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = here
            .ancestors()
            .nth(2)
            .context("tests/e2e is not two levels below the workspace")?;
        Ok(Self {
            store: Store::open()?,
            workspace: workspace.to_path_buf(),
        })
    }

    /// The cache folder. It may not exist yet.
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// Builds one part if it is not there; gives its main file or folder.
    ///
    /// # Errors
    /// What could not be fetched, installed or built, with the log to read.
    pub fn build(&self, part: Part) -> Result<PathBuf> {
        match part {
            Part::Source => self.source(),
            Part::Qemu => self.qemu(),
            Part::Debian => self.debian_boot().map(|boot| boot.kernel),
            Part::Guest => self.guest_program(),
            Part::Um => self.um_kernel(),
            Part::X86 => self.x86_boot().map(|boot| boot.kernel),
            Part::Accel => self.accel().map(|_| self.folder().to_path_buf()),
        }
    }

    /// Forgets a part, so that its next use builds it anew, from the newest packages where it comes from packages.
    ///
    /// # Errors
    /// When its folders cannot be removed.
    pub fn forget(&self, part: Part) -> Result<()> {
        self.store.forget(part.name())
    }

    /// What each part was made from: lines of `NAME = VALUE` below a `[PART]` heading.
    ///
    /// # Errors
    /// When the cache folder cannot be read.
    pub fn manifest(&self) -> Result<String> {
        self.store.manifest()
    }

    /// Removes the cache folder.
    ///
    /// # Errors
    /// When a build is under way, or the folder cannot be removed.
    pub fn clean(&self) -> Result<()> {
        self.store.clean()
    }

    /// The folder of the guest's sources: its program, kernel configuration, patches, modules and device trees.
    fn guest_sources(&self) -> PathBuf {
        self.workspace.join("tests/guest")
    }
}
