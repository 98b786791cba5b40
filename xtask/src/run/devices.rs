// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How each device is shown: with which kernel, on which hardware that is not needed, by which tasks of the guest program.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;
use vu_e2e::scratch::Scratch;

use super::show;

/// A task of the guest program, and how to tell people what it found out.
pub(super) type Shown = (&'static str, fn(&Value) -> Result<Vec<String>>);

/// Which kernel the guest boots.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    /// Debian's, as it is.
    Debian,
    /// One that is built from Debian's source: theirs lacks the driver.
    Own,
}

impl Kernel {
    /// What is announced before it is looked for.
    pub(super) fn announcement(self) -> &'static str {
        match self {
            Self::Debian => {
                "looking for QEMU, Debian's kernel and the guest's programs; what is missing is fetched, once"
            }
            Self::Own => {
                "looking for QEMU, a kernel with this driver and the guest's programs; what is missing is built, once"
            }
        }
    }
}

/// How to show a device.
pub(super) struct Device {
    pub(super) name: &'static str,
    /// QEMU's device model.
    pub(super) qemu: &'static str,
    pub(super) kernel: Kernel,
    /// Makes what the options name that the daemon gets where none are given.
    pub(super) options: fn(&Scratch) -> Result<Vec<String>>,
    /// What is shown of it.
    pub(super) tasks: &'static [Shown],
    /// What is shown where options are given: it leaves everything as it is.
    pub(super) look: Shown,
    /// What to try in a shell of the guest.
    pub(super) hint: &'static str,
}

/// All that can be shown.
pub(super) const DEVICES: &[Device] = &[
    Device {
        name: "blk",
        qemu: "vhost-user-blk-pci",
        kernel: Kernel::Debian,
        options: |_| Ok(words(&["--memory", "64M"])),
        tasks: &[("blk,do=tour,wipe", show::blk)],
        look: ("blk,do=tour,any", show::blk),
        hint: "mke2fs /dev/vda; mount -t ext4 /dev/vda /tmp; df /tmp; grep . /sys/block/vda/queue/*",
    },
    Device {
        name: "gpio",
        qemu: "vhost-user-gpio-pci",
        kernel: Kernel::Own,
        options: board,
        tasks: &[("gpio,do=tour,in=0,out=1,count=4", show::gpio_tour)],
        look: ("gpio,do=look", show::gpio),
        hint: "cat /sys/kernel/debug/gpio; /init gpio,do=watch,count=4; /init gpio,do=follow,in=0,out=1,count=4",
    },
    Device {
        name: "i2c",
        qemu: "vhost-user-i2c-pci",
        kernel: Kernel::Own,
        options: |_| Ok(words(&["--bus", "sim:lm75@0x48=23.5,24c02@0x50"])),
        tasks: &[
            DETECT,
            (
                "i2c,do=chip,at=48,driver=lm75,file=hwmon/*/temp1_input",
                show::thermometer,
            ),
            (
                "i2c,do=chip,at=50,driver=24c02,file=eeprom,write=68656c6c6f0a",
                show::eeprom,
            ),
        ],
        look: DETECT,
        hint: "i2cdetect -y 0; cd /sys/bus/i2c/devices/i2c-0; echo lm75 0x48 > new_device; cat 0-0048/hwmon/*/temp1_input",
    },
    Device {
        name: "input",
        qemu: "vhost-user-input-pci",
        kernel: Kernel::Debian,
        options: typist,
        tasks: &[("input,events=20", show::input)],
        look: ("input", show::input),
        hint: "cat /proc/bus/input/devices; hexdump -C /dev/input/event0",
    },
    Device {
        name: "rng",
        qemu: "vhost-user-rng-pci",
        kernel: Kernel::Debian,
        options: |_| Ok(Vec::new()),
        tasks: &[RNG],
        look: RNG,
        hint: "cat /sys/class/misc/hw_random/rng_current; head -c 64 /dev/hwrng | hexdump -C",
    },
    Device {
        name: "vsock",
        qemu: "vhost-user-vsock-pci",
        kernel: Kernel::Debian,
        options: echo,
        tasks: &[
            ("vsock,do=send,bytes=16777216", show::vsock),
            ("vsock,do=refused,port=1", show::vsock_refused),
        ],
        look: ("vsock,do=refused,port=1", show::vsock_refused),
        hint: "/init vsock,do=send,bytes=1048576; /init vsock,do=refused,port=1",
    },
];

const RNG: Shown = ("rng,bytes=1048576,hex=16", show::rng);
const DETECT: Shown = ("i2c,do=detect,by=read", show::detected);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A board with a button that somebody presses, and a light.
fn board(scratch: &Scratch) -> Result<Vec<String>> {
    let path = scratch.path("board.toml");
    let text = "lines = 4\n[line.0]\nname = \"button\"\npress-every-ms = 500\n[line.1]\nname = \"light\"\nlog = true\n";
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(words(&["--chip", &format!("sim:{}", path.display())]))
}

/// A keyboard on which somebody writes the same word over and over, for whoever comes later.
fn typist(scratch: &Scratch) -> Result<Vec<String>> {
    let path = scratch.path("typist");
    let text = format!("wait\n{}", "type \"hello\"\nsleep 250ms\n".repeat(1000));
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(words(&["--sim", &format!("keyboard:{}", path.display())]))
}

/// A process of the host that sends back what comes to port 1234.
fn echo(scratch: &Scratch) -> Result<Vec<String>> {
    let path = scratch.path("guest.vsock");
    let port = scratch.path("guest.vsock_1234");
    let listener = UnixListener::bind(&port).with_context(|| port.display().to_string())?;
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
    Ok(words(&[
        "--guest-cid",
        "4",
        "--uds-path",
        &path.display().to_string(),
    ]))
}

/// Until the guest has said all. That it goes is its own business.
fn answer(mut stream: UnixStream) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(len @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..len]).is_err() {
            return;
        }
    }
}
