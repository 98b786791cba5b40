// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A Debian package, by dpkg's own tools. Units are installed and not started: which socket is served is the administrator's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::papers::{File, Papers, gzip, licences};
use super::{MAINTAINER, Package, Source, write};
use crate::util;

/// Makes the user of the service. It stays when the package goes, as is the custom: files may be his.
const POSTINST: &str = r#"#!/bin/sh
set -e
if [ "$1" = configure ] && command -v systemd-sysusers >/dev/null; then
    systemd-sysusers NAME.conf
fi
"#;

pub(super) fn make(source: &Source, package: &Package, papers: &Papers, out: &Path) -> Result<()> {
    let root = source.fresh("deb")?;
    for file in &papers.0 {
        put(&root, file)?;
    }
    let doc = root.join("usr/share/doc").join(&package.name);
    write(&doc.join("copyright"), copyright(source, package)?.as_bytes())?;
    write(
        &doc.join("changelog.Debian.gz"),
        &gzip(source, changelog(source, package)?.as_bytes())?,
    )?;
    let control = root.join("DEBIAN");
    let architecture = util::capture(source.tool("dpkg").arg("--print-architecture"))?;
    let control_text = control_file(source, package, papers, architecture.trim())?;
    write(&control.join("control"), control_text.as_bytes())?;
    write(&control.join("md5sums"), sums(source, &root)?.as_bytes())?;
    if package.is_device() {
        let script = control.join("postinst");
        write(&script, POSTINST.replace("NAME", &package.name).as_bytes())?;
        mode(&script, 0o755)?;
    }
    let file = format!(
        "{}_{}-1_{}.deb",
        package.name,
        package.version,
        architecture.trim()
    );
    let mut build = source.tool("dpkg-deb");
    build
        .args(["--root-owner-group", "-Zxz", "--build"])
        .arg(&root)
        .arg(out.join(file));
    util::capture(&mut build)?;
    Ok(())
}

/// Puts a file where it goes under `root`.
pub(super) fn put(root: &Path, file: &File) -> Result<()> {
    let path = root.join(&file.place);
    write(&path, &file.bytes)?;
    mode(&path, if file.executable { 0o755 } else { 0o644 })
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}

fn control_file(source: &Source, package: &Package, papers: &Papers, architecture: &str) -> Result<String> {
    let bytes: usize = papers.0.iter().map(|file| file.bytes.len()).sum();
    let recommends = if package.is_device() {
        "Recommends: systemd | systemd-standalone-sysusers, vhost-device-ctl\n"
    } else {
        ""
    };
    Ok(format!(
        "Package: {name}\nVersion: {version}-1\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {size}\nDepends: {depends}\n{recommends}Section: admin\nPriority: optional\n\
         Homepage: {homepage}\nDescription: {synopsis}\n{description}",
        name = package.name,
        version = package.version,
        size = bytes.div_ceil(1024),
        depends = libraries(source, papers)?,
        homepage = package.homepage,
        synopsis = synopsis(package),
        description = wrapped(&description(package)),
    ))
}

/// What is said of a package.
pub(super) fn description(package: &Package) -> String {
    format!(
        "{}. It is one of a suite of daemons that give virtual machines virtio devices over vhost-user, outside of the virtual \
         machine monitor.",
        package.description
    )
}

/// Lines of at most 78 characters, each after a space.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut len = usize::MAX;
    for word in text.split_whitespace() {
        if len.saturating_add(word.len()) >= 78 {
            lines.push_str(if lines.is_empty() { " " } else { "\n " });
            len = 0;
        } else {
            lines.push(' ');
            len += 1;
        }
        lines.push_str(word);
        len += word.len();
    }
    lines + "\n"
}

/// At most 80 characters, without an article in front.
pub(super) fn synopsis(package: &Package) -> String {
    let first = package.description.split([':', ',']).next().unwrap_or_default();
    let plain = first
        .strip_prefix("A ")
        .or_else(|| first.strip_prefix("An "))
        .unwrap_or(first);
    plain.chars().take(80).collect()
}

/// The packages of the libraries that the program needs.
fn libraries(source: &Source, papers: &Papers) -> Result<String> {
    let folder = source.fresh("shlibdeps")?;
    // The tool looks at no program without the description of a source package.
    write(
        &folder.join("debian/control"),
        b"Source: x\n\nPackage: x\nArchitecture: any\n",
    )?;
    let program = papers
        .0
        .iter()
        .find(|file| file.executable)
        .context("no program")?;
    put(&folder, program)?;
    let mut command = source.tool("dpkg-shlibdeps");
    command.current_dir(&folder).arg("-O").arg(&program.place);
    let text = util::capture(&mut command)?;
    let depends = text.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.context("no dependencies")?.to_owned())
}

fn sums(source: &Source, root: &Path) -> Result<String> {
    let mut files = super::files(root)?;
    files.retain(|file| !file.starts_with("DEBIAN"));
    files.sort();
    let mut command = source.tool("md5sum");
    command.current_dir(root).arg("--").args(&files);
    util::capture(&mut command)
}

fn copyright(source: &Source, package: &Package) -> Result<String> {
    let mut text = format!(
        "{} comes from {}.\n\nCopyright: the vhost-device developers\n\nLicence: Apache-2.0 or BSD-3-Clause, as you prefer.\n",
        package.name, package.homepage
    );
    for (name, licence) in licences(source)? {
        let body = if name == "Apache-2.0" {
            "The text is in /usr/share/common-licenses/Apache-2.0 on Debian systems.\n"
        } else {
            &licence
        };
        text.push_str(&format!("\n{name}\n\n{body}"));
    }
    Ok(text)
}

fn changelog(source: &Source, package: &Package) -> Result<String> {
    let mut date = source.tool("date");
    date.args(["-u", "-R", "-d"]).arg(format!("@{}", source.epoch));
    let date = util::capture(&mut date)?;
    Ok(format!(
        "{} ({}-1) unstable; urgency=medium\n\n  * See the commits at {}\n\n -- {MAINTAINER}  {}\n",
        package.name,
        package.version,
        package.homepage,
        date.trim()
    ))
}
