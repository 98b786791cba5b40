// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernel modules of our own, hardware for a simulated host: `tests/guest/modules`, built for User-mode Linux.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::progress::Progress;
use super::store::{Facts, Ingredients, entries};
use super::{Lab, kernel};

impl Lab {
    /// A module from `tests/guest/modules` for the User-mode Linux kernel, such as `lab_i2c`.
    ///
    /// # Errors
    /// When it cannot be built, or there is no such module.
    pub fn lab_module(&self, name: &str) -> Result<PathBuf> {
        let path = self.lab_modules()?.join(name).with_extension("ko");
        if !path.is_file() {
            bail!("{}: no such module of the lab", path.display());
        }
        Ok(path)
    }

    /// They are no part of the kernel's build: a change of theirs takes seconds.
    fn lab_modules(&self) -> Result<PathBuf> {
        let name = "lab-modules";
        let sources = self.guest_sources().join("modules");
        let build = self.um_build()?;
        let ingredients = Ingredients::default()
            .with_files(&sources)?
            .with("kernel", build.as_os_str().as_encoded_bytes());
        self.store.part(name, &ingredients, |folder| {
            for source in entries(&sources)? {
                let copy = folder.join(source.file_name().unwrap_or_default());
                fs::copy(&source, copy).with_context(|| source.display().to_string())?;
            }
            let progress = Progress::new(name, self.store.log(name)?)?;
            let mut command = kernel::make(&kernel::UM, &self.source()?, &build);
            command.arg(format!("M={}", folder.display())).arg("modules");
            progress.run("compiling", &mut command)?;
            Ok(Facts::new())
        })
    }
}
