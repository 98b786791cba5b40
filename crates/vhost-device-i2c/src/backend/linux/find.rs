// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which adapter of the host a name means.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

/// Where the host lists its adapters.
pub(super) const SYSFS: &str = "/sys/class/i2c-dev";
/// The major number of I2C character devices.
const MAJOR: u32 = 89;

/// An adapter of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Adapter {
    /// Its number on the host.
    pub(super) number: u32,
    /// What its driver calls it; empty if the host does not tell.
    pub(super) name: String,
}

/// The adapters that `sysfs` lists, in order; none if it cannot be read.
pub(super) fn list(sysfs: &Path) -> Vec<Adapter> {
    let adapter = |entry: io::Result<fs::DirEntry>| {
        let number = numbered(entry.ok()?.file_name().to_str()?)?;
        Some(Adapter {
            number,
            name: name(sysfs, number),
        })
    };
    let mut adapters: Vec<Adapter> = fs::read_dir(sysfs)
        .into_iter()
        .flatten()
        .filter_map(adapter)
        .collect();
    adapters.sort_by_key(|adapter| adapter.number);
    adapters
}

/// What the driver of adapter `number` calls it.
pub(super) fn name(sysfs: &Path, number: u32) -> String {
    let name = fs::read_to_string(sysfs.join(format!("i2c-{number}/name")));
    name.unwrap_or_default().trim().to_owned()
}

/// The number in a name such as `i2c-1`.
fn numbered(name: &str) -> Option<u32> {
    name.strip_prefix("i2c-")?.parse().ok()
}

/// The adapter that `text` means, by its number, its path or its name, and the path of its device.
pub(super) fn find(text: &str, sysfs: &Path) -> Result<(Adapter, PathBuf)> {
    let adapters = list(sysfs);
    let number = if text.contains('/') {
        number_of(Path::new(text)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unknown(text, &adapters),
            _ => anyhow!("{text}: {error}"),
        })?
    } else {
        match text.parse().ok().or_else(|| numbered(text)) {
            Some(number) => number,
            None => by_name(text, &adapters)?,
        }
    };
    let path = if text.contains('/') {
        text.into()
    } else {
        PathBuf::from(format!("/dev/i2c-{number}"))
    };
    if !path.exists() && !adapters.iter().any(|adapter| adapter.number == number) {
        return Err(unknown(text, &adapters));
    }
    Ok((
        Adapter {
            number,
            name: name(sysfs, number),
        },
        path,
    ))
}

/// The number of the adapter whose device is at `path`.
fn number_of(path: &Path) -> io::Result<u32> {
    let meta = path.metadata()?;
    let device = meta.rdev();
    if meta.file_type().is_char_device() && rustix::fs::major(device) == MAJOR {
        Ok(rustix::fs::minor(device))
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the device of an I2C adapter",
        ))
    }
}

fn by_name(text: &str, adapters: &[Adapter]) -> Result<u32> {
    let mut named = adapters.iter().filter(|adapter| adapter.name == text);
    let Some(first) = named.next() else {
        return Err(unknown(text, adapters));
    };
    if let Some(second) = named.next() {
        bail!(
            "{text:?}: several adapters have this name, i2c-{} and i2c-{}: choose one by its number",
            first.number,
            second.number
        );
    }
    Ok(first.number)
}

fn unknown(text: &str, adapters: &[Adapter]) -> anyhow::Error {
    if adapters.is_empty() {
        return anyhow!("{text}: no such adapter (none here; the kernel's i2c-dev has to be loaded)");
    }
    let mut here = String::new();
    for adapter in adapters {
        let comma = if here.is_empty() { "" } else { ", " };
        let _ = write!(here, "{comma}i2c-{} {:?}", adapter.number, adapter.name);
    }
    anyhow!("{text}: no such adapter (adapters here: {here})")
}

#[cfg(test)]
mod tests {
    use vu_testkit::spawn::TempDir;

    use super::*;

    /// A list of adapters as the host has it.
    fn sysfs(adapters: &[(u32, &str)]) -> TempDir {
        let dir = TempDir::new().unwrap();
        for (number, name) in adapters {
            let folder = dir.path().join(format!("i2c-{number}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        }
        dir
    }

    fn refused(text: &str, sysfs: &TempDir) -> String {
        format!("{:#}", find(text, sysfs.path()).unwrap_err())
    }

    #[test]
    fn by_number_and_by_name() {
        let dir = sysfs(&[(90, "i915 gmbus dpb"), (7, "SMBus stub driver"), (11, "7")]);
        let table = [
            ("90", 90, "i915 gmbus dpb"),
            ("i2c-90", 90, "i915 gmbus dpb"),
            ("i915 gmbus dpb", 90, "i915 gmbus dpb"),
            ("SMBus stub driver", 7, "SMBus stub driver"),
            // A number is a number, whatever adapters are called.
            ("7", 7, "SMBus stub driver"),
        ];
        for (text, number, name) in table {
            let (adapter, path) = find(text, dir.path()).unwrap();
            assert_eq!((adapter.number, adapter.name.as_str()), (number, name), "{text}");
            assert_eq!(path, Path::new(&format!("/dev/i2c-{number}")), "{text}");
        }
    }

    #[test]
    fn an_unknown_one_lists_what_is_there() {
        let dir = sysfs(&[(12, "b"), (3, "a \"quoted\" one")]);
        for text in ["99", "i2c-99", "/dev/i2c-99", "i915", "-1", "i2c-", "i2c-1x", ""] {
            let here = r#"no such adapter (adapters here: i2c-3 "a \"quoted\" one", i2c-12 "b")"#;
            assert_eq!(refused(text, &dir), format!("{text}: {here}"));
        }
        let none = "/dev/i2c-99: no such adapter (none here; the kernel's i2c-dev has to be loaded)";
        assert_eq!(refused("/dev/i2c-99", &sysfs(&[])), none);
    }

    #[test]
    fn a_name_must_be_unique() {
        let dir = sysfs(&[(0, "twin"), (1, "other"), (4, "twin")]);
        assert_eq!(
            refused("twin", &dir),
            "\"twin\": several adapters have this name, i2c-0 and i2c-4: choose one by its number"
        );
    }

    #[test]
    fn a_path_must_be_the_device_of_an_adapter() {
        let dir = sysfs(&[(0, "a")]);
        assert_eq!(
            refused("/dev/null", &dir),
            "/dev/null: not the device of an I2C adapter"
        );
        assert_eq!(refused("/tmp", &dir), "/tmp: not the device of an I2C adapter");
    }
}
