// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-gpio`.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use vu_common::CommonArgs;

use crate::backend::Chip;
use crate::backend::sim::{self, Board};
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

    /// The chip of a guest: sim:N or sim:FILE
    ///
    /// `sim:8` is a simulated chip with 8 lines. `sim:board.toml` has the names and the wiring that the
    /// file describes.
    #[arg(short, long = "chip", value_name = "CHIP", required = true)]
    pub chips: Vec<ChipSource>,

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
}

/// A value of `--chip` that names no chip.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// None of the forms that we know.
    #[error("no such chip (known: sim:N, sim:FILE)")]
    Unknown,
}

impl FromStr for ChipSource {
    type Err = SourceError;

    fn from_str(value: &str) -> Result<Self, SourceError> {
        match value.strip_prefix("sim:") {
            None | Some("") => Err(SourceError::Unknown),
            Some(what) => Ok(what
                .parse()
                .map_or_else(|_| Self::SimBoard(what.into()), Self::SimLines)),
        }
    }
}

impl GpioArgs {
    /// Opens the chips, in the order of the options.
    ///
    /// # Errors
    /// What cannot be opened, with its name.
    pub fn chips(&self) -> anyhow::Result<Vec<Box<dyn Chip>>> {
        let mut control = self.sim_socket.iter();
        self.chips
            .iter()
            .map(|source| {
                let wiring = match source {
                    ChipSource::SimLines(count) => sim::plain(*count)?,
                    ChipSource::SimBoard(path) => sim::load(path)?,
                };
                let board = Board::new(wiring)?;
                let listen =
                    |path: &PathBuf| UnixListener::bind(path).with_context(|| path.display().to_string());
                board.live(control.next().map(listen).transpose()?)?;
                Ok(board.chip())
            })
            .collect()
    }
}
