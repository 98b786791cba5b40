// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-i2c with the driver of real guests.

mod bus;
mod host;

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::front::{self, Front, Model};
use vu_e2e::guest::Guest;
use vu_e2e::qemu::Qemu;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;

const I2C: Model = Model {
    id: 34,
    name: "i2c",
    queues: 1,
    config: 0,
};

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-i2c", Profile::Debug).unwrap())
}

/// Runs a test that needs a kernel of ours, since Debian's has no driver for these devices.
fn run(name: &str, test: impl FnOnce(&Scratch) -> Result<()>) -> Result<()> {
    if quick::skips(&format!("i2c::{name}"))? {
        return Ok(());
    }
    Scratch::scope(test)
}

/// A lab and a running daemon with a simulated bus.
struct Bench<'a> {
    scratch: &'a Scratch,
    lab: Lab,
    daemon: Daemon,
}

impl<'a> Bench<'a> {
    fn new(scratch: &'a Scratch, bus: &str, args: &[&str]) -> Result<Self> {
        Ok(Self {
            scratch,
            lab: Lab::open()?,
            daemon: Daemon::start(program(), &[&["--bus", bus], args].concat(), scratch)?,
        })
    }

    /// A guest under QEMU that has the bus on PCI and waits for tasks.
    fn qemu(&self) -> Result<Qemu> {
        Ok(front::qemu(&self.lab)?.device(&I2C.pci(), self.daemon.socket()))
    }

    /// Starts a guest that has the bus and waits for tasks.
    fn guest(&self, front: Front) -> Result<Guest> {
        front.start(&self.lab, I2C, self.daemon.socket(), self.scratch)
    }

    /// Ends a guest, and then the daemon, which must go in peace.
    fn close(self, guest: Guest, front: Front) -> Result<()> {
        front.end(guest)?;
        let status = self.daemon.terminate()?;
        ensure!(status.success(), "the daemon went with {status}");
        Ok(())
    }
}
