// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-gpio with the driver of real guests.

mod board;
mod consumers;
mod host;
mod lines;

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::front::{self, Front, Model};
use vu_e2e::guest::Guest;
use vu_e2e::qemu::Qemu;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;

const GPIO: Model = Model {
    id: 41,
    name: "gpio",
    queues: 2,
    config: 8,
};

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-gpio", Profile::Debug).unwrap())
}

/// Runs a test that needs a kernel of ours, since Debian's has no driver for these devices.
fn run(name: &str, test: impl FnOnce(&Scratch) -> Result<()>) -> Result<()> {
    if quick::skips(&format!("gpio::{name}"))? {
        return Ok(());
    }
    Scratch::scope(test)
}

/// A lab and a running daemon with simulated boards.
struct Bench<'a> {
    scratch: &'a Scratch,
    lab: Lab,
    daemon: Daemon,
}

impl<'a> Bench<'a> {
    /// One board, whose commands come to the socket of [`Bench::board`].
    fn new(scratch: &'a Scratch, board: &str, args: &[&str]) -> Result<Self> {
        let file = scratch.path("board.toml");
        std::fs::write(&file, board)?;
        let chip = format!("sim:{}", file.display());
        let commands = scratch.path("board.sock");
        let commands = commands.to_str().context("path")?;
        let own = ["--chip", &chip, "--sim-socket", commands];
        Ok(Self {
            scratch,
            lab: Lab::open()?,
            daemon: Daemon::start(program(), &[&own, args].concat(), scratch)?,
        })
    }

    /// The world around the board.
    fn board(&self) -> Result<board::Board> {
        board::Board::at(&self.scratch.path("board.sock"))
    }

    /// A guest under QEMU that has the board on PCI and waits for tasks.
    fn qemu(&self) -> Result<Qemu> {
        Ok(front::qemu(&self.lab)?.device(&GPIO.pci(), self.daemon.socket()))
    }

    /// Starts a guest that has the board and waits for tasks.
    fn guest(&self, front: Front) -> Result<Guest> {
        front.start(&self.lab, GPIO, self.daemon.socket(), self.scratch)
    }

    /// Ends a guest, and then the daemon, which must go in peace.
    fn close(self, guest: Guest, front: Front) -> Result<()> {
        front.end(guest)?;
        let status = self.daemon.terminate()?;
        ensure!(status.success(), "the daemon went with {status}");
        Ok(())
    }
}
