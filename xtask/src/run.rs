// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask run`: boots a Linux guest that uses a device, and shows the device at work.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vu_e2e::artifacts::{Accel, Lab};
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::guest::{End, Guest, Script};
use vu_e2e::launch::Launch;
use vu_e2e::qemu::{Memory, Qemu};
use vu_e2e::scratch::Scratch;

use crate::util::step;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The device: blk, rng
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

/// How to show a device.
struct Device {
    name: &'static str,
    /// QEMU's device model.
    qemu: &'static str,
    /// Options of the daemon where none are given.
    options: &'static [&'static str],
    /// The task of the guest program that uses what these options make.
    task: &'static str,
    /// The task where options are given: it leaves everything as it is.
    look: &'static str,
    /// What to try in a shell of the guest.
    hint: &'static str,
    /// What the task found out, for people.
    show: fn(&Value) -> Result<Vec<String>>,
}

/// Devices whose drivers are in Debian's kernel package.
const DEVICES: &[Device] = &[
    Device {
        name: "blk",
        qemu: "vhost-user-blk-pci",
        options: &["--memory", "64M"],
        task: "blk,do=tour,wipe",
        look: "blk,do=tour,any",
        hint: "mke2fs /dev/vda; mount -t ext4 /dev/vda /tmp; df /tmp; grep . /sys/block/vda/queue/*",
        show: show_blk,
    },
    Device {
        name: "rng",
        qemu: "vhost-user-rng-pci",
        options: &[],
        task: RNG,
        look: RNG,
        hint: "cat /sys/class/misc/hw_random/rng_current; head -c 64 /dev/hwrng | hexdump -C",
        show: show_rng,
    },
];

