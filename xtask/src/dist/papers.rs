// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What comes with a program and where it goes, for every kind of package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::build::Programs;
use super::{Package, Source, write};
use crate::util;

/// A file of a package.
pub(super) struct File {
    /// From the root of a system, without a slash in front.
    pub(super) place: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) executable: bool,
}

/// All files of a package but those that only one kind of package has.
pub(super) struct Papers(pub(super) Vec<File>);

/// Where each paper of `--generate` goes, if it goes to the same place in all; `NAME` stands for the program.
const PLACES: [(&str, &str); 6] = [
    ("apparmor", "usr/share/doc/NAME/examples/apparmor"),
    ("bash", "usr/share/bash-completion/completions/NAME"),
    ("fish", "usr/share/fish/vendor_completions.d/NAME.fish"),
    ("service", "usr/lib/systemd/system/NAME@.service"),
    ("socket", "usr/lib/systemd/system/NAME@.socket"),
    ("sysusers", "usr/lib/sysusers.d/NAME.conf"),
];
/// Above 50, so that no daemon of others is replaced.
const DISCOVERY: &str = "usr/share/qemu/vhost-user/60-NAME.json";

impl Papers {
    pub(super) fn of(source: &Source, package: &Package, programs: &Programs) -> Result<Self> {
        let program = programs.path(package);
        let binary = fs::read(&program).with_context(|| program.display().to_string())?;
        let mut files = vec![File {
            place: Path::new("usr/bin").join(&package.name),
            bytes: binary,
            executable: true,
        }];
        let mut add = |place: &str, bytes: Vec<u8>| {
            files.push(File {
                place: place.replace("NAME", &package.name).into(),
                bytes,
                executable: false,
            });
        };
        let generate = |paper: &str| util::capture(Command::new(&program).args(["--generate", paper]));
        for (paper, place) in PLACES {
            if package.is_device() || ["bash", "fish"].contains(&paper) {
                add(place, generate(paper)?.into_bytes());
            }
        }
        // Only for the types that libvirt knows is there one.
        if package.is_device()
            && let Ok(text) = generate("json")
        {
            add(DISCOVERY, text.into_bytes());
        }
        add(
            "usr/share/man/man1/NAME.1.gz",
            gzip(source, generate("man")?.as_bytes())?,
        );
        add(
            "usr/share/zsh/vendor-completions/_NAME",
            generate("zsh")?.into_bytes(),
        );
        let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
        let readme = read(source.root.join("crates").join(&package.name).join("README.md"))?;
        add("usr/share/doc/NAME/README.md", readme);
        Ok(Self(files))
    }
}

/// The text of the licences.
pub(super) fn licences(source: &Source) -> Result<[(&'static str, String); 2]> {
    let read = |name: &str| {
        let path = source.root.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    Ok([
        ("Apache-2.0", read("LICENSE-APACHE")?),
        ("BSD-3-clause", read("LICENSE-BSD")?),
    ])
}

/// Compresses without a time and a name.
pub(super) fn gzip(source: &Source, bytes: &[u8]) -> Result<Vec<u8>> {
    let plain = source.fresh("gzip")?.join("plain");
    write(&plain, bytes)?;
    util::capture(source.tool("gzip").args(["-9", "-n"]).arg(&plain))?;
    let packed = plain.with_extension("gz");
    fs::read(&packed).with_context(|| packed.display().to_string())
}
