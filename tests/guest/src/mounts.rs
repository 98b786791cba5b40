// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The file systems that every guest has.

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// Where, type, options, and whether a kernel may lack it.
const MOUNTS: &[(&str, &str, &std::ffi::CStr, bool)] = &[
    ("/proc", "proc", c"", false),
    ("/sys", "sysfs", c"", false),
    ("/dev", "devtmpfs", c"mode=0755", false),
    ("/dev/pts", "devpts", c"", true),
    ("/dev/shm", "tmpfs", c"mode=1777", false),
    ("/run", "tmpfs", c"mode=0755", false),
    ("/sys/kernel/config", "configfs", c"", true),
    ("/sys/kernel/debug", "debugfs", c"", true),
];

/// Mounts them all; gives what failed, in words.
///
/// `/tmp` is left alone: with the host's root as root file system the program itself may lie there.
pub(crate) fn mount_all() -> Vec<String> {
    let mut problems = Vec::new();
    for (target, kind, options, optional) in MOUNTS {
        // The directory exists already, or the mount below says that it does not.
        let _ = std::fs::create_dir(target);
        match mount(*kind, *target, *kind, MountFlags::empty(), *options) {
            // The kernel mounts /dev by itself when it was built to.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(Errno::NODEV | Errno::NOENT) if *optional => {}
            Err(error) => problems.push(format!("mount {kind} on {target}: {error}")),
        }
    }
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0")] {
        if !Path::new(link).exists() && rustix::fs::symlinkat(target, CWD, link).is_err() {
            problems.push(format!("symlink {link}"));
        }
    }
    problems
}

/// Whether `path` can be executed.
pub(crate) fn is_program(path: &str) -> bool {
    rustix::fs::accessat(CWD, path, rustix::fs::Access::EXEC_OK, AtFlags::empty()).is_ok()
}
