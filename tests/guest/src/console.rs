// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The console: standard input and output of init and of its tasks.

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, OutputModes, tcdrain, tcgetattr, tcsetattr};
use std::fs::OpenOptions;

/// Opens `/dev/console` again, which the kernel could not do when `/dev` was not mounted yet, and makes it a plain
/// pipe of lines: nothing that we read is echoed between the events.
pub(crate) fn adopt() -> anyhow::Result<()> {
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")
        .context("open /dev/console")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    if let Ok(mut modes) = tcgetattr(&console) {
        modes.local_modes.remove(LocalModes::ECHO);
        modes.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&console, OptionalActions::Now, &modes).context("set the console's modes")?;
    }
    Ok(())
}

/// Waits until the last line has left the machine.
pub(crate) fn drain() {
    // A console that is no terminal has nothing to drain.
    let _ = tcdrain(rustix::stdio::stdout());
}
