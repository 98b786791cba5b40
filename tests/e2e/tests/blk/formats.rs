// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Disks that are no raw files.

use super::recovery::{Load, check_blocks, stop};
use super::{Bench, Disk, MIB, check_image};
use anyhow::Result;
use vu_e2e::image::Image;
use vu_e2e::nbd::{Kind, Server};
use vu_e2e::scratch::Scratch;

#[test]
fn qcow2() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::qcow2(scratch.path("disk.qcow2"), 128 * MIB)?;
        let bench = Bench::on(&image, scratch, &["--format", "qcow2"])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        guest.disk("write,bytes=67108864,seed=15")?;
        guest.disk("read,bytes=67108864,seed=15")?;
        guest.disk("read,offset=67108864,seed=0")?;
        guest.power_off()?;
        bench.close()?;
        image.check_qcow2()?;
        check_image(&image.to_raw(scratch.path("disk.raw"))?, 64 * MIB, 15)
    })
}

#[test]
fn qcow2_holds_a_file_system() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::qcow2(scratch.path("disk.qcow2"), 128 * MIB)?;
        let bench = Bench::on(&image, scratch, &["--format", "qcow2"])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        for action in ["mkfs", "mount", "fill,files=32", "check,files=32"] {
            guest.disk(action)?;
        }
        for action in [
            "fill,remove,files=4,seed=40",
            "trim",
            "check,files=4,seed=40",
            "umount",
        ] {
            guest.disk(action)?;
        }
        guest.power_off()?;
        bench.close()?;
        image.check_qcow2()?;
        image.to_raw(scratch.path("disk.raw"))?.check_ext4()
    })
}

/// A server that dies three times under load.
fn nbd(kind: Kind) -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        let mut server = Server::start(kind, &image, &scratch.path("nbd.sock"))?;
        let bench = Bench::new(scratch, &["--nbd", &server.uri()])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        guest.disk("write,seed=16")?;
        guest.disk("read,seed=16")?;
        check_image(&image, 64 * MIB, 16)?;
        let mut load = Load::start(&mut guest)?;
        for _ in 0..3 {
            load.goes_on(&mut guest)?;
            server.kill()?;
            server.restart()?;
        }
        load.goes_on(&mut guest)?;
        stop(&mut guest)?;
        check_blocks(&image)?;
        guest.power_off()?;
        bench.close().map(drop)
    })
}

#[test]
fn qemu_nbd_dies_under_load() -> Result<()> {
    nbd(Kind::QemuNbd)
}

#[test]
fn nbdkit_dies_under_load() -> Result<()> {
    nbd(Kind::Nbdkit)
}
