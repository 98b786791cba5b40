// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-gpio`.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::Context;
use vu_common::CommonArgs;

use crate::backend::sim::{self, Board};
use crate::backend::{Chip, linux};
use crate::device::OnDisconnect;

/// Serves GPIO lines to virtual machines over vhost-user.
///
/// Each socket is one device for one guest; the chips pair with the sockets in their order.
#[derive(Debug, clap::Parser)]
#[command(name = "vhost-device-gpio", version)]
pub struct GpioArgs {
    /// The options that every device has.
    #[command(flatten)]
    pub common: CommonArgs,

    /// The chip of a guest: CHIP, CHIP:LINES, sim:N or sim:FILE
    ///
    /// CHIP is a chip of the host: its path, number, name or label. LINES are those of its lines that the guest
    /// gets, in this order: numbers, ranges and names, as in `0-3,led,5/ro`; the guest may only read a line
    /// with `/ro`. Without LINES it gets all of them.
    ///
    /// `sim:8` is a simulated chip with 8 lines. `sim:board.toml` has the names and the wiring that the
    /// file describes.
    #[arg(short, long = "chip", value_name = "CHIP", required = true)]
    pub chips: Vec<ChipSource>,

    /// Version of the kernel's interface to its chips
    #[arg(long, value_enum, default_value_t)]
    pub uapi: linux::Version,

    /// Control the simulated chips by text on a Unix socket at PATH, one for each of them
    ///
    /// Commands are `set LINE 0|1`, `toggle LINE`, `get LINE` and `lines`; LINE is a number or a name.
    #[arg(long, value_name = "PATH")]
    pub sim_socket: Vec<PathBuf>,

    /// What becomes of the lines when the guest leaves
    #[arg(long, value_enum, default_value_t)]
    pub on_disconnect: OnDisconnect,
}

impl AsRef<CommonArgs> for GpioArgs {
    fn as_ref(&self) -> &CommonArgs {
        &self.common
    }
}

/// The value of `--chip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChipSource {
    /// So many simulated lines without names.
    SimLines(usize),
    /// A simulated board.
    SimBoard(PathBuf),
    /// A chip of the host, and perhaps some of its lines.
    Host(String),
}

/// The text that stands for a simulated chip.
const SIM: &str = "sim:";

impl From<&str> for ChipSource {
    fn from(value: &str) -> Self {
        match value.strip_prefix(SIM) {
            None => Self::Host(value.into()),
            Some(what) => what
                .parse()
                .map_or_else(|_| Self::SimBoard(what.into()), Self::SimLines),
        }
    }
}

impl GpioArgs {
    /// Opens the chips, in the order of the options.
    ///
    /// # Errors
    /// What cannot be opened, with its name.
    pub fn chips(&self) -> anyhow::Result<Vec<Box<dyn Chip>>> {
        let host = |source: &ChipSource| match source {
            ChipSource::Host(text) => Some(text.clone()),
            _ => None,
        };
        let texts: Vec<String> = self.chips.iter().filter_map(host).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut host = linux::open(&texts, self.uapi)?.into_iter();
        let mut control = self.sim_socket.iter();
        let mut chips = Vec::new();
        for source in &self.chips {
            let wiring = match source {
                ChipSource::Host(_) => {
                    chips.extend(host.next());
                    continue;
                }
                ChipSource::SimLines(count) => sim::plain(*count)?,
                ChipSource::SimBoard(path) => sim::load(path)?,
            };
            let board = Board::new(wiring)?;
            let listen =
                |path: &PathBuf| UnixListener::bind(path).with_context(|| path.display().to_string());
            board.live(control.next().map(listen).transpose()?)?;
            chips.push(board.chip());
        }
        Ok(chips)
    }
}
