// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-blk with the virtio_blk driver of real guests.

mod files;
mod formats;
#[path = "../../../guest/src/devices/blk/pattern.rs"]
mod pattern;
mod recovery;
mod shapes;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::guest::{Guest, Script};
use vu_e2e::image::Image;
use vu_e2e::qemu::Qemu;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

/// The virtio device id of a block device.
const ID: u32 = 2;
const MIB: u64 = 1 << 20;
const PCI: &str = "vhost-user-blk-pci";

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-blk", Profile::Debug).unwrap())
}

/// A guest under QEMU without devices yet, which will wait for tasks.
fn bare_qemu(lab: &Lab) -> Result<Qemu> {
    Ok(Qemu::new(&lab.qemu()?, &quick::boot(lab)?).script(&Script::serve()))
}

/// A lab, a running daemon and a place for what belongs to both.
struct Bench<'a> {
    scratch: &'a Scratch,
    lab: Lab,
    daemon: Daemon,
}

impl<'a> Bench<'a> {
    fn new(scratch: &'a Scratch, args: &[&str]) -> Result<Self> {
        Ok(Self {
            scratch,
            lab: Lab::open()?,
            daemon: Daemon::start(program(), args, scratch)?,
        })
    }

    /// With a disk in memory.
    fn in_memory(scratch: &'a Scratch, args: &[&str]) -> Result<Self> {
        Self::new(scratch, &[&["--memory", "64M"], args].concat())
    }

    /// With an image file as the disk.
    fn on(image: &Image, scratch: &'a Scratch, args: &[&str]) -> Result<Self> {
        Self::new(scratch, &[&["--blk-file", image.as_str()?], args].concat())
    }

    /// A guest under QEMU without devices yet.
    fn bare_qemu(&self) -> Result<Qemu> {
        bare_qemu(&self.lab)
    }

    /// A guest under QEMU that uses the daemon as a PCI device.
    fn qemu(&self) -> Result<Qemu> {
        Ok(self.bare_qemu()?.device(PCI, self.daemon.socket()))
    }

    /// A guest under User-mode Linux that uses the daemon.
    fn uml(&self) -> Result<Uml> {
        let guest = Uml::new(&self.lab.um_kernel()?, &self.lab.guest_program()?);
        Ok(guest.device(ID, self.daemon.socket()).script(&Script::serve()))
    }

    /// A guest under QEMU, up and waiting for tasks.
    fn boot(&self, qemu: &Qemu) -> Result<Guest> {
        let mut guest = qemu.start(self.scratch)?;
        guest.event("ready")?;
        Ok(guest)
    }

    /// Ends the daemon, which must go in peace; gives what it said.
    fn close(self) -> Result<String> {
        let log = self.scratch.path("vhost.log");
        let status = self.daemon.terminate()?;
        ensure!(status.success(), "the daemon went with {status}");
        std::fs::read_to_string(&log).with_context(|| log.display().to_string())
    }
}

/// What a test asks of the disk in a guest.
trait Disk {
    /// Does `action`, such as `read,bytes=4096`, and gives what was found.
    fn disk(&mut self, action: &str) -> Result<Value>;

    /// Does `action`, which must fail, and gives the error.
    fn disk_refuses(&mut self, action: &str) -> Result<String>;

    /// Powers off.
    fn power_off(self) -> Result<()>;
}

impl Disk for Guest {
    fn disk(&mut self, action: &str) -> Result<Value> {
        self.task(&format!("blk,do={action}"))
            .with_context(|| action.to_owned())
    }

    fn disk_refuses(&mut self, action: &str) -> Result<String> {
        self.say(&format!("blk,do={action}"))?;
        let outcome = self.outcome("blk")?;
        ensure!(outcome["ok"] == false, "{action} went well: {outcome}");
        Ok(outcome["error"].as_str().unwrap_or_default().to_owned())
    }

    fn power_off(mut self) -> Result<()> {
        self.say("poweroff")?;
        self.finish()
    }
}

/// Checks that `image` holds the pattern of the write `seed` from its start on.
fn check_image(image: &Image, bytes: u64, seed: u64) -> Result<()> {
    let file = std::fs::File::open(image.path())?;
    let mut data = vec![0; usize::try_from(MIB)?];
    for offset in (0..bytes).step_by(data.len()) {
        file.read_exact_at(&mut data, offset)?;
        pattern::check(&data, offset, seed).map_err(|difference| anyhow!("the image: {difference}"))?;
    }
    Ok(())
}

/// Writes the pattern of the write `seed` to the start of `image`.
fn fill_image(image: &Image, bytes: u64, seed: u64) -> Result<()> {
    let file = std::fs::File::options().write(true).open(image.path())?;
    let mut data = vec![0; usize::try_from(MIB)?];
    for offset in (0..bytes).step_by(data.len()) {
        pattern::fill(&mut data, offset, seed);
        file.write_all_at(&data, offset)?;
    }
    Ok(())
}
