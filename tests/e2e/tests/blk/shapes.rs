// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest sees of a disk, on each way to it.

use super::{Bench, Disk, ID, MIB, PCI, check_image, program};
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::Path;
use vu_e2e::artifacts::Lab;
use vu_e2e::guest::{End, Script};
use vu_e2e::host::Host;
use vu_e2e::image::Image;
use vu_e2e::qemu::{Machine, Memory, Qemu};
use vu_e2e::qmp::Qmp;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

/// Some MiB to write and read again.
const WRITE: &str = "write,bytes=8388608,seed=3";
const READ: &str = "read,bytes=8388608,seed=3";

/// Writes and reads in a guest whose disk is a file, and compares the file.
fn write_and_read(driver: &str, shape: impl Fn(&Bench) -> Result<Qemu>, goodbye: &str) -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 16 * MIB)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.boot(&shape(&bench)?)?;
        let facts = guest.disk("facts")?;
        ensure!(facts["driver"] == driver, "{facts}");
        ensure!(facts["size"] == 16 * MIB, "{facts}");
        guest.disk(WRITE)?;
        guest.disk(READ)?;
        guest.say(goodbye)?;
        guest.finish()?;
        bench.close()?;
        check_image(&image, 8 * MIB, 3)
    })
}

fn write_and_read_with(memory: Memory) -> Result<()> {
    write_and_read("virtio-pci", |bench| Ok(bench.qemu()?.memory(memory)), "poweroff")
}

#[test]
fn qemu_pci_memfd() -> Result<()> {
    write_and_read_with(Memory::Memfd)
}

#[test]
fn qemu_pci_file() -> Result<()> {
    write_and_read_with(Memory::File)
}

#[test]
fn qemu_pci_shm() -> Result<()> {
    write_and_read_with(Memory::Shm)
}

#[test]
fn qemu_mmio() -> Result<()> {
    if quick::skips("blk::qemu_mmio")? {
        return Ok(());
    }
    let shape = |bench: &Bench| {
        let machine = bench.bare_qemu()?.machine(Machine::Microvm);
        Ok(machine.device("vhost-user-blk", bench.daemon.socket()))
    };
    // Without ACPI the machine cannot power off, but a reboot ends QEMU as well.
    write_and_read("virtio-mmio", shape, "reboot")
}

#[test]
fn qemu_generic_device() -> Result<()> {
    let device = format!("vhost-user-test-device-pci,virtio-id={ID},num_vqs=1,vq_size=128,config_size=60");
    let shape = |bench: &Bench| Ok(bench.bare_qemu()?.device(&device, bench.daemon.socket()));
    write_and_read("virtio-pci", shape, "poweroff")
}

#[test]
fn uml() -> Result<()> {
    if quick::skips("blk::uml")? {
        return Ok(());
    }
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        let bench = Bench::on(&image, scratch, &["--serial", "uml-disk"])?;
        let mut guest = bench.uml()?.start(scratch)?;
        guest.event("ready")?;
        let facts = guest.disk("facts")?;
        ensure!(facts["driver"] == "virtio-uml", "{facts}");
        ensure!(facts["serial"] == "uml-disk", "{facts}");
        guest.disk("write,seed=4")?;
        guest.disk("read,seed=4")?;
        guest.power_off()?;
        bench.close()?;
        check_image(&image, 64 * MIB, 4)
    })
}

/// A back end that keeps the memory table of its start reads and writes elsewhere, or fails.
#[test]
fn memory_plugged_in_is_used() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 16 * MIB)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let monitor = scratch.path("qmp");
        let mut guest = bench.boot(&bench.qemu()?.pluggable().qmp(&monitor))?;
        guest.disk("memory")?;
        let mut qmp = Qmp::connect(&monitor)?;
        for (name, total) in [("first", 384 * MIB), ("second", 512 * MIB)] {
            qmp.plug_memory(name, 128 * MIB)?;
            guest.disk(&format!("memory,total={total}"))?;
        }
        // More than the machine had at its start.
        guest.disk("memory,bytes=335544320")?;
        guest.power_off()?;
        bench.close().map(drop)
    })
}

