// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Image files: file systems in them, and what happens to them from outside.

use super::{Bench, Disk, MIB, PCI, check_image, fill_image, pattern};
use anyhow::{Result, anyhow, ensure};
use rustix::process::Signal;
use vu_e2e::image::Image;
use vu_e2e::qemu::Qemu;
use vu_e2e::qmp::Qmp;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;

/// Checks a file that the guest's `fill` has written with `seed`.
fn check_file(image: &Image, number: u64, bytes: u64, seed: u64) -> Result<()> {
    let data = image.file_of_ext4(&format!("file-{number}"))?;
    ensure!(data.len() as u64 == bytes, "file-{number}: {} bytes", data.len());
    pattern::check(&data, 0, seed + number).map_err(|difference| anyhow!("file-{number}: {difference}"))
}

#[test]
fn file_system_lives_and_is_trimmed() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 128 * MIB)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        for action in [
            "mkfs",
            "mount",
            "fill,files=48",
            "umount",
            "mount",
            "check,files=48",
        ] {
            guest.disk(action)?;
        }
        let full = image.allocated()?;
        ensure!(full >= 48 * MIB, "{full} bytes allocated");
        for action in ["fill,remove,files=2,seed=9", "trim"] {
            guest.disk(action)?;
        }
        let trimmed = image.allocated()?;
        ensure!(
            trimmed <= full - 40 * MIB,
            "{full} bytes before the trim, {trimmed} after it"
        );
        guest.disk("check,files=2,seed=9")?;
        guest.disk("umount")?;
        guest.power_off()?;
        bench.close()?;
        image.check_ext4()?;
        (0..2).try_for_each(|number| check_file(&image, number, MIB, 9))
    })
}

#[test]
fn uml_file_system() -> Result<()> {
    if quick::skips("blk::uml_file_system")? {
        return Ok(());
    }
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.uml()?.start(scratch)?;
        guest.event("ready")?;
        for action in [
            "mkfs",
            "mount",
            "fill,files=16",
            "check,files=16",
            "trim",
            "umount",
        ] {
            guest.disk(action)?;
        }
        guest.power_off()?;
        bench.close()?;
        image.check_ext4()?;
        check_file(&image, 15, MIB, 1)
    })
}

#[test]
fn guest_reboots_and_finds_its_files() -> Result<()> {
    reboot(|guest, _| guest.say("reboot"))
}

#[test]
fn machine_is_reset_and_finds_its_files() -> Result<()> {
    reboot(|_, qmp| qmp.execute("system_reset").map(drop))
}

/// A file system with a journal that the host has made; the guest starts again with the same daemon.
fn reboot(again: impl Fn(&mut vu_e2e::guest::Guest, &mut Qmp) -> Result<()>) -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        image.make_ext4()?;
        let bench = Bench::on(&image, scratch, &[])?;
        let monitor = scratch.path("qmp");
        let mut guest = bench.boot(&bench.qemu()?.reboots().qmp(&monitor))?;
        let mut qmp = Qmp::connect(&monitor)?;
        for seed in [10, 20, 30] {
            guest.disk("mount")?;
            guest.disk(&format!("fill,seed={seed}"))?;
            again(&mut guest, &mut qmp)?;
            guest.event("ready")?;
            guest.disk("mount")?;
            guest.disk(&format!("check,seed={seed}"))?;
            guest.disk("umount")?;
        }
        guest.power_off()?;
        bench.close()?;
        image.check_ext4()?;
        check_file(&image, 7, MIB, 30)
    })
}

#[test]
fn sixty_four_mib_both_ways() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        fill_image(&image, 64 * MIB, 11)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        guest.disk("read,seed=11")?;
        guest.disk("write,seed=12")?;
        check_image(&image, 64 * MIB, 12)?;
        guest.power_off()?;
        bench.close().map(drop)
    })
}

#[test]
fn one_daemon_serves_one_guest_after_the_other() -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::in_memory(scratch, &[])?;
        let boot = |bench: &Bench| bench.boot(&bench.qemu()?);
        let mut guest = boot(&bench)?;
        guest.disk("write,seed=13")?;
        guest.power_off()?;
        let mut guest = boot(&bench)?;
        guest.disk("read,seed=13")?;
        guest.power_off()?;
        bench.close().map(drop)
    })
}

#[test]
fn grown_image_grows_the_disk() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 16 * MIB)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        for size in [32 * MIB, 48 * MIB] {
            image.resize(size)?;
            bench.daemon.signal(Signal::HUP)?;
            guest.disk(&format!("facts,size={size}"))?;
            guest.disk(&format!("write,seed={size}"))?;
        }
        guest.power_off()?;
        bench.close()?;
        check_image(&image, 48 * MIB, 48 * MIB)
    })
}

#[test]
fn truncated_image_is_an_error_of_what_is_missing() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 16 * MIB)?;
        fill_image(&image, 16 * MIB, 14)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        image.resize(8 * MIB)?;
        let error = guest.disk_refuses("read,offset=8388608,bytes=65536,seed=14")?;
        ensure!(error.ends_with("(os error 5)"), "{error}");
        guest.disk("read,bytes=8388608,seed=14")?;
        guest.power_off()?;
        bench.close().map(drop)
    })
}

#[test]
fn two_disks_of_one_process() -> Result<()> {
    Scratch::scope(|scratch| {
        let images = [
            Image::raw(scratch.path("first"), 16 * MIB)?,
            Image::raw(scratch.path("second"), 32 * MIB)?,
        ];
        let second = scratch.path("second.sock");
        let socket = second.display().to_string();
        let more = ["--socket-path", &socket, "--blk-file", images[1].as_str()?];
        let bench = Bench::on(&images[0], scratch, &more)?;
        let qemu: Qemu = bench.qemu()?.device(PCI, &second);
        let mut guest = bench.boot(&qemu)?;
        // Which is found first is up to the kernel.
        for disk in ["vda", "vdb"] {
            let size = guest.disk(&format!("facts,disk={disk}"))?["size"].as_u64();
            let seed = size.map_or(0, |size| size / MIB);
            guest.disk(&format!("write,disk={disk},seed={seed}"))?;
        }
        guest.power_off()?;
        bench.close()?;
        check_image(&images[0], 16 * MIB, 16)?;
        check_image(&images[1], 32 * MIB, 32)
    })
}
