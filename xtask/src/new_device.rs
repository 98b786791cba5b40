// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask new-device <name>`: a copy of rng under another name. It works from the first minute, still as an
//! entropy device, and is then changed step by step.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::tidy::source::{Text, walk};
use crate::util;

/// The device to copy: the simplest.
const MODEL: &str = "rng";

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the device: the package will be `vhost-device-<NAME>`
    name: String,
}

pub(crate) fn run(Args { name }: Args) -> Result<()> {
    let names = Names::new(&name)?;
    let root = util::root()?;
    let folder = |device: &str| root.join(format!("crates/vhost-device-{device}"));
    let (model, new) = (folder(MODEL), folder(&name));
    if new.exists() {
        bail!("{}: exists already", new.display());
    }
    for Text { path, text } in walk(&model)? {
        let text = match path.as_str() {
            "README.md" => names.readme(),
            "Cargo.toml" => names.manifest(&text),
            _ if path.starts_with("src/") => names.rename(&text),
            _ => names.rename_package(&text),
        };
        write(&new.join(&path), &text)?;
    }
    // Another name sorts elsewhere, and wraps elsewhere.
    util::run(&mut util::cargo(&[
        "fmt",
        "--package",
        &format!("vhost-device-{name}"),
    ])?)?;
    println!(
        "{} is an entropy device under a new name. It passes its tests:\n",
        new.display()
    );
    println!("    cargo test --package vhost-device-{name}\n");
    println!("CONTRIBUTING.md says what to change, and in which order.");
    Ok(())
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// The new name in its spellings.
struct Names {
    /// `fancy-gpio`, in names of packages and files.
    kebab: String,
    /// `fancy_gpio`, in names of variables.
    snake: String,
    /// `FancyGpio`, in names of types.
    camel: String,
}

impl Names {
    fn new(name: &str) -> Result<Self> {
        let words: Vec<&str> = name.split('-').collect();
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let word =
            |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(lower);
        let snake = words.join("_");
        if !words.iter().all(word) || syn::parse_str::<syn::Ident>(&snake).is_err() {
            bail!(
                "{name}: not a name for a device (lower-case words with `-` between them, and no word of Rust)"
            );
        }
        let capital = |word: &&str| word[..1].to_uppercase() + &word[1..];
        Ok(Self {
            kebab: name.to_owned(),
            snake,
            camel: words.iter().map(capital).collect(),
        })
    }

    /// Renames the package only: a test still drives what is an entropy device.
    fn rename_package(&self, text: &str) -> String {
        text.replace("vhost-device-rng", &format!("vhost-device-{}", self.kebab))
            .replace("vhost_device_rng", &format!("vhost_device_{}", self.snake))
    }

    /// Renames the package, its types and its variables. The type that the daemon tells its managers is a string: it
    /// stays what the device is, until that changes.
    fn rename(&self, text: &str) -> String {
        let text = self.rename_package(text);
        let mut renamed = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(start) = rest.find(is_word) {
            let length = rest[start..].find(|c| !is_word(c)).unwrap_or(rest.len() - start);
            let (before, word) = (&rest[..start], &rest[start..start + length]);
            renamed.push_str(before);
            let quoted = before.ends_with('"');
            renamed.push_str(&if quoted { word.to_owned() } else { self.word(word) });
            rest = &rest[start + length..];
        }
        renamed + rest
    }

    fn word(&self, word: &str) -> String {
        match word.strip_prefix("Rng") {
            Some(more) if !more.starts_with(|c: char| c.is_ascii_lowercase()) => self.camel.clone() + more,
            _ if word == MODEL => self.snake.clone(),
            _ => word.to_owned(),
        }
    }

    fn manifest(&self, text: &str) -> String {
        let description = format!("description = \"A vhost-user {} device\"", self.kebab);
        let line = |line: &str| {
            let line = if line.starts_with("description = ") {
                &description
            } else {
                line
            };
            self.rename_package(line) + "\n"
        };
        text.lines().map(line).collect()
    }

    fn readme(&self) -> String {
        let name = &self.kebab;
        format!(
            "# vhost-device-{name}\n\n\
             A vhost-user {name} device. **New: it still is the entropy device that it was copied from.**\n\n\
             ```console\n\
             $ vhost-device-{name} --socket-path /tmp/{name}.sock\n\
             $ qemu-system-x86_64 ... \\\n    \
             -object memory-backend-memfd,id=mem,size=1G,share=on -machine memory-backend=mem \\\n    \
             -chardev socket,id={name},path=/tmp/{name}.sock \\\n    \
             -device vhost-user-test-device-pci,chardev={name},virtio-id=4,num_vqs=1\n\
             ```\n"
        )
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn types_variables_and_packages_are_renamed() {
        let names = Names::new("fancy-gpio").unwrap();
        for (old, new) in [
            (
                "use vhost_device_rng::{Rng, RngArgs};",
                "use vhost_device_fancy_gpio::{FancyGpio, FancyGpioArgs};",
            ),
            (
                "Spec::new(\"rng\", VIRTIO_ID_RNG, 1)",
                "Spec::new(\"rng\", VIRTIO_ID_RNG, 1)",
            ),
            ("rng: Rng", "fancy_gpio: FancyGpio"),
            (
                "self.rng.read(), /dev/hwrng, wrong",
                "self.fancy_gpio.read(), /dev/hwrng, wrong",
            ),
            (
                "the daemon vhost-device-rng.",
                "the daemon vhost-device-fancy-gpio.",
            ),
        ] {
            assert_eq!(names.rename(old), new);
        }
    }

    #[test]
    fn a_test_keeps_its_driver() {
        let names = Names::new("can").unwrap();
        let old = "use vhost_device_rng::MAX; use vu_testkit::devices::rng;";
        assert_eq!(
            names.rename_package(old),
            "use vhost_device_can::MAX; use vu_testkit::devices::rng;"
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "", "Can", "can_fd", "-can", "can-", "9p", "../can", "box", "type", "a b",
        ] {
            assert!(Names::new(name).is_err(), "{name}");
        }
    }
}
