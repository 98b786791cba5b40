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
use vu_e2e::guest::{Guest, Script};
use vu_e2e::qemu::{Machine, Qemu};
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

/// The virtio device id of a GPIO device.
const ID: u32 = 41;
const PCI: &str = "vhost-user-gpio-pci";

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

/// Who is between the guest's driver and the daemon.
#[derive(Clone, Copy)]
enum Front {
    Uml,
    Pci,
    Mmio,
    /// QEMU's device that knows nothing of what it is.
    Generic,
}

impl Front {
    /// Ends a guest. Without ACPI the machine cannot power off, but a reboot ends QEMU as well.
    fn end(self, mut guest: Guest) -> Result<()> {
        guest.say(match self {
            Self::Mmio => "reboot",
            Self::Uml | Self::Pci | Self::Generic => "poweroff",
        })?;
        guest.finish()
    }
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

    /// A guest under User-mode Linux that waits for tasks; without devices yet.
    fn uml(&self) -> Result<Uml> {
        let guest = Uml::new(&self.lab.um_kernel()?, &self.lab.guest_program()?);
        Ok(guest.script(&Script::serve()))
    }

    /// The same under QEMU.
    fn qemu(&self) -> Result<Qemu> {
        Ok(Qemu::new(&self.lab.qemu()?, &self.lab.x86_boot()?).script(&Script::serve()))
    }

    /// A guest that uses the daemon and waits for tasks.
    fn guest(&self, front: Front) -> Result<Guest> {
        let socket = self.daemon.socket();
        let mut guest = match front {
            Front::Uml => self.uml()?.device(ID, socket).start(self.scratch),
            Front::Pci => self.qemu()?.device(PCI, socket).start(self.scratch),
            Front::Mmio => self
                .qemu()?
                .machine(Machine::Microvm)
                .device("vhost-user-gpio-device", socket)
                .start(self.scratch),
            Front::Generic => {
                let device = format!("vhost-user-test-device-pci,virtio-id={ID},num_vqs=2,config_size=8");
                self.qemu()?.device(&device, socket).start(self.scratch)
            }
        }?;
        guest.event("ready")?;
        Ok(guest)
    }

    /// Ends a guest, and then the daemon, which must go in peace.
    fn close(self, guest: Guest, front: Front) -> Result<()> {
        front.end(guest)?;
        let status = self.daemon.terminate()?;
        ensure!(status.success(), "the daemon went with {status}");
        Ok(())
    }
}
