// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same device by each front end: who is between the guest's driver and the daemon.

use crate::artifacts::Lab;
use crate::guest::{Guest, Script};
use crate::qemu::{Machine, Qemu};
use crate::scratch::Scratch;
use crate::uml::Uml;
use anyhow::Result;
use std::path::Path;

/// A kind of device, as front ends have to be told of it.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// The virtio device id.
    pub id: u32,
    /// QEMU's name of it: `gpio` is `vhost-user-gpio-pci` and `vhost-user-gpio-device`.
    pub name: &'static str,
    /// How many virtqueues it has.
    pub queues: u8,
    /// The bytes of its configuration space.
    pub config: u16,
}

impl Model {
    /// QEMU's device on PCI.
    pub fn pci(self) -> String {
        format!("vhost-user-{}-pci", self.name)
    }
}

/// A front end, and how the guest reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// The `virtio_uml` driver of User-mode Linux.
    Uml,
    /// QEMU's device on PCI.
    Pci,
    /// QEMU's device on a machine without PCI.
    Mmio,
    /// QEMU's device that knows nothing of what it is.
    Generic,
}

impl Front {
    /// Starts a guest of one of our kernels, with the device that is served at `socket`; it waits for tasks.
    ///
    /// # Errors
    /// When a part of the lab cannot be built, or the guest does not get so far.
    pub fn start(self, lab: &Lab, model: Model, socket: &Path, scratch: &Scratch) -> Result<Guest> {
        let mut guest = match self {
            Self::Uml => uml(lab)?.device(model.id, socket).start(scratch),
            Self::Pci => qemu(lab)?.device(&model.pci(), socket).start(scratch),
            Self::Mmio => qemu(lab)?
                .machine(Machine::Microvm)
                .device(&format!("vhost-user-{}-device", model.name), socket)
                .start(scratch),
            Self::Generic => {
                let Model {
                    id, queues, config, ..
                } = model;
                let device = format!(
                    "vhost-user-test-device-pci,virtio-id={id},num_vqs={queues},config_size={config}"
                );
                qemu(lab)?.device(&device, socket).start(scratch)
            }
        }?;
        guest.event("ready")?;
        Ok(guest)
    }

    /// Ends a guest that waits for tasks. Without ACPI the machine cannot power off, but a reboot ends QEMU as well.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn end(self, mut guest: Guest) -> Result<()> {
        guest.say(if self == Self::Mmio { "reboot" } else { "poweroff" })?;
        guest.finish()
    }
}

/// A guest under User-mode Linux that waits for tasks; without devices yet.
///
/// # Errors
/// When a part of the lab cannot be built.
pub fn uml(lab: &Lab) -> Result<Uml> {
    Ok(Uml::new(&lab.um_kernel()?, &lab.guest_program()?).script(&Script::serve()))
}

/// The same under QEMU, with our small kernel.
///
/// # Errors
/// When a part of the lab cannot be built.
pub fn qemu(lab: &Lab) -> Result<Qemu> {
    Ok(Qemu::new(&lab.qemu()?, &lab.x86_boot()?).script(&Script::serve()))
}
