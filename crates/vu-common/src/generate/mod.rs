// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `--generate`: the papers that come with a daemon, from its own binary.

use crate::about::About;

/// What `--generate` asks for, if it is among the arguments.
pub(crate) fn asked() -> Option<String> {
    None
}

/// The paper `kind` of the daemon that `command` and `about` describe.
pub(crate) fn paper(_kind: &str, _command: clap::Command, _about: &About) -> anyhow::Result<String> {
    anyhow::bail!("nothing to generate")
}
