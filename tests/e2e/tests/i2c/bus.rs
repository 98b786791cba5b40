// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated bus as a guest uses it, by whatever front end.

use crate::{Bench, I2C, run};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vu_e2e::front::Front;
use vu_e2e::guest::Guest;
use vu_e2e::qmp::Qmp;

/// Registers, a device that does not answer, a sensor and an EEPROM.
const BUS: &str = "sim:regs@0x20,nak@0x30,lm75@0x48=23.5,24c02@0x50";

/// Does a transfer that goes well; gives what each message has read.
fn transfer(guest: &mut Guest, messages: &str) -> Result<Value> {
    let mut found = guest.task(&format!("i2c,do=transfer,m={messages}"))?;
    Ok(found["read"].take())
}

/// Does a transfer, and checks what was read.
fn reads(guest: &mut Guest, messages: &str, expected: &[&str]) -> Result<()> {
    let found = transfer(guest, messages)?;
    ensure!(found == json!(expected), "{messages}: {found}");
    Ok(())
}

/// Does a transfer of which only some messages are done.
fn fails(guest: &mut Guest, messages: &str, error: &str) -> Result<()> {
    guest.say(&format!("i2c,do=transfer,m={messages}"))?;
    let found = guest.outcome("i2c")?;
    ensure!(found["error"] == error, "{messages}: {found}");
    Ok(())
}

/// Finding devices, each kind of message, and the kernel's drivers.
fn all_of_it(front: Front, name: &str) -> Result<()> {
    run(name, |scratch| {
        let bench = Bench::new(scratch, BUS, &[])?;
        let mut guest = bench.guest(front)?;
        detect(&mut guest)?;
        messages(&mut guest)?;
        smbus(&mut guest)?;
        drivers(&mut guest, "23500")?;
        bench.close(guest, front)
    })
}

fn detect(guest: &mut Guest) -> Result<()> {
    for by in ["quick", "read"] {
        let found = guest.task(&format!("i2c,do=detect,by={by}"))?;
        ensure!(found["answered"] == json!([0x20, 0x48, 0x50]), "by {by}: {found}");
    }
    Ok(())
}

fn messages(guest: &mut Guest) -> Result<()> {
    reads(guest, "20w10deadbeef", &[])?;
    reads(guest, "20w11+20r3", &["adbeef"])?;
    reads(guest, "20w10+20r1+20w12+20r2", &["de", "beef"])?;
    // Without bytes.
    reads(guest, "20w", &[])?;
    reads(guest, "20w10+20r4+20w", &["deadbeef"])?;
    // Two devices in one transfer.
    reads(guest, "48w00+48r2+20w13+20r1", &["1780", "ef"])?;
    // The rest of a transfer is not sent after a message that failed. Linux tells how many were done.
    fails(guest, "30w00", "only 0 of 1 messages")?;
    fails(guest, "21r1", "only 0 of 1 messages")?;
    fails(guest, "20w1001+30w00+20w1002", "only 1 of 3 messages")?;
    reads(guest, "20w10+20r1", &["01"])
}

fn smbus(guest: &mut Guest) -> Result<()> {
    let found = guest.task("i2c,do=smbus,at=20")?;
    ensure!(found["byte_data"] == 0x42, "{found}");
    ensure!(found["word_data"] == 0xbeef, "{found}");
    ensure!(found["block"] == json!([1, 2, 3, 4, 5]), "{found}");
    Ok(())
}

/// The drivers of the kernel for the EEPROM and the sensor.
fn drivers(guest: &mut Guest, temperature: &str) -> Result<()> {
    let found = guest.task("i2c,do=chip,at=50,driver=24c02,file=eeprom,write=c0ffee")?;
    ensure!(
        found["hex"] == format!("c0ffee{}", "ff".repeat(13)),
        "EEPROM: {found}"
    );
    let found = guest.task("i2c,do=chip,at=48,driver=lm75,file=hwmon/*/temp1_input")?;
    ensure!(found["text"] == temperature, "sensor: {found}");
    // What a driver has is not asked.
    let found = guest.task("i2c,do=detect")?;
    ensure!(found["answered"] == json!([0x20]), "{found}");
    Ok(())
}

#[test]
fn uml() -> Result<()> {
    all_of_it(Front::Uml, "bus::uml")
}