#[test]
fn serial_is_seen() -> Result<()> {
    Scratch::scope(|scratch| {
        // All 20 bytes that the request has room for: no NUL ends it.
        let bench = Bench::in_memory(scratch, &["--serial", "01234567890123456789"])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        let facts = guest.disk("facts")?;
        ensure!(facts["serial"] == "01234567890123456789", "{facts}");
        ensure!(facts["size"] == 64 * MIB, "{facts}");
        guest.power_off()?;
        bench.close().map(drop)
    })
}

#[test]
fn four_queues_serve_four_cpus() -> Result<()> {
    Scratch::scope(|scratch| {
        let args = ["--num-queues", "4", "--threads", "2", "--log-level", "debug"];
        let bench = Bench::in_memory(scratch, &args)?;
        let device = format!("{PCI},num-queues=4");
        let qemu = bench.bare_qemu()?.cpus(4).device(&device, bench.daemon.socket());
        let mut guest = bench.boot(&qemu)?;
        let facts = guest.disk("facts")?;
        ensure!(facts["queues"] == 4, "{facts}");
        let used = guest.disk("queues,reads=64")?;
        ensure!(used["cpus"] == 4, "{used}");
        guest.power_off()?;
        let log = bench.close()?;
        for queue in 0..4 {
            let requests = requests_of(&log, queue);
            ensure!(
                requests >= 64,
                "queue {queue} has seen {requests} requests:\n{log}"
            );
        }
        Ok(())
    })
}

/// What the daemon says of a queue when its front end has gone.
fn requests_of(log: &str, queue: usize) -> u64 {
    let prefix = format!("queue {queue}: ");
    let counts = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once(&prefix)?;
        rest.split_once(" requests")?.0.parse::<u64>().ok()
    });
    counts.sum()
}

#[test]
fn read_only_disk_refuses_writes() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 16 * MIB)?;
        super::fill_image(&image, 16 * MIB, 5)?;
        let bench = Bench::on(&image, scratch, &["--read-only"])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        let facts = guest.disk("facts")?;
        ensure!(facts["read_only"] == true, "{facts}");
        guest.disk("read,seed=5")?;
        let error = guest.disk_refuses("write,bytes=4096")?;
        let refused = ["os error 1)", "os error 5)", "os error 13)", "os error 30)"];
        ensure!(refused.iter().any(|number| error.ends_with(number)), "{error}");
        guest.power_off()?;
        bench.close()?;
        check_image(&image, 16 * MIB, 5)
    })
}

#[test]
fn cache_is_switched_by_the_guest() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 16 * MIB)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        ensure!(guest.disk("facts")?["cache"] == "write back");
        for (seed, kind) in [(6, "write through"), (7, "write back")] {
            let now = guest.disk(&format!("cache,type={kind}"))?;
            ensure!(now["cache"] == kind, "{now}");
            guest.disk(&format!("write,seed={seed}"))?;
            guest.disk(&format!("read,seed={seed}"))?;
        }
        guest.power_off()?;
        bench.close()?;
        check_image(&image, 16 * MIB, 7)
    })
}

#[test]
fn write_through_is_seen() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 16 * MIB)?;
        let bench = Bench::on(&image, scratch, &["--cache", "writethrough"])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        let facts = guest.disk("facts")?;
        ensure!(facts["cache"] == "write through", "{facts}");
        guest.disk(WRITE)?;
        guest.disk(READ)?;
        guest.power_off()?;
        bench.close()?;
        check_image(&image, 8 * MIB, 3)
    })
}

#[test]
fn blocks_of_4096_bytes() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        let bench = Bench::on(&image, scratch, &["--block-size", "4096"])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        let facts = guest.disk("facts")?;
        ensure!(facts["logical_block_size"] == 4096, "{facts}");
        ensure!(facts["size"] == 64 * MIB, "{facts}");
        guest.disk(WRITE)?;
        guest.disk(READ)?;
        guest.disk("mkfs")?;
        guest.disk("mount")?;
        guest.disk("fill")?;
        guest.disk("check")?;
        guest.disk("umount")?;
        guest.power_off()?;
        bench.close()?;
        image.check_ext4()
    })
}

