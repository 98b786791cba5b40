// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host: a User-mode Linux in which a daemon and a further guest run. Its kernel can have hardware that
//! this machine has not.
//!
//! What happens there is a list of [`Step`]s, which the guest program plays as the task `host`.

mod step;

pub use step::{Chip, Step};

use crate::daemon::Daemon;
use crate::guest::{End, Guest, Script};
use crate::launch::Launch;
use crate::scratch::Scratch;
use crate::uml::Uml;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

/// How long a guest may take that ends by itself, in seconds.
const GUEST: u32 = 120;

/// A simulated host, not yet started.
///
/// Sockets lie in `/run` of that host: the root file system, which it shares with this machine, is read-only.
#[derive(Clone, Debug)]
pub struct Host {
    machine: Uml,
    steps: Vec<Step>,
}

impl Host {
    /// `kernel` with the guest program `init` plays the host.
    pub fn new(kernel: &Path, init: &Path) -> Self {
        Self {
            machine: Uml::new(kernel, init).memory("1G"),
            steps: Vec::new(),
        }
    }

    /// Has it do something more.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Has it run a daemon that listens at `socket`.
    #[must_use]
    pub fn daemon(self, program: &Path, args: &[&str], socket: &Path) -> Self {
        let mut daemon = Daemon::launch(program, args, socket).to_json();
        daemon["socket"] = socket.display().to_string().into();
        self.then(Step::new("daemon", daemon))
    }

    /// Has it start the guest `inner`.
    #[must_use]
    pub fn guest(self, inner: &Launch) -> Self {
        self.then(Step::new("guest", inner.to_json()))
    }

    /// Adds a word of its kernel command line, such as a parameter of simulated hardware.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.machine = self.machine.word(word);
        self
    }

    /// Starts the host, and in it the guest `inner`, which ends by itself. The console shows the events of both:
    /// those of `inner`, then the result of the task `host`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, inner: &Launch, scratch: &Scratch) -> Result<Guest> {
        self.clone().guest(inner).then(Step::end(GUEST)).boot(scratch)
    }

    /// Plays all steps; gives what they have found, in their order.
    ///
    /// # Errors
    /// What went wrong in the first step that failed, with the console.
    pub fn play(&self, scratch: &Scratch) -> Result<Vec<Value>> {
        let mut host = self.boot(scratch)?;
        let mut result = host.result("host")?;
        host.finish()?;
        match result["found"].take() {
            Value::Array(found) => Ok(found),
            _ => Ok(Vec::new()),
        }
    }

    fn boot(&self, scratch: &Scratch) -> Result<Guest> {
        let plan = scratch.path("plan.json");
        let steps: Vec<&Value> = self.steps.iter().map(Step::as_json).collect();
        std::fs::write(&plan, json!({ "steps": steps }).to_string())
            .with_context(|| plan.display().to_string())?;
        let script = Script::new(
            &format!("host,plan={},timeout=150", plan.display()),
            End::PowerOff,
        );
        self.machine.clone().script(&script).start(scratch)
    }
}
