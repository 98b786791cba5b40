// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-rng with the virtio_rng driver of real guests.

use anyhow::{Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::guest::{End, Script};
use vu_e2e::host::Host;
use vu_e2e::launch::Launch;
use vu_e2e::qemu::{Machine, Memory, Qemu};
use vu_e2e::qmp::Qmp;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

/// The virtio device id of an entropy device.
const ID: u32 = 4;
const MIB: u64 = 1 << 20;
/// Reads 1 MiB and shows the first 4 KiB.
const READ: &str = "rng,bytes=1048576,hex=4096";
const PCI: &str = "vhost-user-rng-pci";

/// A lab and a running daemon.
struct Bench {
    lab: Lab,
    daemon: Daemon,
}

impl Bench {
    fn new(scratch: &Scratch, args: &[&str]) -> Result<Self> {
        Ok(Self {
            lab: Lab::open()?,
            daemon: Daemon::start(program(), args, scratch)?,
        })
    }

    /// A guest under User-mode Linux that uses the daemon.
    fn uml(&self) -> Result<Uml> {
        let guest = Uml::new(&self.lab.um_kernel()?, &self.lab.guest_program()?);
        Ok(guest.device(ID, self.daemon.socket()))
    }

    /// A guest under QEMU without devices yet.
    fn bare_qemu(&self) -> Result<Qemu> {
        Ok(Qemu::new(&self.lab.qemu()?, &quick::boot(&self.lab)?))
    }

    /// A guest under QEMU that uses the daemon as a PCI device.
    fn qemu(&self) -> Result<Qemu> {
        Ok(self.bare_qemu()?.device(PCI, self.daemon.socket()))
    }

    /// Ends the daemon, which must go in peace.
    fn close(self) -> Result<()> {
        let socket = self.daemon.socket().to_owned();
        let status = self.daemon.terminate()?;
        ensure!(status.success(), "the daemon went with {status}");
        ensure!(!socket.exists(), "the daemon left its socket behind");
        Ok(())
    }
}

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-rng", Profile::Debug).unwrap())
}

/// Reads once and powers off.
fn once() -> Script {
    Script::new(READ, End::PowerOff)
}

/// The kernel uses our device, and gets random bytes from it.
fn check(result: &Value) -> Result<()> {
    ensure!(
        result["current"] == "virtio_rng.0",
        "current source: {}",
        result["current"]
    );
    ensure!(result["bytes"] == MIB, "bytes read: {}", result["bytes"]);
    // 255 degrees of freedom: mean 255, standard deviation 22.6; six of these on either side.
    let chi_square = result["chi_square"].as_f64().unwrap_or(f64::NAN);
    ensure!((119.0..391.0).contains(&chi_square), "chi-square {chi_square}");
    Ok(())
}

fn boot_under_uml(args: &[&str]) -> Result<Value> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch, args)?;
        let mut guest = bench.uml()?.script(&once()).start(scratch)?;
        let result = guest.result("rng")?;
        guest.finish()?;
        bench.close()?;
        check(&result)?;
        Ok(result)
    })
}

fn boot_under_qemu(args: &[&str], shape: impl Fn(&Bench) -> Result<Qemu>, end: End) -> Result<Value> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch, args)?;
        let mut guest = shape(&bench)?.script(&Script::new(READ, end)).start(scratch)?;
        let result = guest.result("rng")?;
        guest.finish()?;
        bench.close()?;
        check(&result)?;
        Ok(result)
    })
}

#[test]
fn uml() -> Result<()> {
    if quick::skips("rng::uml")? {
        return Ok(());
    }
    boot_under_uml(&[]).map(drop)
}

fn boot_with(memory: Memory) -> Result<()> {
    boot_under_qemu(&[], |bench| Ok(bench.qemu()?.memory(memory)), End::PowerOff).map(drop)
}

#[test]
fn qemu_pci_memfd() -> Result<()> {
    boot_with(Memory::Memfd)
}

#[test]
fn qemu_pci_file() -> Result<()> {
    boot_with(Memory::File)
}

#[test]
fn qemu_pci_shm() -> Result<()> {
    boot_with(Memory::Shm)
}

#[test]
fn qemu_mmio() -> Result<()> {
    if quick::skips("rng::qemu_mmio")? {
        return Ok(());
    }
    let shape = |bench: &Bench| {
        let machine = bench.bare_qemu()?.machine(Machine::Microvm);
        Ok(machine.device("vhost-user-rng", bench.daemon.socket()))
    };
    // Without ACPI the machine cannot power off, but a reboot ends QEMU as well.
    boot_under_qemu(&[], shape, End::Reboot).map(drop)
}

#[test]
fn qemu_generic_device() -> Result<()> {
    let device = format!("vhost-user-test-device-pci,virtio-id={ID},num_vqs=1");
    let shape = |bench: &Bench| Ok(bench.bare_qemu()?.device(&device, bench.daemon.socket()));
    boot_under_qemu(&[], shape, End::PowerOff).map(drop)
}

#[test]
fn uml_gets_the_bytes_of_the_seed() -> Result<()> {
    if quick::skips("rng::uml_gets_the_bytes_of_the_seed")? {
        return Ok(());
    }
    check_sequence(&boot_under_uml(&["--source", "seeded:7"])?, 7)
}

#[test]
fn qemu_gets_the_bytes_of_the_seed() -> Result<()> {
    check_sequence(
        &boot_under_qemu(&["--source", "seeded:8"], Bench::qemu, End::PowerOff)?,
        8,
    )
}