#[test]
fn discarded_and_zeroed_blocks_become_holes() -> Result<()> {
    Scratch::scope(|scratch| {
        let image = Image::raw(scratch.path("disk"), 64 * MIB)?;
        super::fill_image(&image, 64 * MIB, 8)?;
        let bench = Bench::on(&image, scratch, &[])?;
        let mut guest = bench.boot(&bench.qemu()?)?;
        let facts = guest.disk("facts")?;
        ensure!(facts["discard_max_bytes"].as_u64() >= Some(MIB), "{facts}");
        ensure!(facts["write_zeroes_max_bytes"].as_u64() >= Some(MIB), "{facts}");
        // A driver that has to send one request for each range is slow to trim.
        ensure!(facts["max_discard_segments"].as_u64() >= Some(32), "{facts}");
        ensure!(
            facts["features"]
                .as_array()
                .is_some_and(|bits| bits.contains(&json!(13))),
            "{facts}"
        );
        let (full, slack) = (64 * MIB, MIB);
        guest.disk("discard,offset=16777216,bytes=16777216")?;
        ensure!(
            image.allocated()? <= full - 16 * MIB + slack,
            "discard: {}",
            image.allocated()?
        );
        guest.disk("zero,offset=33554432,bytes=16777216")?;
        guest.disk("read,offset=33554432,bytes=16777216,seed=0")?;
        ensure!(
            image.allocated()? <= full - 32 * MIB + slack,
            "zero: {}",
            image.allocated()?
        );
        guest.disk("zero,offset=0,bytes=8388608,keep")?;
        guest.disk("read,offset=0,bytes=8388608,seed=0")?;
        ensure!(
            image.allocated()? >= full - 32 * MIB - slack,
            "zero with keep: {}",
            image.allocated()?
        );
        guest.disk("read,offset=8388608,bytes=8388608,seed=8")?;
        guest.disk("read,offset=50331648,bytes=16777216,seed=8")?;
        guest.power_off()?;
        bench.close().map(drop)
    })
}

/// A block device of the host, whose limits are not those of a file.
#[test]
fn simulated_host_has_a_block_device() -> Result<()> {
    if quick::skips("blk::simulated_host_has_a_block_device")? {
        return Ok(());
    }
    let lab = Lab::open()?;
    let socket = Path::new("/run/blk.sock");
    let script = Script::new("blk,do=facts", End::PowerOff)
        .then("blk,do=write,seed=17")
        .then("blk,do=read,seed=17")
        .then("blk,do=discard,bytes=8388608")
        .then("blk,do=read,bytes=8388608,seed=0")
        .then("blk,do=read,offset=8388608,seed=17");
    let inner = Uml::new(&lab.um_kernel()?, &lab.guest_program()?).device(ID, socket);
    let disk = ["dev_size_mb=32", "physblk_exp=3", "lbpu=1", "lbprz=1"];
    let host = disk.iter().fold(
        Host::new(&lab.um_kernel()?, &lab.guest_program()?),
        |host, parameter| host.word(&format!("scsi_debug.{parameter}")),
    );
    let host = host.daemon(program(), &["--blk-file", "/dev/sda"], socket);
    Scratch::scope(|scratch| {
        let mut guest = host.start(&inner.script(&script).launch(Path::new("/run")), scratch)?;
        let facts = guest.result("blk")?;
        ensure!(facts["size"] == 32 * MIB, "{facts}");
        ensure!(facts["logical_block_size"] == 512, "{facts}");
        ensure!(facts["physical_block_size"] == 4096, "{facts}");
        (0..5).try_for_each(|_| guest.result("blk").map(drop))?;
        guest.result("host")?;
        guest.finish()
    })
}
