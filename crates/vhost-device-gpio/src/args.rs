// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-gpio`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use vu_common::CommonArgs;

use crate::backend::{Chip, linux, sim};
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

    /// The chip of a guest: `CHIP[:LINES]`, sim:N or sim:FILE
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

    /// Take commands for a simulated chip at a Unix socket, or from standard input if PATH is `-`
    ///
    /// The sockets go to the simulated chips in their order. Commands are lines of text: `set LINE 0|1`,
    /// `toggle LINE`, `get LINE`, `lines`, and `watch`, after which each change is told as `LINE LEVEL`. LINE is a
    /// number or a name.
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
        let (chips, sockets) = (self.chips.len(), self.common.sockets());
        // Before a line is taken or a path is bound.
        ensure!(
            chips == sockets,
            "{chips} --chip for {sockets} socket(s): each needs one of the other"
        );
        let of_host = self.chips.iter().filter_map(|source| match source {
            ChipSource::Host(text) => Some(text.as_str()),
            _ => None,
        });
        let mut host = linux::open(&of_host.collect::<Vec<_>>(), self.uapi)?.into_iter();
        let mut control = self.sim_socket.iter().map(PathBuf::as_path);
        let mut chips = Vec::new();
        for source in &self.chips {
            match source {
                ChipSource::Host(_) => chips.extend(host.next()),
                ChipSource::SimLines(count) => chips.push(simulated(sim::plain(*count)?, control.next())?),
                ChipSource::SimBoard(path) => chips.push(simulated(sim::load(path)?, control.next())?),
            }
        }
        match control.next() {
            None => Ok(chips),
            Some(path) => bail!(
                "{}: there is no simulated chip for this --sim-socket",
                path.display()
            ),
        }
    }
}

fn simulated(wiring: Vec<sim::Wiring>, control: Option<&Path>) -> anyhow::Result<Box<dyn Chip>> {
    sim::open(wiring, control).context("a simulated chip")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{ChipSource, GpioArgs};

    fn parse(options: &[&str]) -> GpioArgs {
        GpioArgs::try_parse_from([&["vhost-device-gpio"], options].concat()).unwrap()
    }

    fn refused(options: &[&str]) -> String {
        let error = parse(options).chips().map(drop).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn the_option_table_is_consistent_and_the_help_tells_all_of_it() {
        GpioArgs::command().debug_assert();
        let help = GpioArgs::command().render_long_help().to_string();
        for argument in GpioArgs::command().get_arguments() {
            let long = argument.get_long().unwrap();
            assert!(help.contains(&format!("--{long}")), "{long}");
            assert!(argument.get_help().is_some(), "{long}");
        }
    }

    #[test]
    fn a_chip_is_simulated_or_the_hosts() {
        let args = parse(&[
            "-s=/s",
            "-c=sim:8",
            "--chip",
            "sim:b.toml",
            "--chip=gpiochip0:0-3,led/ro",
        ]);
        assert_eq!(
            args.chips,
            [
                ChipSource::SimLines(8),
                ChipSource::SimBoard("b.toml".into()),
                ChipSource::Host("gpiochip0:0-3,led/ro".into()),
            ]
        );
    }

    #[test]
    fn each_chip_needs_a_socket_and_each_socket_a_chip() {
        let one = refused(&["-s=/a", "--chip=sim:1", "--chip=sim:2"]);
        assert_eq!(one, "2 --chip for 1 socket(s): each needs one of the other");
        let two = refused(&["-s=/a", "-s=/b", "--chip=sim:1"]);
        assert_eq!(two, "1 --chip for 2 socket(s): each needs one of the other");
    }

    #[test]
    fn a_control_socket_needs_a_simulated_chip() {
        let error = refused(&[
            "-s=/a",
            "--chip=sim:1",
            "--sim-socket=/nowhere/a",
            "--sim-socket=/nowhere/b",
        ]);
        assert_eq!(
            error,
            "a simulated chip: /nowhere/a: cannot open its folder: No such file or directory (os error 2)"
        );
        let dir = std::env::temp_dir().join(format!("vu-gpio-args-{}", std::process::id()));
        let first = format!("--sim-socket={}", dir.display());
        let error = refused(&["-s=/a", "--chip=sim:1", &first, "--sim-socket=/nowhere/b"]);
        assert_eq!(
            error,
            "/nowhere/b: there is no simulated chip for this --sim-socket"
        );
        assert!(!dir.exists(), "the socket that was bound before is gone");
    }

    #[test]
    fn a_simulated_chip_has_lines() {
        assert_eq!(
            refused(&["-s=/a", "--chip=sim:0"]),
            "a simulated chip has 1 to 1024 lines"
        );
        let error = refused(&["-s=/a", "--chip=sim:/nowhere"]);
        assert_eq!(error, "/nowhere: No such file or directory (os error 2)");
    }
}
