// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! To be written.

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
