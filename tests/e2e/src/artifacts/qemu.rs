// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU: the machine's own where it is new enough, else Debian's backport unpacked beside the system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::Apt;
use super::progress::Progress;
use super::store::Ingredients;
use super::{Lab, Part, tools};

const PROGRAM: &str = "qemu-system-x86_64";
/// The first version with a generic vhost-user device that a user may create.
const NEEDED: (u32, u32) = (10, 2);

/// Starts the unpacked QEMU with the libraries, modules and firmware that came with it. Relative to itself, and with
/// `exec`, so that the process is QEMU's own.
const WRAPPER: &str = r#"#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
lib=$root/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$lib/qemu exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$lib" \
    "$root/usr/bin/qemu-system-x86_64" \
    -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu" "$@"
"#;

impl Lab {
    /// `qemu-system-x86_64` in version 10.2 or newer.
    ///
    /// # Errors
    /// When neither the machine has it nor it can be fetched.
    pub fn qemu(&self) -> Result<PathBuf> {
        if tools::installed(PROGRAM) && tools::version(PROGRAM).is_ok_and(|text| is_new_enough(&text)) {
            return Ok(PROGRAM.into());
        }
        let name = Part::Qemu.name();
        let ingredients = Ingredients::default().with("wrapper", WRAPPER);
        let folder = self.store.part(name, &ingredients, |folder| {
            let progress = Progress::new(name, self.store.log(name)?)?;
            let apt = Apt::open(&self.store, &progress)?;
            let packages = apt.closure("qemu-system-x86")?;
            let downloads = folder.join("downloads");
            apt.download(&packages, &downloads)?;
            progress.run("unpacking", &mut unpack_all(&downloads, &folder.join("root")))?;
            fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
            let wrapper = folder.join(PROGRAM);
            fs::write(&wrapper, WRAPPER)
                .and_then(|()| fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)))
                .with_context(|| wrapper.display().to_string())?;
            let version = tools::version(&wrapper)?;
            if !is_new_enough(&version) {
                anyhow::bail!("it does not run, or is too old: {version:?}");
            }
            Ok(vec![("version".to_owned(), version)])
        })?;
        Ok(folder.join(PROGRAM))
    }
}

/// Unpacks every package of `downloads` into `root`, running none of their scripts.
fn unpack_all(downloads: &Path, root: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-ec",
            r#"for deb in "$1"/*.deb; do dpkg -x "$deb" "$2"; done"#,
            "sh",
        ])
        .arg(downloads)
        .arg(root);
    command
}

/// Reads `QEMU emulator version 11.1.3 (...)`.
fn is_new_enough(text: &str) -> bool {
    let mut numbers = text
        .split_whitespace()
        .nth(3)
        .unwrap_or_default()
        .split('.')
        .map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= NEEDED)
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions() {
        assert!(is_new_enough(
            "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)"
        ));
        assert!(is_new_enough("QEMU emulator version 10.2.0"));
        assert!(!is_new_enough(
            "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"
        ));
        assert!(!is_new_enough("QEMU emulator version 7.2.19"));
        assert!(!is_new_enough(""));
    }
}