const RNG: &str = "rng,bytes=1048576,hex=16";

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
    step("looking for QEMU, Debian's kernel and the guest's programs; what is missing is fetched, once");
    let lab = Lab::open()?;
    let accel = accel.map_or_else(|| lab.accel(), Ok)?;
    let qemu = Qemu::new(&lab.qemu()?, &lab.debian_boot()?)
        .accel(accel)
        .memory(memory);

    Scratch::scope(|scratch| {
        let given: Vec<&str> = daemon.iter().map(String::as_str).collect();
        let (options, task) = if given.is_empty() {
            (device.options, device.task)
        } else {
            (&given[..], device.look)
        };
        step("starting the daemon:");
        eprintln!(
            "{}",
            Daemon::launch(&program, options, &Daemon::socket_in(scratch))
        );
        let daemon = Daemon::start(&program, options, scratch)?;
        let qemu = qemu.device(device.qemu, daemon.socket());
        if shell {
            open_shell(device, &qemu, scratch)?;
        } else {
            show(device, task, &qemu, scratch)?;
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
fn show(device: &Device, task: &str, qemu: &Qemu, scratch: &Scratch) -> Result<()> {
    let launch = qemu
        .clone()
        .script(&Script::new(task, End::PowerOff))
        .launch(scratch.folder());
    announce(&launch);
    let start = Instant::now();
    let mut guest = Guest::start(&launch, scratch)?;
    let boot = guest.event("boot")?;
    let kernel = boot["kernel"].as_str().unwrap_or("of unknown version");
    step(&format!(
        "guest: Linux {kernel} is up after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    let task = task.split(',').next().unwrap_or_default();
    for line in (device.show)(&guest.result(task)?)? {
        step(&format!("guest: {line}"));
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

fn number(result: &Value, key: &str) -> Result<f64> {
    let value = result[key].as_f64();
    value.with_context(|| format!("the guest gave no {key}"))
}

fn text<'a>(result: &'a Value, key: &str) -> Result<&'a str> {
    let value = result[key].as_str();
    value.with_context(|| format!("the guest gave no {key}"))
}

/// What the blk task found: the disk, its speed, and that files come back as they were.
fn show_blk(result: &Value) -> Result<Vec<String>> {
    let facts = &result["facts"];
    let mib = |result: &Value, key| Ok::<_, anyhow::Error>(number(result, key)? / f64::from(1 << 20));
    let mut lines = vec![
        format!(
            "a disk of {:.1} MiB, serial {:?}, {}",
            mib(facts, "size")?,
            text(facts, "serial")?,
            if facts["read_only"] == true {
                "read-only"
            } else {
                text(facts, "cache")?
            },
        ),
        format!(
            "blocks of {} bytes (physical: {}), {} queue(s), discards up to {:.0} MiB at once",
            number(facts, "logical_block_size")?,
            number(facts, "physical_block_size")?,
            number(facts, "queues")?,
            mib(facts, "discard_max_bytes")?,
        ),
    ];
    for (key, verb) in [("write", "wrote"), ("read", "read")] {
        let speed = &result[key];
        if !speed.is_null() {
            let (mib, seconds) = (mib(speed, "bytes")?, number(speed, "seconds")?);
            let rate = mib / seconds;
            lines.push(format!("{verb} {mib:.0} MiB in {seconds:.2} s ({rate:.0} MiB/s)"));
        }
    }
    if let Some(files) = result["files"]["files"].as_u64() {
        let each = mib(&result["files"], "bytes")?;
        lines.push(format!(
            "made a file system, wrote {files} files of {each:.0} MiB, read them again: as written"
        ));
    }
    Ok(lines)
}

/// What the rng task found: whose bytes the kernel takes, how fast they came, how even they are.
fn show_rng(result: &Value) -> Result<Vec<String>> {
    let (mib, seconds) = (
        number(result, "bytes")? / f64::from(1 << 20),
        number(result, "seconds")?,
    );
    let digits: Vec<char> = text(result, "hex")?.chars().collect();
    let bytes: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    Ok(vec![
        format!(
            "the kernel takes its random numbers from {}",
            text(result, "current")?
        ),
        format!(
            "read {mib:.1} MiB from /dev/hwrng in {seconds:.1} s ({:.1} MiB/s)",
            mib / seconds
        ),
        format!(
            "their chi-square is {:.0} (random bytes: 255 +- 23)",
            number(result, "chi_square")?
        ),
        format!("the first {}: {}", bytes.len(), bytes.join(" ")),
    ])
}

#[cfg(test)]
mod tests {
    use super::{show_blk, show_rng};
    use serde_json::json;

    #[test]
    fn the_result_of_blk_is_readable() {
        let facts = json!({
            "size": 64 << 20, "serial": "disk", "read_only": false, "cache": "write back", "queues": 1,
            "logical_block_size": 512, "physical_block_size": 4096, "discard_max_bytes": 2 << 20,
        });
        let speed = json!({ "bytes": 64 << 20, "seconds": 0.5 });
        let files = json!({ "files": 8, "bytes": 1 << 20 });
        let all = json!({ "facts": facts, "write": speed, "read": speed, "files": files });
        let lines = show_blk(&all).unwrap();
        assert_eq!(lines[0], "a disk of 64.0 MiB, serial \"disk\", write back");
        assert_eq!(lines[2], "wrote 64 MiB in 0.50 s (128 MiB/s)");
        assert!(lines[4].contains("8 files of 1 MiB"), "{}", lines[4]);
        let looked = show_blk(&json!({ "facts": facts, "read": speed })).unwrap();
        assert_eq!(looked.len(), 3, "{looked:?}");
        assert!(show_blk(&json!({})).is_err());
    }

    #[test]
    fn the_result_of_rng_is_readable() {
        let result = json!({
            "current": "virtio_rng.0", "bytes": 1 << 20, "seconds": 0.5, "chi_square": 250.4, "hex": "00ff1a",
        });
        let lines = show_rng(&result).unwrap();
        assert!(lines[0].ends_with("virtio_rng.0"), "{}", lines[0]);
        assert!(
            lines[1].contains("1.0 MiB") && lines[1].contains("(2.0 MiB/s)"),
            "{}",
            lines[1]
        );
        assert!(lines[2].contains("250 "), "{}", lines[2]);
        assert!(lines[3].ends_with("00 ff 1a"), "{}", lines[3]);
        assert!(show_rng(&json!({})).is_err());
    }
}
