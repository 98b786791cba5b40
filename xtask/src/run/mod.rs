// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask run`: boots a Linux guest that uses a device, and shows the device at work.
//!
//! `devices.rs` says how each is shown, `show.rs` puts what the guest found out into words.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use vu_e2e::artifacts::{Accel, Lab};
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::guest::{End, Guest, Script};
use vu_e2e::launch::Launch;
use vu_e2e::qemu::{Memory, Qemu};
use vu_e2e::scratch::Scratch;

use crate::util::step;

mod devices;
mod show;

use devices::{DEVICES, Device, Kernel, Shown};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The device: blk, gpio, i2c, input, rng, vsock
    device: String,
    /// Leave a shell in the guest instead of showing the device
    #[arg(long)]
    shell: bool,
    /// Accelerator of QEMU, kvm or tcg; without it KVM is used where it boots a guest
    #[arg(long)]
    accel: Option<Accel>,
    /// How the guest's memory is shared with the daemon: memfd, file or shm
    #[arg(long, default_value = "memfd")]
    memory: Memory,
    /// Options of the daemon, after `--`. A disk that they name is only read
    #[arg(last = true)]
    daemon: Vec<String>,
}

pub(crate) fn run(
    Args {
        device,
        shell,
        accel,
        memory,
        daemon,
    }: Args,
) -> Result<()> {
    let Some(device) = DEVICES.iter().find(|known| known.name == device) else {
        let names: Vec<_> = DEVICES.iter().map(|device| device.name).collect();
        bail!("{device}: no such device (devices: {})", names.join(", "));
    };
    let name = format!("vhost-device-{}", device.name);
    step(&format!("building {name}"));
    let program = daemon::build(&name, Profile::Release)?;
    step(device.kernel.announcement());
    let lab = Lab::open()?;
    let accel = accel.map_or_else(|| lab.accel(), Ok)?;
    let boot = match device.kernel {
        Kernel::Debian => lab.debian_boot()?,
        Kernel::Own => lab.x86_boot()?,
    };
    let qemu = Qemu::new(&lab.qemu()?, &boot).accel(accel).memory(memory);

    Scratch::scope(|scratch| {
        let own = if daemon.is_empty() {
            (device.options)(scratch)?
        } else {
            Vec::new()
        };
        let (given, tasks) = if daemon.is_empty() {
            (&own, device.tasks)
        } else {
            (&daemon, std::slice::from_ref(&device.look))
        };
        let options: Vec<&str> = given.iter().map(String::as_str).collect();
        step("starting the daemon:");
        eprintln!(
            "{}",
            Daemon::launch(&program, &options, &Daemon::socket_in(scratch))
        );
        let daemon = Daemon::start(&program, &options, scratch)?;
        let qemu = qemu.device(device.qemu, daemon.socket());
        if shell {
            open_shell(device, &qemu, scratch)?;
        } else {
            show(tasks, &qemu, scratch)?;
        }
        stop(daemon)
    })?;
    if !shell {
        step(&format!(
            "try it yourself: cargo xtask run {} --shell",
            device.name
        ));
    }
    Ok(())
}

/// Boots the guest, has it use the device, and waits until it is off.
fn show(tasks: &[Shown], qemu: &Qemu, scratch: &Scratch) -> Result<()> {
    let script = tasks
        .iter()
        .fold(Script::default(), |script, (task, _)| script.then(task));
    let launch = qemu.clone().script(&script).launch(scratch.folder());
    announce(&launch);
    let start = Instant::now();
    let mut guest = Guest::start(&launch, scratch)?;
    let boot = guest.event("boot")?;
    let kernel = boot["kernel"].as_str().unwrap_or("of unknown version");
    step(&format!(
        "guest: Linux {kernel} is up after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    for (task, show) in tasks {
        let name = task.split(',').next().unwrap_or_default();
        for line in show(&guest.result(name)?)? {
            step(&format!("guest: {line}"));
        }
    }
    guest.finish()?;
    step(&format!(
        "guest: powered off after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Boots the guest with a shell on this terminal.
fn open_shell(device: &Device, qemu: &Qemu, scratch: &Scratch) -> Result<()> {
    let script = Script::new("shell,timeout=0", End::PowerOff);
    let launch = qemu
        .clone()
        .interactive()
        .script(&script)
        .launch(scratch.folder());
    announce(&launch);
    step(&format!("in the guest try: {}", device.hint));
    step("`exit` powers the guest off; Ctrl-A X ends QEMU");
    let mut command: Command = launch.command();
    let status = command.stdin(Stdio::inherit()).status().context("QEMU")?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

/// Shows the line that boots the guest.
fn announce(launch: &Launch) {
    step("booting a Linux guest; while the daemon runs, this line does the same:");
    eprintln!("{launch}");
}

fn stop(daemon: Daemon) -> Result<()> {
    let log = daemon.log();
    let status = daemon.terminate()?;
    ensure!(
        status.success(),
        "the daemon ended with {status}; it said:\n{log}"
    );
    step("the daemon has ended");
    Ok(())
}
