// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask dist`: packages of each program, made of what the program itself prints with `--generate`.
//!
//! | file | what it answers |
//! |---|---|
//! | `build.rs` | the programs, built so that the same source gives the same bytes |
//! | `papers.rs` | which file goes where |
//! | `deb.rs`, `rpm.rs`, `oci.rs` | the packages |
//! | `sbom.rs` | what a program is made of |
//! | `proof.rs` | whether the packages work, and come out the same elsewhere |

mod build;
mod deb;
mod oci;
mod papers;
pub(crate) mod proof;
mod rpm;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vu_e2e::artifacts::tools;

use crate::util;
use build::Link;
use papers::Papers;

/// Who answers for the packages.
const MAINTAINER: &str = "vhost-device developers <vhost-device@users.noreply.github.com>";
/// Programs that make packages, and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[("dpkg-shlibdeps", "dpkg-dev"), ("rpmbuild", "rpm")];

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Devices, as `gpio`, and `ctl`; all without any
    device: Vec<String>,
    /// Debian packages
    #[arg(long)]
    deb: bool,
    /// RPM packages
    #[arg(long)]
    rpm: bool,
    /// Container images: folders in the OCI image layout
    #[arg(long)]
    oci: bool,
    /// What each program is made of, in the format of CycloneDX
    #[arg(long)]
    sbom: bool,
    /// Make all of all devices, twice, and prove that they work
    #[arg(long, exclusive = true)]
    prove: bool,
}

/// What is made; all of it if nothing is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Kinds {
    deb: bool,
    rpm: bool,
    oci: bool,
    sbom: bool,
}

impl Kinds {
    const ALL: Self = Self {
        deb: true,
        rpm: true,
        oci: true,
        sbom: true,
    };
}

#[allow(clippy::needless_pass_by_value, reason = "every task owns its arguments")]
pub(crate) fn run(args: Args) -> Result<()> {
    if args.prove {
        return proof::run();
    }
    let asked = Kinds {
        deb: args.deb,
        rpm: args.rpm,
        oci: args.oci,
        sbom: args.sbom,
    };
    let any = args.deb || args.rpm || args.oci || args.sbom;
    let source = Source::open(&util::root()?)?;
    let packages = source.packages(&args.device)?;
    let out = make(&source, &packages, if any { asked } else { Kinds::ALL })?;
    println!("{}", out.display());
    Ok(())
}

/// The tree that is packed.
pub(crate) struct Source {
    root: PathBuf,
    /// Where everything is written.
    out: PathBuf,
    /// Seconds since 1970 of the last change, which stand for the time of every file.
    epoch: u64,
    metadata: Value,
}

/// A program to be packed.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// `vhost-device-gpio`, also the name of the program.
    name: String,
    version: String,
    /// One line.
    description: String,
    homepage: String,
}

impl Package {
    /// Whether it is a device, not the client of all.
    fn is_device(&self) -> bool {
        self.name != "vhost-device-ctl"
    }
}

impl Source {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(root).args(["log", "-1", "--format=%ct"]);
        let epoch = util::capture(&mut git)?
            .trim()
            .parse()
            .context("the time of the last commit")?;
        let mut cargo = util::cargo(&["metadata", "--format-version=1", "--locked", "--filter-platform"])?;
        cargo.arg(build::target()?).current_dir(root);
        Ok(Self {
            root: root.into(),
            out: root.join("target/dist"),
            epoch,
            metadata: serde_json::from_str(&util::capture(&mut cargo)?)?,
        })
    }

    /// The packages of the devices with these names, or all that there are.
    pub(crate) fn packages(&self, devices: &[String]) -> Result<Vec<Package>> {
        let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let all = self.metadata["packages"].as_array().context("no packages")?;
        let ours = all.iter().filter(|package| {
            package["source"].is_null() && text(package, "name").starts_with("vhost-device-")
        });
        let mut packages: Vec<_> = ours
            .map(|package| Package {
                name: text(package, "name"),
                version: text(package, "version"),
                description: text(package, "description"),
                homepage: text(package, "repository"),
            })
            .collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        for device in devices {
            let name = format!("vhost-device-{device}");
            ensure!(
                packages.iter().any(|package| package.name == name),
                "{device}: no such device"
            );
        }
        let asked = |package: &Package| {
            devices
                .iter()
                .any(|device| package.name == format!("vhost-device-{device}"))
        };
        packages.retain(|package| devices.is_empty() || asked(package));
        Ok(packages)
    }

    /// An empty folder under where everything is written.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.out.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }

    /// A program of somebody else, which is to give the same bytes each time.
    fn tool(&self, program: &str) -> Command {
        let mut command = tools::command(program);
        command
            .current_dir(&self.root)
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC");
        command
    }
}

/// Makes the packages; the folder that they are in.
pub(crate) fn make(source: &Source, packages: &[Package], kinds: Kinds) -> Result<PathBuf> {
    tools::ensure(PROGRAMS)?;
    let out = source.fresh("packages")?;
    let programs = build::programs(source, packages, Link::Dynamic)?;
    let fixed = if kinds.oci {
        Some(build::programs(source, packages, Link::Static)?)
    } else {
        None
    };
    for package in packages {
        util::step(&format!("dist: {}", package.name));
        let papers = Papers::of(source, package, &programs)?;
        if kinds.deb {
            deb::make(source, package, &papers, &out)?;
        }
        if kinds.rpm {
            rpm::make(source, package, &papers, &out)?;
        }
        if let Some(programs) = &fixed {
            oci::make(source, package, programs, &out)?;
        }
        if kinds.sbom {
            sbom::make(source, package, &out)?;
        }
    }
    sums(source, &out)?;
    Ok(out)
}

/// `SHA256SUMS` of all files in `out`.
fn sums(source: &Source, out: &Path) -> Result<()> {
    let mut files = files(out)?;
    files.sort();
    let mut command = source.tool("sha256sum");
    command.current_dir(out).arg("--").args(&files);
    let text = util::capture(&mut command)?;
    write(&out.join("SHA256SUMS"), text.as_bytes())
}

/// The files under `folder`, relative to it.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder)?.to_path_buf());
            }
        }
    }
    Ok(found)
}

/// The SHA-256 of a file, in hexadecimal.
fn sha256(source: &Source, file: &Path) -> Result<String> {
    let text = util::capture(source.tool("sha256sum").arg(file))?;
    match text.split_whitespace().next() {
        Some(sum) => Ok(sum.to_owned()),
        None => bail!("{}: no checksum", file.display()),
    }
}

/// Writes a file and the folders above it.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = || path.display().to_string();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(shown)?;
    }
    fs::write(path, bytes).with_context(shown)
}
