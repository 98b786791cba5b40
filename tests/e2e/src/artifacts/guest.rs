// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest program, one static executable, and the initramfs around it.

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::Apt;
use super::cpio::Archive;
use super::progress::Progress;
use super::store::Ingredients;
use super::{Lab, Part, tools};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where the kernel and the guest program expect to mount, and where programs lie.
const FOLDERS: [&str; 6] = ["bin", "dev", "proc", "run", "sys", "tmp"];

/// A kernel module for the initramfs: its file name, and its content.
pub(super) type Module = (String, Vec<u8>);

impl Lab {
    /// The static guest program: init and agent in one, also started directly by a User-mode Linux guest.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn guest_program(&self) -> Result<PathBuf> {
        Ok(self.guest_folder()?.join("vu-guest"))
    }

    /// The initramfs for our own kernels, which need no modules.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn initramfs(&self) -> Result<PathBuf> {
        let name = "initramfs";
        let program = self.guest_program()?;
        let busybox = self.busybox()?;
        let ingredients = Ingredients::default()
            .with_file(&program)?
            .with_file(&busybox)?
            .with("layout", FOLDERS.join(" "));
        let folder = self.store.part(name, &ingredients, |folder| {
            write_initramfs(&folder.join(name), &program, &busybox, &[])?;
            Ok(Vec::new())
        })?;
        Ok(folder.join(name))
    }

    fn guest_folder(&self) -> Result<PathBuf> {
        let name = Part::Guest.name();
        let sources = self.guest_sources();
        let ingredients = Ingredients::default()
            .with("rustc", tools::version("rustc")?)
            .with_file(&self.workspace.join("Cargo.lock"))?
            .with_file(&self.workspace.join("Cargo.toml"))?
            .with_file(&sources.join("Cargo.toml"))?
            .with_files(&sources.join("src"))?;
        self.store.part(name, &ingredients, |folder| {
            let progress = Progress::new(name, self.store.log(name)?)?;
            let target = self.folder().join("guest-target");
            progress.run("compiling the guest program", &mut self.compile(&target))?;
            let built = target.join(TARGET).join("guest/vu-guest");
            fs::copy(&built, folder.join("vu-guest")).with_context(|| built.display().to_string())?;
            Ok(vec![("rustc".to_owned(), tools::version("rustc")?)])
        })
    }

    /// Static, so that it is the whole user space. A target folder of its own: its flags must not throw away what
    /// the workspace has compiled, and a test that runs under `cargo test` must not wait for cargo's lock.
    fn compile(&self, target: &Path) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // What cargo set for the program that we are in is not the guest's business.
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_ENCODED_")
                || name == "CARGO_MANIFEST_DIR"
            {
                command.env_remove(&variable);
            }
        }
        command
            .args([
                "build",
                "--profile",
                "guest",
                "--package",
                "vu-guest",
                "--target",
                TARGET,
                "--target-dir",
            ])
            .arg(target)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(&self.workspace);
        command
    }

    /// A static busybox, for the interactive shell of a guest.
    pub(super) fn busybox(&self) -> Result<PathBuf> {
        let name = "busybox";
        let folder = self.store.part(name, &Ingredients::default(), |folder| {
            let progress = Progress::new(name, self.store.log(name)?)?;
            let apt = Apt::open(&self.store, &progress)?;
            let package = apt.candidate("busybox-static")?;
            for deb in apt.download(std::slice::from_ref(&package), folder)? {
                progress.run(
                    "unpacking",
                    Command::new("dpkg").arg("-x").arg(&deb).arg(folder.join("root")),
                )?;
                fs::remove_file(&deb).with_context(|| deb.display().to_string())?;
            }
            // Where /bin is still a folder of its own, the package has it there.
            let places = ["root/usr/bin/busybox", "root/bin/busybox"].map(|place| folder.join(place));
            let busybox = places
                .iter()
                .find(|place| place.is_file())
                .context("no busybox in busybox-static")?;
            fs::rename(busybox, folder.join(name)).context("busybox")?;
            fs::remove_dir_all(folder.join("root")).context("busybox")?;
            Ok(vec![("package".to_owned(), package.to_string())])
        })?;
        Ok(folder.join(name))
    }
}

/// Writes an initramfs: the guest program as `/init`, busybox, and `modules` in the order to load them, which
/// `/modules/order` repeats.
pub(super) fn write_initramfs(path: &Path, program: &Path, busybox: &Path, modules: &[Module]) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let (program, busybox) = (read(program)?, read(busybox)?);
    let write = || -> std::io::Result<()> {
        let mut archive = Archive::new(BufWriter::new(File::create(path)?));
        FOLDERS.iter().try_for_each(|folder| archive.directory(folder))?;
        // The kernel opens it before anything is mounted.
        archive.device("dev/console", 5, 1)?;
        archive.file("init", &program)?;
        archive.file("bin/busybox", &busybox)?;
        archive.symlink("bin/sh", "busybox")?;
        if !modules.is_empty() {
            archive.directory("modules")?;
            let mut order = Vec::new();
            for (name, content) in modules {
                archive.file(&format!("modules/{name}"), content)?;
                writeln!(order, "{name}")?;
            }
            archive.file("modules/order", &order)?;
        }
        archive.finish()
    };
    write().with_context(|| path.display().to_string())
}
