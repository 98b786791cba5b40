// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files by which libvirt finds our daemons: a guest that has nothing to do with us still starts.

use crate::kitchen::{Kitchen, finish};
use crate::libvirt;
use anyhow::{Result, ensure};
use std::process::Command;
use vu_e2e::daemon::{self, Profile};

/// Where libvirt looks.
const FOLDER: &str = "/usr/share/qemu/vhost-user";
const NAMES: [&str; 6] = ["blk", "gpio", "i2c", "input", "rng", "vsock"];

/// Unpacks Debian's daemon for shared folders. Its package is not installed: it brings modules of another QEMU, which the
/// lab's would load and die of.
fn virtiofsd(kitchen: &Kitchen<'_>) -> Result<String> {
    let unpack =
        "apt-get download --quiet qemu-system-common && dpkg-deb --extract qemu-system-common_*.deb .";
    finish(
        Command::new("sh")
            .args(["-ec", unpack])
            .current_dir(kitchen.scratch.folder()),
    )?;
    Ok(kitchen
        .scratch
        .path("usr/lib/qemu/virtiofsd")
        .display()
        .to_string())
}

pub(crate) fn check(kitchen: &Kitchen<'_>) -> Result<()> {
    let files = kitchen.scratch.path("vhost-user");
    std::fs::create_dir(&files)?;
    let file = |kind: &str, binary: &str| {
        format!(r#"{{"description": "", "type": "{kind}", "binary": "{binary}"}}"#)
    };
    std::fs::write(files.join("50-virtiofsd.json"), file("fs", &virtiofsd(kitchen)?))?;
    let mut ours = 0;
    for name in NAMES.map(|name| format!("vhost-device-{name}")) {
        let program = daemon::build(&name, Profile::Debug)?;
        // A device of a type that libvirt does not know has no file.
        let output = Command::new(program).args(["--generate", "json"]).output()?;
        if output.status.success() {
            std::fs::write(files.join(format!("60-{name}.json")), &output.stdout)?;
            ours += 1;
        }
    }
    ensure!(ours > 0, "no device has a file");
    start(kitchen)?;

    // That libvirt reads them is seen by a file that it cannot take.
    std::fs::write(
        files.join("60-strange.json"),
        file("gpio", "/usr/bin/vhost-device-gpio"),
    )?;
    let refused = start(kitchen).err().map(|error| error.to_string());
    let refused = refused.unwrap_or_default();
    ensure!(
        refused.contains("unknown vhost-user type"),
        "libvirt says: {refused}"
    );
    Ok(())
}

/// Starts a guest with a shared folder, with the test's files in place of the host's.
fn start(kitchen: &Kitchen<'_>) -> Result<()> {
    let shared = kitchen.scratch.folder().display();
    let xml = format!(
        "<domain type='kvm'><name>guest</name><memory unit='MiB'>256</memory><memoryBacking><source type='memfd'/>\
         <access mode='shared'/></memoryBacking><os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <features><acpi/></features><devices><filesystem type='mount'><driver type='virtiofs'/>\
         <source dir='{shared}/vhost-user'/><target dir='shared'/></filesystem></devices></domain>"
    );
    let virsh = libvirt::virsh(kitchen, &[&libvirt::script(kitchen, &xml)?]);
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-ec",
        &format!("mkdir -p {FOLDER}; mount --bind {shared}/vhost-user {FOLDER}; exec \"$@\""),
    ]);
    let said = finish(command.arg("sh").arg(virsh.get_program()).args(virsh.get_args()))?;
    ensure!(
        said.contains("dev: vhost-user-fs-pci"),
        "QEMU has no shared folder:\n{said}"
    );
    Ok(())
}
