// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernel modules of a package: which files a driver needs, in the order to load them.
//!
//! A package brings no `modules.dep`, which `depmod` makes when a kernel is installed; but each module names in its
//! own `.modinfo` section what it depends on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::guest::Module;

/// The module files of one kernel, by module name.
pub(super) struct Modules(BTreeMap<String, PathBuf>);

impl Modules {
    /// Finds all modules below `folder`.
    pub(super) fn below(folder: &Path) -> Result<Self> {
        let mut modules = BTreeMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry.with_context(|| folder.display().to_string())?.path();
                let file = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some((stem, _)) = file.split_once(".ko") {
                    modules.insert(module_name(stem), path);
                }
            }
        }
        Ok(Self(modules))
    }

    /// The modules of `drivers` with all that they depend on, each after its dependencies. A driver that this kernel
    /// has built in, or does not have, is no module and not in the result.
    pub(super) fn load_order(&self, drivers: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for driver in drivers.iter().filter(|driver| self.0.contains_key(**driver)) {
            self.add(driver, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<Module>) -> Result<()> {
        let file = format!("{name}.ko");
        if order.iter().any(|(known, _)| *known == file) {
            return Ok(());
        }
        let path = self
            .0
            .get(name)
            .with_context(|| format!("kernel module {name}: not in the package"))?;
        let content = content(path)?;
        for needed in dependencies(&content) {
            self.add(&needed, order)?;
        }
        order.push((file, content));
        Ok(())
    }
}

/// A module as the kernel takes it, uncompressed.
fn content(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| path.display().to_string()),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .output()
        .context(program)?;
    if !output.status.success() {
        bail!(
            "{program} -dc {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// The string `depends=a,b` between NULs in the module's `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    let field = module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(field.unwrap_or_default()).into_owned();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(module_name)
        .collect()
}

/// A file is called `virtio-rng.ko`, its module `virtio_rng`.
fn module_name(stem: &str) -> String {
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::Modules;
    use std::fs;

    fn folder(name: &str, modules: &[(&str, &str)]) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("vu-modules-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("drivers")).unwrap();
        for (name, depends) in modules {
            let content = format!("\x7fELF\0license=GPL\0depends={depends}\0name={name}\0");
            fs::write(folder.join("drivers").join(format!("{name}.ko")), content).unwrap();
        }
        folder
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let folder = folder(
            "order",
            &[
                ("virtio-gpu", "drm,dma_buf"),
                ("drm", "dma_buf"),
                ("dma-buf", ""),
                ("rng", ""),
            ],
        );
        let modules = Modules::below(&folder)
            .unwrap()
            .load_order(&["virtio_gpu", "drm", "built_in", "rng"])
            .unwrap();
        let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["dma_buf.ko", "drm.ko", "virtio_gpu.ko", "rng.ko"]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_dependency_that_is_missing_is_an_error() {
        let folder = folder("missing", &[("snd", "soundcore")]);
        let error = Modules::below(&folder).unwrap().load_order(&["snd"]).unwrap_err();
        assert_eq!(error.to_string(), "kernel module soundcore: not in the package");
        fs::remove_dir_all(folder).unwrap();
    }
}
