// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An RPM package, by rpmbuild, which finds the libraries that the program needs.

use std::path::Path;

use anyhow::{Context, Result};

use super::deb::{description, put, synopsis};
use super::papers::{File, Papers, licences};
use super::{Package, Source, write};
use crate::util;

pub(super) fn make(source: &Source, package: &Package, papers: &Papers, out: &Path) -> Result<()> {
    let folder = source.fresh("rpm")?;
    let root = folder.join("root");
    let mut listed = String::new();
    for file in &papers.0 {
        let place = placed(&file.place);
        put(
            &root,
            &File {
                place: place.clone(),
                bytes: file.bytes.clone(),
                executable: file.executable,
            },
        )?;
        let kind = if place.starts_with("usr/share/doc") {
            "%doc "
        } else {
            ""
        };
        listed.push_str(&format!("{kind}\"/{}\"\n", place.display()));
    }
    for (name, text) in licences(source)? {
        let place = format!("usr/share/licenses/{}/{name}", package.name);
        write(&root.join(&place), text.as_bytes())?;
        listed.push_str(&format!("%license \"/{place}\"\n"));
    }
    let post = if package.is_device() {
        format!(
            "%post\ncommand -v systemd-sysusers >/dev/null && systemd-sysusers {}.conf || :\n\n",
            package.name
        )
    } else {
        String::new()
    };
    let spec = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: {summary}\nLicense: Apache-2.0 OR BSD-3-Clause\nURL: {url}\n\n\
         %description\n{description}\n\n{post}%files\n{listed}",
        name = package.name,
        version = package.version,
        summary = synopsis(package),
        url = package.homepage,
        description = description(package),
    );
    let file = folder.join("package.spec");
    write(&file, spec.as_bytes())?;
    let mut build = source.tool("rpmbuild");
    build.args(["-bb", "--nodebuginfo", "--quiet"]);
    let top = folder.join("top");
    for (name, value) in [
        ("_topdir", top.display().to_string()),
        ("_buildhost", "reproducible".into()),
        ("use_source_date_epoch_as_buildtime", "1".into()),
        ("clamp_mtime_to_source_date_epoch", "1".into()),
        ("_build_id_links", "none".into()),
        // The program is as it is to be.
        ("__os_install_post", "%{nil}".into()),
        ("__spec_install_pre", "%{nil}".into()),
        ("_binary_payload", "w19.zstdio".into()),
    ] {
        build.arg("--define").arg(format!("{name} {value}"));
    }
    build.arg("--buildroot").arg(&root).arg(&file);
    util::capture(&mut build)?;
    for built in super::files(&top.join("RPMS"))? {
        let name = built.file_name().context("a file has a name")?;
        std::fs::copy(top.join("RPMS").join(&built), out.join(name))?;
    }
    Ok(())
}

/// Where the distributions with RPM have their completions of zsh.
fn placed(place: &Path) -> std::path::PathBuf {
    match place.strip_prefix("usr/share/zsh/vendor-completions") {
        Ok(name) => Path::new("usr/share/zsh/site-functions").join(name),
        Err(_) => place.into(),
    }
}
