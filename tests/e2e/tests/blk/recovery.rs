// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nothing is lost while daemons are killed and machines move, under writers that verify what they have written.

use super::{Bench, Disk, MIB, PCI, bare_qemu, pattern, program};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{Daemon, answer};
use vu_e2e::guest::Guest;
use vu_e2e::image::Image;
use vu_e2e::qmp::Qmp;
use vu_e2e::scratch::Scratch;

/// Writes that must follow upon each blow before the next one falls.
const WRITES: u64 = 200;

/// Writers in a guest.
pub(crate) struct Load {
    writes: u64,
}

impl Load {
    /// Starts them.
    pub(crate) fn start(guest: &mut Guest) -> Result<Self> {
        guest.say("blk,do=load,timeout=170")?;
        Ok(Self { writes: 0 })
    }

    /// Waits until there are [`WRITES`] more.
    pub(crate) fn goes_on(&mut self, guest: &mut Guest) -> Result<()> {
        let wanted = self.writes + WRITES;
        while self.writes < wanted {
            let event = guest.event("load")?;
            check(&event)?;
            self.writes = event["writes"].as_u64().context("load without writes")?;
        }
        Ok(())
    }
}

/// Stops the load, and checks what it found when it read everything once more.
pub(crate) fn stop(guest: &mut Guest) -> Result<()> {
    guest.say("stop")?;
    check(&guest.result("blk")?)
}

/// Checks that what the load has left in a raw image is whole blocks.
pub(crate) fn check_blocks(image: &Image) -> Result<()> {
    let data = std::fs::read(image.path())?;
    let whole = |block: &[u8]| {
        let what = pattern::describe(block);
        what == "zero" || what.starts_with("the block of ")
    };
    let blocks = data
        .chunks_exact(pattern::BLOCK)
        .take(usize::try_from(16 * MIB)? / pattern::BLOCK);
    for (number, block) in blocks.enumerate() {
        ensure!(
            whole(block),
            "block {number} of the image is {}",
            pattern::describe(block)
        );
    }
    Ok(())
}

/// Nothing went wrong so far.
fn check(load: &Value) -> Result<()> {
    ensure!(load["mismatches"] == 0 && load["errors"] == 0, "{load}");
    Ok(())
}

/// What the daemon has counted: whether kicks came, and whether it has interrupted the driver.
fn counters(control: &Path) -> String {
    ["status", "stats"]
        .map(|command| answer(control, command))
        .concat()
}

/// Kills the daemon under load, `times`, and starts it again.
fn kill(times: usize, image: &Image, scratch: &Scratch, args: &[&str]) -> Result<()> {
    let control = scratch.path("control");
    let control_option = ["--control-socket", control.to_str().context("path")?];
    let mut bench = Bench::on(image, scratch, &[args, &control_option].concat())?;
    let mut guest = bench.boot(&bench.qemu()?.reconnects())?;
    let mut load = Load::start(&mut guest)?;
    for _ in 0..times {
        load.goes_on(&mut guest).with_context(|| counters(&control))?;
        bench.daemon.kill_and_restart()?;
    }
    load.goes_on(&mut guest).with_context(|| counters(&control))?;
    stop(&mut guest)?;
    guest.power_off()?;
    bench.close().map(drop)
}

#[test]
fn daemon_is_killed_20_times_under_load() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        kill(20, &image, scratch, &[])?;
        check_blocks(&image)
    })
}

/// Tables that only the daemon knew of would take with them what was written.
#[test]
fn daemon_of_a_qcow2_image_is_killed_5_times_under_load() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::qcow2(scratch.path("disk.qcow2"), 64 * MIB)?;
        kill(5, &image, scratch, &["--format", "qcow2"])?;
        image.repair_leaks()?;
        check_blocks(&image.to_raw(scratch.path("disk"))?)
    })
}

/// Where a machine is on its way: a QEMU and a daemon of its own.
struct Stage {
    guest: Guest,
    daemon: Daemon,
    monitor: PathBuf,
    incoming: PathBuf,
}

impl Stage {
    /// The `number`th; all but the first wait for the machine.
    fn start(number: usize, lab: &Lab, image: &Image, scratch: &Scratch) -> Result<Self> {
        let place = |end: &str| scratch.path(&format!("{number}.{end}"));
        let args = ["--blk-file", image.as_str()?, "--lock", "off"];
        let daemon = Daemon::start_at(program(), &args, &place("sock"))?;
        let (monitor, incoming) = (place("qmp"), place("in"));
        let qemu = bare_qemu(lab)?.device(PCI, daemon.socket()).qmp(&monitor);
        let qemu = if number == 0 {
            qemu
        } else {
            qemu.incoming(&incoming)
        };
        Ok(Self {
            guest: qemu.start(scratch)?,
            daemon,
            monitor,
            incoming,
        })
    }

    /// Moves the machine to another stage, and closes this one.
    fn leave_for(self, there: &Self) -> Result<()> {
        let mut arrival = Qmp::connect(&there.monitor)?;
        Qmp::connect(&self.monitor)?.migrate(&there.incoming)?;
        arrival.event("RESUME")?;
        self.guest.finish()?;
        let status = self.daemon.terminate()?;
        ensure!(status.success(), "the daemon that was left went with {status}");
        Ok(())
    }
}

#[test]
fn machine_migrates_5_times_there_and_back_under_load() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        let lab = Lab::open()?;
        let mut here = Stage::start(0, &lab, &image, scratch)?;
        here.guest.event("ready")?;
        let mut load = Load::start(&mut here.guest)?;
        for number in 1..=10 {
            load.goes_on(&mut here.guest)?;
            let there = Stage::start(number, &lab, &image, scratch)?;
            std::mem::replace(&mut here, there).leave_for(&here)?;
        }
        load.goes_on(&mut here.guest)?;
        stop(&mut here.guest)?;
        check_blocks(&image)?;
        here.guest.power_off()?;
        ensure!(here.daemon.terminate()?.success(), "the last daemon");
        Ok(())
    })
}
