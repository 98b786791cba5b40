// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Confines the daemon once all that it needs is open, before a front end can say a word.
//!
//! Several layers, each of which holds if another fails, or is not to be had:
//!
//! | layer | what it takes away | needs |
//! |---|---|---|
//! | no new privileges, limits | set-user-id programs, core dumps | nothing |
//! | namespaces and an empty root | files, networks, other processes' IPC | root, or a user namespace |
//! | capabilities | all of them | nothing |
//! | Landlock | files, TCP, signals, abstract sockets | Linux 5.13; all of it 6.12 |
//! | seccomp | all system calls but some 70 | Linux 4.14 |
//!
//! Landlock, capabilities and namespaces are a thread's own, and go to the threads that it starts: so there must be
//! no other thread yet. Devices start theirs by [`thread::spawn`](crate::thread::spawn), which waits for this.

mod landlock;
mod namespace;
mod needs;
mod privileges;
mod seccomp;

use std::sync::OnceLock;

use ::landlock::RulesetStatus;
pub use needs::{Access, Needs};

use crate::error::SetupError;

/// How much of the confinement there must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// As much as there can be here
    #[default]
    Auto,
    /// All of it, or the daemon does not start
    Strict,
    /// At least namespaces and an empty root, or the daemon does not start
    Namespace,
    /// Nothing, to look for a fault
    None,
}

static REPORT: OnceLock<String> = OnceLock::new();

/// What the confinement consists of, in one line: `no-new-privs namespaces root=empty caps=none landlock=full
/// seccomp=71`.
pub(crate) fn report() -> &'static str {
    REPORT.get().map_or("none", String::as_str)
}

/// Confines this thread and all that it will start to what was [declared](Needs::declare).
///
/// # Errors
/// [`SetupError::Sandbox`] if a layer is missing that `mode` demands.
pub(crate) fn confine(mode: Mode) -> Result<(), SetupError> {
    if mode == Mode::None {
        log::warn!("sandbox: none, as asked: a guest that breaks into this daemon has all that its user has");
        return Ok(());
    }
    let needs = Needs::declared();
    // rustix looks for it in files when it is first asked, and panics without.
    let _ = rustix::param::page_size();
    let mut layers = Layers::default();
    match privileges::no_new().and_then(|()| privileges::limit()) {
        Ok(()) => layers.has("no-new-privs"),
        Err(error) => layers.lacks("no-new-privs", error),
    }
    match namespace::enter(&needs) {
        Ok(namespace::Made::Plain) => layers.has("namespaces root=empty"),
        Ok(namespace::Made::ByUser) => layers.has("namespaces(by user) root=empty"),
        Err((what, error)) if mode == Mode::Namespace => return Err(refused(what, error)),
        Err((what, error)) => layers.lacks("namespaces", format_args!("cannot {what}: {error}")),
    }
    match privileges::drop_all() {
        Ok(()) => layers.has("caps=none"),
        Err(error) => layers.lacks("caps", error),
    }
    match landlock::restrict(&needs) {
        Ok(RulesetStatus::FullyEnforced) => layers.has("landlock=full"),
        Ok(RulesetStatus::PartiallyEnforced) => layers.has("landlock=partly"),
        Ok(RulesetStatus::NotEnforced) => layers.lacks("landlock", "this kernel has none"),
        Err(error) => layers.lacks("landlock", error),
    }
    // Last: the others need more system calls than are left by it.
    match seccomp::restrict(&needs) {
        Ok(calls) => layers.has(&format!("seccomp={calls}")),
        Err(error) => layers.lacks("seccomp", error),
    }
    layers.judge(mode)
}

fn refused(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> SetupError {
    SetupError::Sandbox {
        what: what.into(),
        source: Some(Box::new(source)),
    }
}

/// What there is, and what is not.
#[derive(Default)]
struct Layers {
    present: Vec<String>,
    missing: Vec<String>,
}

impl Layers {
    fn has(&mut self, layer: &str) {
        self.present.push(layer.into());
    }

    fn lacks(&mut self, layer: &str, why: impl std::fmt::Display) {
        self.missing.push(format!("{layer} ({why})"));
    }

    fn judge(self, mode: Mode) -> Result<(), SetupError> {
        let mut line = self.present.join(" ");
        if !self.missing.is_empty() {
            let missing = self.missing.join(", ");
            if mode == Mode::Strict {
                return Err(SetupError::Sandbox {
                    what: missing,
                    source: None,
                });
            }
            line = format!("{line}; without {missing}");
        }
        log::info!("sandbox: {line}");
        let _ = REPORT.set(line);
        Ok(())
    }
}