#[test]
fn qemu_pci() -> Result<()> {
    all_of_it(Front::Pci, "bus::qemu_pci")
}

#[test]
fn qemu_mmio() -> Result<()> {
    all_of_it(Front::Mmio, "bus::qemu_mmio")
}

#[test]
fn qemu_generic_device() -> Result<()> {
    all_of_it(Front::Generic, "bus::qemu_generic_device")
}

/// QEMU gives this device a ring of 4 entries, which a transfer of 4 messages fills.
#[test]
fn transfer_of_more_messages_than_fit_does_those_that_do() -> Result<()> {
    run(
        "bus::transfer_of_more_messages_than_fit_does_those_that_do",
        |scratch| {
            let bench = Bench::new(scratch, BUS, &[])?;
            let mut guest = bench.guest(Front::Pci)?;
            for round in 1..=3 {
                fails(
                    &mut guest,
                    &format!(
                        "20w100{round}+20w110{round}+20w120{round}+20w130{round}+20w140{round}+20w150{round}"
                    ),
                    "only 4 of 6 messages",
                )?;
                let register = format!("0{round}");
                reads(
                    &mut guest,
                    "20w10+20r6",
                    &[&format!("{}0000", register.repeat(4))],
                )?;
            }
            bench.close(guest, Front::Pci)
        },
    )
}

/// The ring of User-mode Linux takes as many as Linux lets a program send.
#[test]
fn transfer_of_the_most_messages() -> Result<()> {
    run("bus::transfer_of_the_most_messages", |scratch| {
        let bench = Bench::new(scratch, BUS, &[])?;
        let mut guest = bench.guest(Front::Uml)?;
        let writes: Vec<String> = (0..42)
            .map(|register| format!("20w{register:02x}{:02x}", register + 1))
            .collect();
        reads(&mut guest, &writes.join("+"), &[])?;
        let all: String = (1..=42).map(|value| format!("{value:02x}")).collect();
        reads(&mut guest, "20w00+20r42", &[&all])?;
        bench.close(guest, Front::Uml)
    })
}

#[test]
fn address_that_is_not_allowed_does_not_answer() -> Result<()> {
    run("bus::address_that_is_not_allowed_does_not_answer", |scratch| {
        let bench = Bench::new(scratch, &format!("{BUS}:0x20,0x48"), &[])?;
        let mut guest = bench.guest(Front::Pci)?;
        let found = guest.task("i2c,do=detect")?;
        ensure!(found["answered"] == json!([0x20, 0x48]), "{found}");
        // Nothing of it reaches the bus.
        fails(&mut guest, "20w1001+50r1", "only 0 of 2 messages")?;
        reads(&mut guest, "20w10+20r1", &["00"])?;
        bench.close(guest, Front::Pci)
    })
}

#[test]
fn two_buses_of_one_daemon() -> Result<()> {
    run("bus::two_buses_of_one_daemon", |scratch| {
        let second = scratch.path("second.sock");
        let more = [
            "--socket-path",
            second.to_str().context("path")?,
            "--bus",
            "sim:regs@0x20,lm75@0x49=-5",
        ];
        let bench = Bench::new(scratch, BUS, &more)?;
        let mut guest = bench.qemu()?.device(&I2C.pci(), &second).start(scratch)?;
        guest.event("ready")?;
        guest.task("i2c,do=transfer,bus=/dev/i2c-0,m=20w1001")?;
        guest.task("i2c,do=transfer,bus=/dev/i2c-1,m=20w1002")?;
        let found = guest.task("i2c,do=transfer,bus=/dev/i2c-0,m=20w10+20r1")?;
        ensure!(found["read"] == json!(["01"]), "{found}");
        let found = guest.task("i2c,do=chip,bus=/dev/i2c-1,at=49,driver=lm75,file=hwmon/*/temp1_input")?;
        ensure!(found["text"] == "-5000", "{found}");
        bench.close(guest, Front::Pci)
    })
}

