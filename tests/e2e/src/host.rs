// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host: a User-mode Linux in which a daemon and a further guest run. Its kernel can have hardware that
//! this machine has not.

use crate::daemon::Daemon;
use crate::guest::{End, Guest, Script};
use crate::launch::Launch;
use crate::scratch::Scratch;
use crate::uml::Uml;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

/// A simulated host, not yet started.
///
/// Sockets lie in `/run` of that host: the root file system, which it shares with this machine, is read-only.
#[derive(Clone, Debug)]
pub struct Host {
    machine: Uml,
    daemons: Vec<Value>,
}

impl Host {
    /// `kernel` with the guest program `init` plays the host.
    pub fn new(kernel: &Path, init: &Path) -> Self {
        Self {
            machine: Uml::new(kernel, init).memory("1G"),
            daemons: Vec::new(),
        }
    }

    /// Has it run a daemon that listens at `socket`.
    #[must_use]
    pub fn daemon(mut self, program: &Path, args: &[&str], socket: &Path) -> Self {
        let mut daemon = Daemon::launch(program, args, socket).to_json();
        daemon["socket"] = socket.display().to_string().into();
        self.daemons.push(daemon);
        self
    }

    /// Adds a word of its kernel command line, such as a parameter of simulated hardware.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.machine = self.machine.word(word);
        self
    }

    /// Starts the host, which starts the daemons and then the guest `inner`. The console shows the events of both:
    /// those of `inner`, then the result of the task `host`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, inner: &Launch, scratch: &Scratch) -> Result<Guest> {
        let plan = scratch.path("plan.json");
        let text = json!({ "daemons": self.daemons, "guest": inner.to_json(), "seconds": 120 }).to_string();
        std::fs::write(&plan, text).with_context(|| plan.display().to_string())?;
        let script = Script::new(
            &format!("host,plan={},timeout=150", plan.display()),
            End::PowerOff,
        );
        self.machine.clone().script(&script).start(scratch)
    }
}
