// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernels of our own, from Debian's kernel source: User-mode Linux and a small x86-64 one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::progress::Progress;
use super::store::{Facts, Ingredients, entries};
use super::{Boot, Lab, Part, kconfig, tools};

/// Package names begin so; the newest that follows is used.
const SOURCE_PACKAGE: &str = "linux-source-7.";

/// What no build of ours reads: two thirds of the files. Of the tests, those of `vsock` are wanted.
const UNNEEDED: [&str; 4] = [
    "*/Documentation/[a-z]*",
    "*/arch/*/boot/dts/*",
    "*/drivers/gpu/drm/amd/include/*",
    "*/tools/testing/[!v]*",
];

const TOOLS: [(&str, &str); 8] = [
    ("bc", "bc"),
    ("bison", "bison"),
    ("flex", "flex"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("patch", "patch"),
    ("xz", "xz-utils"),
    ("/usr/include/stdio.h", "libc6-dev"),
];
/// `objtool`, which checks the code of an x86 kernel, reads ELF files.
const X86_TOOLS: [(&str, &str); 1] = [("/usr/include/gelf.h", "libelf-dev")];

/// Removed from a build tree that is kept: the image is elsewhere, and the `Makefile` names the folder's former name.
const SWEPT: [&str; 3] = ["Makefile", "vmlinux", "vmlinux.unstripped"];

/// How to build one kernel.
pub(super) struct Recipe {
    part: Part,
    /// The kernel's name for the architecture.
    arch: &'static str,
    /// Configuration fragments in `tests/guest/config`, a later one having the last word.
    fragments: &'static [&'static str],
    targets: &'static [&'static str],
    /// What `make` leaves and the part keeps, under its file name.
    image: &'static str,
    tools: &'static [(&'static str, &'static str)],
}

pub(super) const UM: Recipe = Recipe {
    part: Part::Um,
    arch: "um",
    fragments: &["base", "guest-virtio", "host-sim", "um"],
    targets: &["linux", "modules"],
    image: "linux",
    tools: &[],
};

const X86: Recipe = Recipe {
    part: Part::X86,
    arch: "x86_64",
    fragments: &["base", "guest-virtio", "x86"],
    targets: &["bzImage"],
    image: "arch/x86/boot/bzImage",
    tools: &X86_TOOLS,
};