/// The driver asks for 64 bytes at a time. Each such piece must stand in the sequence of `seed`, behind the one
/// before; between them are pieces that the kernel took for itself.
fn check_sequence(result: &Value, seed: u64) -> Result<()> {
    let shown = unhex(result["hex"].as_str().unwrap_or_default());
    ensure!(shown.len() == 4096, "{} bytes shown", shown.len());
    let sequence: Vec<u8> = (1..=1 << 13)
        .flat_map(|count| splitmix64(seed, count).to_le_bytes())
        .collect();
    let mut at = 0;
    for (i, piece) in shown.chunks(64).enumerate() {
        let found = sequence[at..].chunks(64).position(|expected| expected == piece);
        let skipped =
            found.ok_or_else(|| anyhow::anyhow!("piece {i} is not in the sequence behind byte {at}"))?;
        at += (skipped + 1) * 64;
    }
    Ok(())
}

/// The `count`th output of SplitMix64.
fn splitmix64(seed: u64, count: u64) -> u64 {
    let z = seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |i: usize| {
        text.get(i..i + 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    (0..text.len()).step_by(2).map_while(digits).collect()
}

#[test]
fn guest_reboots_itself() -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch, &[])?;
        let monitor = scratch.path("qmp");
        let script = Script::new(READ, End::Reboot);
        let mut guest = bench
            .qemu()?
            .script(&script)
            .reboots()
            .qmp(&monitor)
            .start(scratch)?;
        for _ in 0..3 {
            guest.event("boot")?;
            check(&guest.result("rng")?)?;
        }
        Qmp::connect(&monitor)?.execute("quit")?;
        guest.finish()?;
        bench.close()
    })
}

#[test]
fn uml_reboots_itself() -> Result<()> {
    if quick::skips("rng::uml_reboots_itself")? {
        return Ok(());
    }
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch, &[])?;
        let mut guest = bench
            .uml()?
            .script(&Script::new(READ, End::Reboot))
            .start(scratch)?;
        for _ in 0..3 {
            guest.event("boot")?;
            check(&guest.result("rng")?)?;
        }
        drop(guest);
        bench.close()
    })
}

#[test]
fn machine_is_reset() -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch, &[])?;
        let monitor = scratch.path("qmp");
        let mut guest = bench
            .qemu()?
            .script(&Script::serve())
            .reboots()
            .qmp(&monitor)
            .start(scratch)?;
        guest.event("ready")?;
        check(&guest.task(READ)?)?;
        Qmp::connect(&monitor)?.execute("system_reset")?;
        guest.event("ready")?;
        check(&guest.task(READ)?)?;
        guest.say("poweroff")?;
        guest.finish()?;
        bench.close()
    })
}

#[test]
fn daemon_restarts_before_the_next_guest() -> Result<()> {
    Scratch::scope(|scratch| {
        for _ in 0..2 {
            let bench = Bench::new(scratch, &[])?;
            let mut guest = bench.qemu()?.script(&once()).start(scratch)?;
            check(&guest.result("rng")?)?;
            guest.finish()?;
            bench.close()?;
        }
        Ok(())
    })
}

#[test]
fn one_daemon_serves_one_guest_after_the_other() -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch, &["--source", "seeded:9"])?;
        for _ in 0..2 {
            let mut guest = bench.qemu()?.script(&once()).start(scratch)?;
            let result = guest.result("rng")?;
            guest.finish()?;
            check(&result)?;
            check_sequence(&result, 9)?;
        }
        bench.close()
    })
}

#[test]
fn throttled_source_does_not_hold_up_the_guest() -> Result<()> {
    const PROMPT: Duration = Duration::from_secs(30);
    Scratch::scope(|scratch| {
        // The kernel takes a few hundred bytes for itself; then there are none for a day.
        let bench = Bench::new(scratch, &["--max-bytes", "8192", "--period", "86400000"])?;
        let mut guest = bench.qemu()?.script(&Script::serve()).start(scratch)?;
        guest.event("ready")?;
        guest.task("rng,bytes=4096")?;
        guest.say("rng,bytes=8192,timeout=2")?;
        let starved = guest.outcome("rng")?;
        ensure!(
            starved["error"] == "killed after 2 s",
            "the source is not throttled: {starved}"
        );
        let start = Instant::now();
        guest.say("poweroff")?;
        guest.finish()?;
        ensure!(start.elapsed() < PROMPT, "{:?} to power off", start.elapsed());
        bench.close()
    })
}

#[test]
fn simulated_host_with_uml() -> Result<()> {
    if quick::skips("rng::simulated_host_with_uml")? {
        return Ok(());
    }
    let lab = Lab::open()?;
    let inner = Uml::new(&lab.um_kernel()?, &lab.guest_program()?).device(ID, Path::new("/run/rng.sock"));
    boot_in_simulated_host(&lab, &inner.script(&once()).launch(Path::new("/run")))
}

#[test]
fn simulated_host_with_qemu() -> Result<()> {
    if quick::skips("rng::simulated_host_with_qemu")? {
        return Ok(());
    }
    let lab = Lab::open()?;
    let inner = Qemu::new(&lab.qemu()?, &lab.x86_boot()?).device(PCI, Path::new("/run/rng.sock"));
    boot_in_simulated_host(&lab, &inner.script(&once()).launch(Path::new("/run")))
}

/// The daemon and its guest both run inside a User-mode Linux.
fn boot_in_simulated_host(lab: &Lab, inner: &Launch) -> Result<()> {
    Scratch::scope(|scratch| {
        let host = Host::new(&lab.um_kernel()?, &lab.guest_program()?);
        let host = host.daemon(program(), &["--source", "seeded:10"], Path::new("/run/rng.sock"));
        let mut guest = host.start(inner, scratch)?;
        let result = guest.result("rng")?;
        guest.result("host")?;
        guest.finish()?;
        check(&result)?;
        check_sequence(&result, 10)
    })
}
