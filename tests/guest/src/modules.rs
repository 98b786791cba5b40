// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernel modules of an initramfs: `/modules/order` names their files, one a line, in the order to load them.

use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::path::Path;

const FOLDER: &str = "/modules";

/// Loads them all; gives what failed, in words. A root without `/modules/order` needs none.
pub(crate) fn load_all() -> Vec<String> {
    let Ok(order) = std::fs::read_to_string(Path::new(FOLDER).join("order")) else {
        return Vec::new();
    };
    order
        .lines()
        .filter_map(|name| load(name).err().map(|error| format!("module {name}: {error}")))
        .collect()
}

fn load(name: &str) -> std::io::Result<()> {
    insert(&Path::new(FOLDER).join(name), "")
}

/// Loads one module with its parameters, unless it is there already.
pub(crate) fn insert(path: &Path, parameters: &str) -> std::io::Result<()> {
    let parameters = CString::new(parameters)?;
    match rustix::system::finit_module(File::open(path)?, &parameters, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes one module out of the kernel.
pub(crate) fn remove(name: &str) -> std::io::Result<()> {
    rustix::system::delete_module(&CString::new(name)?, 0).map_err(Into::into)
}