impl Lab {
    /// The User-mode Linux kernel: an executable, a guest and a host with simulated hardware.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn um_kernel(&self) -> Result<PathBuf> {
        Ok(self.kernel(&UM)?.join("linux"))
    }

    /// The build tree of the User-mode Linux kernel, without objects: `O=` for modules outside the tree, and its `dtc`.
    ///
    /// # Errors
    /// When the kernel cannot be built.
    pub fn um_build(&self) -> Result<PathBuf> {
        Ok(self.kernel(&UM)?.join("build"))
    }

    /// A module of the User-mode Linux kernel, such as `i2c-stub`.
    ///
    /// # Errors
    /// When the kernel cannot be built, or has no such module.
    pub fn um_module(&self, name: &str) -> Result<PathBuf> {
        let path = self.kernel(&UM)?.join("modules").join(name).with_extension("ko");
        if !path.is_file() {
            bail!(
                "{}: the User-mode Linux kernel has no such module",
                path.display()
            );
        }
        Ok(path)
    }

    /// The small x86-64 kernel, with the initramfs that fits it.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn x86_boot(&self) -> Result<Boot> {
        Ok(Boot {
            kernel: self.kernel(&X86)?.join("bzImage"),
            initramfs: self.initramfs()?,
        })
    }

    /// A device tree blob for User-mode Linux, from `tests/guest/dts/NAME.dts`.
    ///
    /// # Errors
    /// When there is no such source, or it does not compile.
    pub fn device_tree(&self, name: &str) -> Result<PathBuf> {
        let source = self.guest_sources().join("dts").join(name).with_extension("dts");
        let dtc = self.um_build()?.join("scripts/dtc/dtc");
        let part = "device-tree";
        let folder = self
            .store
            .part(part, &Ingredients::default().with_file(&source)?, |folder| {
                let progress = Progress::new(part, self.store.log(part)?)?;
                let mut command = Command::new(dtc);
                command
                    .args(["-I", "dts", "-O", "dtb", "-o"])
                    .arg(folder.join("device-tree.dtb"))
                    .arg(&source);
                progress.run(name, &mut command)?;
                Ok(Facts::from([("source".to_owned(), name.to_owned())]))
            })?;
        Ok(folder.join("device-tree.dtb"))
    }

    /// The source tree of the newest Linux 7.x that Debian's backports have, with our patches.
    pub(super) fn source(&self) -> Result<PathBuf> {
        let name = Part::Source.name();
        let patches = self.guest_sources().join("patches");
        let ingredients = Ingredients::default()
            .with("without", UNNEEDED.join(" "))
            .with_files(&patches)?;
        let folder = self.store.part(name, &ingredients, |folder| {
            tools::ensure(&TOOLS)?;
            let progress = Progress::new(name, self.store.log(name)?)?;
            let apt = Apt::open(&self.store, &progress)?;
            let package = apt.newest(SOURCE_PACKAGE)?;
            let downloads = folder.join("downloads");
            for deb in apt.download(std::slice::from_ref(&package), &downloads)? {
                progress.run(
                    "unpacking the package",
                    Command::new("dpkg").arg("-x").arg(deb).arg(&downloads),
                )?;
            }
            let archive = downloads.join("usr/src").join(format!("{}.tar.xz", package.name));
            unpack(&progress, &archive, &folder.join("linux"))?;
            fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
            apply(&progress, &patches, &folder.join("linux"))?;
            Ok(Facts::from([("package".to_owned(), package.to_string())]))
        })?;
        Ok(folder.join("linux"))
    }

    fn kernel(&self, recipe: &Recipe) -> Result<PathBuf> {
        let name = recipe.part.name();
        let source = self.source()?;
        let mut ingredients = Ingredients::default()
            .with("gcc", tools::version("gcc")?)
            .with_file(&source.with_file_name("manifest"))?
            .with("source", source.as_os_str().as_encoded_bytes());
        let mut fragments = String::new();
        for fragment in recipe.fragments {
            let path = self
                .guest_sources()
                .join("config")
                .join(fragment)
                .with_extension("config");
            fragments += &fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            ingredients = ingredients.with_file(&path)?;
        }
        self.store.part(name, &ingredients, |folder| {
            tools::ensure(&[&TOOLS[..], recipe.tools].concat())?;
            let progress = Progress::new(name, self.store.log(name)?)?;
            let build = folder.join("build");
            configure(&progress, recipe, &source, &build, &fragments)?;
            progress.run(
                "compiling (some minutes)",
                make(recipe, &source, &build).args(recipe.targets),
            )?;
            keep(recipe, folder, &build)?;
            let origin = source.parent().and_then(Path::file_name).unwrap_or_default();
            Ok(Facts::from([
                ("gcc".to_owned(), tools::version("gcc")?),
                ("source".to_owned(), origin.to_string_lossy().into_owned()),
            ]))
        })
    }
}

fn unpack(progress: &Progress, archive: &Path, tree: &Path) -> Result<()> {
    fs::create_dir_all(tree).with_context(|| tree.display().to_string())?;
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(tree)
        .args(["--strip-components=1", "-xf"])
        .arg(archive);
    command.args(UNNEEDED.iter().map(|pattern| format!("--exclude={pattern}")));
    progress.run("unpacking the source", &mut command)
}

fn apply(progress: &Progress, patches: &Path, tree: &Path) -> Result<()> {
    entries(patches)?.iter().try_for_each(|file| {
        let mut command = Command::new("patch");
        command
            .args(["-p1", "--forward", "--batch", "-i"])
            .arg(file)
            .current_dir(tree);
        progress.run(
            &format!("patching: {}", file.file_name().unwrap_or_default().display()),
            &mut command,
        )
    })
}

