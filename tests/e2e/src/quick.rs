// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Quick runs: `VU_QUICK` in the environment leaves out the kernels that are built from source.

use crate::artifacts::{Boot, Lab};
use anyhow::Result;
use std::io::Write;

fn is_quick() -> bool {
    std::env::var_os("VU_QUICK").is_some()
}

/// A kernel for QEMU's PCI machines: our small one, or Debian's in a quick run.
///
/// # Errors
/// When it cannot be built or fetched.
pub fn boot(lab: &Lab) -> Result<Boot> {
    if is_quick() {
        lab.debian_boot()
    } else {
        lab.x86_boot()
    }
}

/// Says that the test `name` cannot run: on standard error and in the file that `VU_SKIP_LOG` names.
///
/// # Errors
/// When that file cannot be written.
pub fn skip(name: &str, reason: &str) -> Result<()> {
    let line = format!("SKIP {name}: {reason}");
    eprintln!("{line}");
    if let Some(log) = std::env::var_os("VU_SKIP_LOG") {
        let mut log = std::fs::File::options().create(true).append(true).open(log)?;
        writeln!(log, "{line}")?;
    }
    Ok(())
}

/// Whether the test `name`, which needs a kernel that is built from source, is left out of this run; says so.
///
/// # Errors
/// As [`skip`].
pub fn skips(name: &str) -> Result<bool> {
    if is_quick() {
        skip(name, "needs a kernel built from source, and this is a quick run")?;
    }
    Ok(is_quick())
}
