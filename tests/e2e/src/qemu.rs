// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU: the line that boots a guest with vhost-user devices.

use crate::artifacts::{Accel, Boot};
use crate::guest::{Guest, Script};
use crate::launch::Launch;
use crate::scratch::Scratch;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How much memory a guest has.
const SIZE: &str = "256M";

/// How much can be plugged in besides, and in how many pieces.
const MORE: &str = ",slots=4,maxmem=1G";

/// How soon QEMU tries again where a daemon has gone.
const RECONNECT: &str = ",reconnect-ms=50";

/// How the guest's memory is shared with the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// An anonymous memory file.
    #[default]
    Memfd,
    /// A file, made anew at each start.
    File,
    /// POSIX shared memory.
    Shm,
}

impl Memory {
    /// QEMU's object for it. A memory file lies in `folder`.
    fn object(self, folder: &Path) -> String {
        match self {
            Self::Memfd => format!("memory-backend-memfd,id=mem,size={SIZE},share=on"),
            Self::Shm => format!("memory-backend-shm,id=mem,size={SIZE}"),
            Self::File => {
                let path = folder.join("memory");
                format!(
                    "memory-backend-file,id=mem,size={SIZE},share=on,mem-path={}",
                    path.display()
                )
            }
        }
    }
}

impl FromStr for Memory {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Ok(match word {
            "memfd" => Self::Memfd,
            "file" => Self::File,
            "shm" => Self::Shm,
            _ => bail!("{word}: no such kind of memory (kinds: memfd, file, shm)"),
        })
    }
}

/// The kind of machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// A PC with PCI Express.
    #[default]
    Q35,
    /// A minimal machine without PCI, whose devices are on virtio-mmio.
    Microvm,
}

impl Machine {
    /// The value of QEMU's `-machine`.
    ///
    /// The microvm has the PC's timer: without it, and without KVM's clock, the kernel waits forever where it measures
    /// the speed of the CPU. Without ACPI, QEMU names the virtio-mmio devices on the kernel command line.
    fn options(self) -> &'static str {
        match self {
            Self::Q35 => "q35,memory-backend=mem",
            Self::Microvm => "microvm,acpi=off,isa-serial=on,rtc=on,pit=on,pic=on,memory-backend=mem",
        }
    }

    /// What the kernel must be told: where its console is, and to reboot a microvm, which has no keyboard controller
    /// for that, by a triple fault.
    fn words(self) -> &'static str {
        match self {
            Self::Q35 => "console=ttyS0",
            Self::Microvm => "console=ttyS0 reboot=t",
        }
    }
}

/// A guest under QEMU, not yet started.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    boot: Boot,
    machine: Machine,
    memory: Memory,
    accel: Accel,
    devices: Vec<(String, PathBuf)>,
    script: String,
    reboots: bool,
    interactive: bool,
    qmp: Option<PathBuf>,
    cpus: u8,
    reconnects: bool,
    pluggable: bool,
    incoming: Option<PathBuf>,
}

impl Qemu {
    /// `boot` on a q35 with TCG.
    pub fn new(program: &Path, boot: &Boot) -> Self {
        Self {
            program: program.to_owned(),
            boot: boot.clone(),
            machine: Machine::default(),
            memory: Memory::default(),
            accel: Accel::default(),
            devices: Vec::new(),
            script: String::new(),
            reboots: false,
            interactive: false,
            qmp: None,
            cpus: 1,
            reconnects: false,
            pluggable: false,
            incoming: None,
        }
    }

    /// Another machine.
    #[must_use]
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// Another way to share memory.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Another accelerator.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Adds a vhost-user device, such as `vhost-user-rng-pci` with its properties, served at `socket`.
    #[must_use]
    pub fn device(mut self, device: &str, socket: &Path) -> Self {
        self.devices.push((device.to_owned(), socket.to_owned()));
        self
    }

    /// What the guest does.
    #[must_use]
    pub fn script(mut self, script: &Script) -> Self {
        self.script = script.to_string();
        self
    }

    /// Lets a reboot of the guest be one; otherwise it ends QEMU.
    #[must_use]
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// Gives the guest a person's terminal: Ctrl-C goes to the guest, Ctrl-A X ends QEMU.
    #[must_use]
    pub fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// More CPUs than one.
    #[must_use]
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// Leaves room for memory that is plugged in later: see [`Qmp::plug_memory`](crate::qmp::Qmp::plug_memory).
    #[must_use]
    pub fn pluggable(mut self) -> Self {
        self.pluggable = true;
        self
    }

    /// Has it connect again to a daemon that has gone.
    #[must_use]
    pub fn reconnects(mut self) -> Self {
        self.reconnects = true;
        self
    }

    /// Waits at `socket` for a machine that migrates, instead of booting. What it is made of must be the same.
    #[must_use]
    pub fn incoming(mut self, socket: &Path) -> Self {
        self.incoming = Some(socket.to_owned());
        self
    }

    /// Listens for [`Qmp`](crate::qmp::Qmp) at `socket`.
    #[must_use]
    pub fn qmp(mut self, socket: &Path) -> Self {
        self.qmp = Some(socket.to_owned());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(&self, scratch: &Scratch) -> Result<Guest> {
        Guest::start(&self.launch(scratch.folder()), scratch)
    }

    /// The line that starts it, with the guest's console on standard input and output. A memory file lies in `folder`.
    pub fn launch(&self, folder: &Path) -> Launch {
        let serial = if self.interactive { "mon:stdio" } else { "stdio" };
        let line = format!(
            "{} quiet panic=-1 no_timer_check {}",
            self.machine.words(),
            self.script
        );
        let more = if self.pluggable { MORE } else { "" };
        let mut launch = Launch::new(&self.program)
            .args(["-nodefaults", "-no-user-config"])
            .option("-display", "none")
            .option("-serial", serial)
            .option("-machine", self.machine.options())
            .option("-accel", self.accel.name())
            .option("-m", &format!("{SIZE}{more}"))
            .option("-smp", &self.cpus.to_string())
            .option("-object", &self.memory.object(folder))
            .option("-kernel", &self.boot.kernel.display().to_string())
            .option("-initrd", &self.boot.initramfs.display().to_string())
            .option("-append", line.trim_end());
        let reconnect = if self.reconnects { RECONNECT } else { "" };
        for (i, (device, socket)) in self.devices.iter().enumerate() {
            let path = socket.display();
            launch = launch
                .option("-chardev", &format!("socket,id=vhost{i},path={path}{reconnect}"))
                .option("-device", &format!("{device},chardev=vhost{i}"));
        }
        if let Some(socket) = &self.incoming {
            launch = launch.option("-incoming", &format!("unix:{}", socket.display()));
        }
        if let Some(socket) = &self.qmp {
            launch = launch.option("-qmp", &format!("unix:{},server=on,wait=off", socket.display()));
        }
        if self.reboots {
            launch
        } else {
            launch.args(["-no-reboot"])
        }
    }
}