/// `make` for this kernel, its output in `build`.
pub(super) fn make(recipe: &Recipe, source: &Path, build: &Path) -> Command {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(source)
        .arg(format!("-j{jobs}"))
        .arg(format!("ARCH={}", recipe.arch));
    // What a surrounding make or cargo exported is not the kernel's business.
    command
        .arg(format!("O={}", build.display()))
        .env_remove("MAKEFLAGS")
        .env_remove("CFLAGS");
    command
}

/// The smallest kernel that has what the fragments ask for.
fn configure(
    progress: &Progress,
    recipe: &Recipe,
    source: &Path,
    build: &Path,
    fragments: &str,
) -> Result<()> {
    fs::create_dir_all(build).with_context(|| build.display().to_string())?;
    let wanted = build.join("wanted.config");
    fs::write(&wanted, fragments).with_context(|| wanted.display().to_string())?;
    let mut command = make(recipe, source, build);
    progress.run(
        "configuring",
        command.arg("allnoconfig").env("KCONFIG_ALLCONFIG", &wanted),
    )?;
    let config = build.join(".config");
    let config = fs::read_to_string(&config).with_context(|| config.display().to_string())?;
    let refused = kconfig::refused(&kconfig::requested(fragments), &config);
    if !refused.is_empty() {
        bail!(
            "the kernel's configuration did not take:\n  {}",
            refused.join("\n  ")
        );
    }
    Ok(())
}

/// Keeps the image, the modules and, for User-mode Linux, what modules outside the tree are built against.
fn keep(recipe: &Recipe, folder: &Path, build: &Path) -> Result<()> {
    let image = build.join(recipe.image);
    let name = image.file_name().unwrap_or_default();
    fs::rename(&image, folder.join(name)).with_context(|| image.display().to_string())?;
    if recipe.part != Part::Um {
        return fs::remove_dir_all(build).with_context(|| build.display().to_string());
    }
    let modules = folder.join("modules");
    fs::create_dir_all(&modules).with_context(|| modules.display().to_string())?;
    sweep(build, &modules)
}

/// Moves modules out of the build tree and removes the objects, which are most of it. What lies below `scripts`
/// belongs to programs that building a module needs.
fn sweep(folder: &Path, modules: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry
            .file_type()
            .with_context(|| path.display().to_string())?
            .is_dir()
        {
            if name != "scripts" {
                sweep(&path, modules)?;
            }
            continue;
        }
        let done = match path.extension().and_then(|end| end.to_str()) {
            Some("ko") => fs::rename(&path, modules.join(name)),
            Some("o" | "a" | "cmd") => fs::remove_file(&path),
            _ if SWEPT.iter().any(|swept| name == *swept) => fs::remove_file(&path),
            _ => Ok(()),
        };
        done.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{UM, entries, keep};
    use std::fs;

    #[test]
    fn a_kept_build_tree_has_what_modules_need_and_no_more() {
        let folder = std::env::temp_dir().join(format!("vu-kernel-{}", std::process::id()));
        let build = folder.join("build");
        for name in ["drivers/i2c", "scripts/dtc"] {
            fs::create_dir_all(build.join(name)).unwrap();
        }
        let kept = ["Module.symvers", "scripts/dtc/dtc", "scripts/dtc/dtc.o"];
        let swept = [
            "Makefile",
            "vmlinux",
            "drivers/built-in.a",
            "drivers/i2c/i2c-core.o",
        ];
        for name in kept
            .iter()
            .chain(&swept)
            .chain(&["linux", "drivers/i2c/i2c-stub.ko"])
        {
            fs::write(build.join(name), "").unwrap();
        }
        keep(&UM, &folder, &build).unwrap();
        assert!(kept.iter().all(|name| build.join(name).is_file()));
        assert!(swept.iter().all(|name| !build.join(name).exists()));
        assert_eq!(
            entries(&folder.join("modules")).unwrap(),
            [folder.join("modules/i2c-stub.ko")]
        );
        assert!(folder.join("linux").is_file() && !build.join("linux").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
