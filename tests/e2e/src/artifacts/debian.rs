// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Debian's stock kernel: fetched in seconds where our own kernels take minutes to build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::guest::{Module, write_initramfs};
use super::modules::Modules;
use super::progress::Progress;
use super::store::{Facts, Ingredients};
use super::{Boot, Lab, Part};

/// The full flavour: the smaller one for clouds has neither sound nor graphics.
const PACKAGE: &str = "linux-image-amd64";

/// What a guest may need, unless the kernel has it built in.
const DRIVERS: [&str; 12] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_rng",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "virtiofs",
    "vmw_vsock_virtio_transport",
    "virtio_console",
    "virtio_input",
    "virtio_snd",
    "virtio_gpu",
];
/// What makes input devices and disks useful to programs.
const HELPERS: [&str; 2] = ["evdev", "ext4"];

impl Lab {
    /// Debian's stock kernel, with an initramfs that holds its virtio modules.
    ///
    /// # Errors
    /// When it cannot be fetched, or the guest program not built.
    pub fn debian_boot(&self) -> Result<Boot> {
        let kernel = self.debian_kernel()?;
        let (program, busybox) = (self.guest_program()?, self.busybox()?);
        let name = "debian-initramfs";
        let ingredients = Ingredients::default()
            .with("kernel", kernel.as_os_str().as_encoded_bytes())
            .with_file(&program)?
            .with_file(&busybox)?;
        let folder = self.store.part(name, &ingredients, |folder| {
            let modules = ordered_modules(&kernel.join("modules"))?;
            write_initramfs(&folder.join("initramfs"), &program, &busybox, &modules)?;
            Ok(Vec::new())
        })?;
        Ok(Boot {
            kernel: kernel.join("vmlinuz"),
            initramfs: folder.join("initramfs"),
        })
    }

    /// The folder with `vmlinuz` and, in `modules`, the modules and their `order`.
    fn debian_kernel(&self) -> Result<PathBuf> {
        let name = Part::Debian.name();
        let drivers = [&DRIVERS[..], &HELPERS[..]].concat();
        let ingredients = Ingredients::default()
            .with("package", PACKAGE)
            .with("drivers", drivers.join(" "));
        self.store.part(name, &ingredients, |folder| {
            let progress = Progress::new(name, self.store.log(name)?)?;
            let root = folder.join("root");
            let version = self.fetch_kernel(&progress, folder, &root)?;
            let kernel = find_kernel(&root)?;
            fs::rename(&kernel, folder.join("vmlinuz")).with_context(|| kernel.display().to_string())?;
            let modules = Modules::below(&root)?.load_order(&drivers)?;
            save_modules(&folder.join("modules"), &modules)?;
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
            let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
            Ok(Facts::from([
                ("package".to_owned(), version),
                ("modules".to_owned(), names.join(" ")),
            ]))
        })
    }

    /// Unpacks the packages with the image and the modules; newer kernels have them apart.
    fn fetch_kernel(&self, progress: &Progress, folder: &Path, root: &Path) -> Result<String> {
        let apt = Apt::open(&self.store, progress)?;
        let mut packages = apt.closure(PACKAGE)?;
        packages.retain(|package| {
            let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
            parts
                .iter()
                .any(|part| package.name.strip_prefix(part).is_some_and(starts_with_digit))
        });
        let debs = apt.download(&packages, &folder.join("downloads"))?;
        for deb in &debs {
            progress.run("unpacking", Command::new("dpkg").arg("-x").arg(deb).arg(root))?;
        }
        fs::remove_dir_all(folder.join("downloads")).context("downloads")?;
        let image = packages
            .iter()
            .find(|package| package.name.starts_with("linux-image-"));
        Ok(image
            .with_context(|| format!("{PACKAGE} depends on no kernel image"))?
            .to_string())
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// `/boot/vmlinuz-VERSION`, or `/usr/lib/modules/VERSION/vmlinuz` in newer packages.
fn find_kernel(root: &Path) -> Result<PathBuf> {
    let below = |folder: PathBuf| {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let in_boot = below(root.join("boot"));
    let in_modules = below(root.join("usr/lib/modules")).map(|version| version.join("vmlinuz"));
    let is_kernel = |path: &PathBuf| {
        path.is_file()
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    };
    match in_boot.chain(in_modules).find(is_kernel) {
        Some(path) => Ok(path),
        None => bail!("{}: no vmlinuz in {PACKAGE}", root.display()),
    }
}

fn save_modules(folder: &Path, modules: &[Module]) -> Result<()> {
    let save = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        modules
            .iter()
            .try_for_each(|(name, content)| fs::write(folder.join(name), content))?;
        let names: String = modules.iter().flat_map(|(name, _)| [name, "\n"]).collect();
        fs::write(folder.join("order"), names)
    };
    save().with_context(|| folder.display().to_string())
}

fn ordered_modules(folder: &Path) -> Result<Vec<Module>> {
    let order = fs::read_to_string(folder.join("order")).with_context(|| folder.display().to_string())?;
    let module = |name: &str| {
        let path = folder.join(name);
        let content = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok((name.to_owned(), content))
    };
    order.lines().map(module).collect()
}