#[test]
fn eeprom_outlives_the_guest_and_the_daemon() -> Result<()> {
    run("bus::eeprom_outlives_the_guest_and_the_daemon", |scratch| {
        let file = scratch.path("eeprom");
        let bus = format!("sim:24c02@0x50={}", file.display());
        for (front, task, expected) in [
            (Front::Uml, "write=abcd", "abcdffff"),
            (Front::Pci, "file=eeprom", "abcdffff"),
        ] {
            let bench = Bench::new(scratch, &bus, &[])?;
            let mut guest = bench.guest(front)?;
            let found = guest.task(&format!("i2c,do=chip,at=50,driver=24c02,{task}"))?;
            let hex = found["hex"].as_str().unwrap_or_default();
            ensure!(hex.starts_with(expected), "{found}");
            bench.close(guest, front)?;
            ensure!(std::fs::read(&file)?[..3] == [0xab, 0xcd, 0xff], "the file");
        }
        Ok(())
    })
}

/// One whose cells have addresses of one byte, and one with two.
#[test]
fn all_of_an_eeprom_is_read() -> Result<()> {
    run("bus::all_of_an_eeprom_is_read", |scratch| {
        let sizes = [("24c02", 0x50, 256), ("24c64", 0x51, 8192)];
        let devices = sizes.map(|(kind, at, size)| {
            let content: Vec<u8> = (0..size).map(|cell: u32| (cell * 7 + cell / 256) as u8).collect();
            let file = scratch.path(kind);
            std::fs::write(&file, content)?;
            Ok::<_, anyhow::Error>(format!("{kind}@{at:#x}={}", file.display()))
        });
        let devices = devices.into_iter().collect::<Result<Vec<_>>>()?;
        let bench = Bench::new(scratch, &format!("sim:{}", devices.join(",")), &[])?;
        let mut guest = bench.guest(Front::Pci)?;
        for (kind, at, size) in sizes {
            let found = guest.task(&format!("i2c,do=chip,at={at:x},driver={kind},bytes={size}"))?;
            let content: String = std::fs::read(scratch.path(kind))?
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            ensure!(found["hex"] == content, "{kind}: {found}");
        }
        bench.close(guest, Front::Pci)
    })
}

#[test]
fn guest_reboots_and_is_reset() -> Result<()> {
    run("bus::guest_reboots_and_is_reset", |scratch| {
        let bench = Bench::new(scratch, BUS, &[])?;
        let monitor = scratch.path("qmp");
        let mut guest = bench.qemu()?.reboots().qmp(&monitor).start(scratch)?;
        guest.event("ready")?;
        messages(&mut guest)?;
        guest.say("reboot")?;
        guest.event("ready")?;
        messages(&mut guest)?;
        // In the middle of a load.
        guest.say("i2c,do=load,m=20w10+20r4,seconds=60")?;
        guest.event("loading")?;
        Qmp::connect(&monitor)?.execute("system_reset")?;
        guest.event("ready")?;
        messages(&mut guest)?;
        drivers(&mut guest, "23500")?;
        bench.close(guest, Front::Pci)
    })
}

#[test]
fn guest_under_uml_reboots_itself() -> Result<()> {
    run("bus::guest_under_uml_reboots_itself", |scratch| {
        let bench = Bench::new(scratch, BUS, &[])?;
        let mut guest = bench.guest(Front::Uml)?;
        drivers(&mut guest, "23500")?;
        guest.say("reboot")?;
        guest.event("ready")?;
        messages(&mut guest)?;
        drivers(&mut guest, "23500")?;
        bench.close(guest, Front::Uml)
    })
}

#[test]
fn slow_device_costs_its_own_time_only() -> Result<()> {
    run("bus::slow_device_costs_its_own_time_only", |scratch| {
        let bench = Bench::new(
            scratch,
            "sim:regs@0x20,slow@0x31=700ms,slow@0x32=60000ms",
            &["--timeout", "2000"],
        )?;
        let mut guest = bench.guest(Front::Pci)?;
        let found = guest.task("i2c,do=transfer,m=31w0012")?;
        let seconds = found["seconds"].as_f64().unwrap_or_default();
        ensure!(seconds >= 0.7, "not slow: {found}");
        fails(&mut guest, "32w00", "only 0 of 1 messages")?;
        // It holds the bus. The daemon lives on, and ends when it is told to.
        fails(&mut guest, "20w00", "only 0 of 1 messages")?;
        bench.close(guest, Front::Pci)
    })
}
