// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! User-mode Linux: a kernel that is a program. Its `virtio_uml` driver is a vhost-user front end of its own, and its
//! root file system is the machine's own, read-only.

use crate::guest::{End, Guest, Script};
use crate::launch::Launch;
use crate::scratch::Scratch;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// A guest under User-mode Linux, not yet started.
#[derive(Clone, Debug)]
pub struct Uml {
    kernel: PathBuf,
    init: PathBuf,
    memory: &'static str,
    devices: Vec<(PathBuf, u32)>,
    words: Vec<String>,
    script: Script,
    device_tree: Option<PathBuf>,
}

impl Uml {
    /// `kernel` with the guest program `init`.
    pub fn new(kernel: &Path, init: &Path) -> Self {
        let script = Script::default();
        Self {
            kernel: kernel.to_owned(),
            init: init.to_owned(),
            memory: "128M",
            devices: Vec::new(),
            words: Vec::new(),
            script,
            device_tree: None,
        }
    }

    /// More or less memory than 128 MiB.
    #[must_use]
    pub fn memory(mut self, size: &'static str) -> Self {
        self.memory = size;
        self
    }

    /// Adds the device with the virtio id `id`, served at `socket`.
    #[must_use]
    pub fn device(mut self, id: u32, socket: &Path) -> Self {
        self.devices.push((socket.to_owned(), id));
        self
    }

    /// Adds a word of the kernel command line, such as a driver's parameter.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self
    }

    /// Adds the devices of a device tree blob. The sockets that it names are looked for in the folder of the guest.
    #[must_use]
    pub fn device_tree(mut self, blob: &Path) -> Self {
        self.device_tree = Some(blob.to_owned());
        self
    }

    /// What the guest does.
    #[must_use]
    pub fn script(mut self, script: &Script) -> Self {
        self.script = script.clone();
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the kernel cannot be started.
    pub fn start(&self, scratch: &Scratch) -> Result<Guest> {
        Guest::start(&self.launch(scratch.folder()), scratch)
    }

    /// The line that starts it, with the guest's console on standard input and output. The kernel keeps a pid file in
    /// `folder`.
    pub fn launch(&self, folder: &Path) -> Launch {
        // Nobody writes to the console of a guest that does not read it, and its input may be no more than /dev/null.
        let console = if self.script.end == End::Serve {
            "con0=fd:0,fd:1"
        } else {
            "con0=null,fd:1"
        };
        let launch = match &self.device_tree {
            None => Launch::new(&self.kernel),
            Some(blob) => Launch::new(Path::new("env"))
                .option("-C", &folder.display().to_string())
                .args([self.kernel.display().to_string()])
                .args([format!("dtb={}", blob.display())]),
        };
        launch
            .env("TMPDIR", "/dev/shm")
            .args([
                format!("mem={}", self.memory),
                format!("init={}", self.init.display()),
            ])
            // With the ptrace way of running user space, system calls are slower, and a guest cannot run guests.
            .args([
                "seccomp=on",
                "ncpus=1",
                "root=/dev/root",
                "rootfstype=hostfs",
                "hostfs=/",
                "ro",
                "quiet",
            ])
            .args(["con=null", console])
            .args([format!("uml_dir={}/", folder.display())])
            .args(
                self.devices
                    .iter()
                    .map(|(socket, id)| format!("virtio_uml.device={}:{id}", socket.display())),
            )
            .args(self.words.iter().cloned())
            .args(self.script.to_string().split_whitespace())
    }
}
