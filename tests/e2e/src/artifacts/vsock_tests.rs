// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's own tests of its sockets: `tools/testing/vsock` of the source that the kernels are built from.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::progress::Progress;
use super::store::{Facts, Ingredients, entries};
use super::{Lab, tools};

/// The programs of two sides, and what they have beside [`COMMON`]. `vsock_diag_test` is not among them: it wants no socket to be
/// there but its own, and the two sides speak by one.
const PROGRAMS: [(&str, &[&str]); 2] = [
    ("vsock_test", &["vsock_test.c", "vsock_test_zerocopy.c"]),
    ("vsock_uring_test", &["vsock_uring_test.c", "-luring"]),
];
const COMMON: [&str; 4] = ["msg_zerocopy_common.c", "control.c", "timeout.c", "util.c"];
const TOOLS: [(&str, &str); 2] = [("gcc", "gcc"), ("/usr/include/liburing.h", "liburing-dev")];
/// How the tests are to be compiled, after their `Makefile`.
const FLAGS: [&str; 8] = [
    "-O2",
    "-w",
    "-pthread",
    "-fno-strict-overflow",
    "-fno-strict-aliasing",
    "-fno-common",
    "-U_FORTIFY_SOURCE",
    "-D_GNU_SOURCE",
];
/// How long a test waits for its other side: seconds that a busy machine may take.
const TIMEOUT: [&str; 2] = ["TIMEOUT = 10 ", "TIMEOUT = 100 "];

impl Lab {
    /// The programs of the tests; each has a client and a server.
    ///
    /// # Errors
    /// When they cannot be built.
    pub fn vsock_tests(&self) -> Result<[PathBuf; 2]> {
        let name = "vsock-tests";
        let source = self.source()?;
        let ingredients = Ingredients::default()
            .with("gcc", tools::version("gcc")?)
            .with("programs", format!("{PROGRAMS:?} {COMMON:?}"))
            .with("flags", FLAGS.join(" "))
            .with("timeout", TIMEOUT.join(" "))
            .with_file(&source.with_file_name("manifest"))?;
        let folder = self.store.part(name, &ingredients, |folder| {
            tools::ensure(&TOOLS)?;
            let progress = Progress::new(name, self.store.log(name)?)?;
            for file in entries(&source.join("tools/testing/vsock"))? {
                let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let file_name = file.file_name().unwrap_or_default();
                let [short, long] = TIMEOUT;
                ensure!(
                    file_name != "timeout.h" || text.contains(short),
                    "timeout.h has another timeout"
                );
                fs::write(folder.join(file_name), text.replace(short, long))
                    .with_context(|| folder.display().to_string())?;
            }
            for (program, own) in PROGRAMS {
                let mut command = Command::new("gcc");
                command
                    .args(FLAGS)
                    .arg("-I")
                    .arg(source.join("tools/include"))
                    .args(["-o", program])
                    .args(COMMON)
                    .args(own)
                    .current_dir(folder);
                progress.run(&format!("compiling {program}"), &mut command)?;
            }
            Ok(Facts::new())
        })?;
        Ok(PROGRAMS.map(|(program, _)| folder.join(program)))
    }
}
