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
    scripts: Vec<(&'static str, String)>,
}

impl Host {
    /// `kernel` with the guest program `init` plays the host.
    pub fn new(kernel: &Path, init: &Path) -> Self {
        Self {
            machine: Uml::new(kernel, init).memory("1G"),
            daemons: Vec::new(),
            scripts: Vec::new(),
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

    /// Has it run a shell script before the daemons start: it makes hardware. `mkdir /sys/kernel/config/...` and the like.
    #[must_use]
    pub fn before(mut self, script: &str) -> Self {
        self.scripts.push(("before", script.to_owned()));
        self
    }

    /// Has it run a shell script while the guest runs.
    #[must_use]
    pub fn during(mut self, script: &str) -> Self {
        self.scripts.push(("during", script.to_owned()));
        self
    }

    /// Has it run a shell script when the guest has ended and the daemons have not.
    #[must_use]
    pub fn after(mut self, script: &str) -> Self {
        self.scripts.push(("after", script.to_owned()));
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
        let mut value = json!({ "daemons": self.daemons, "guest": inner.to_json(), "seconds": 120 });
        for (name, script) in &self.scripts {
            value[*name] = script.as_str().into();
        }
        std::fs::write(&plan, value.to_string()).with_context(|| plan.display().to_string())?;
        let script = Script::new(
            &format!("host,plan={},timeout=150", plan.display()),
            End::PowerOff,
        );
        self.machine.clone().script(&script).start(scratch)
    }
}
