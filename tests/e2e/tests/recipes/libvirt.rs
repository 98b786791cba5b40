// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libvirt, embedded in virsh: it starts the guest of the recipe, with every device, up to its first instruction.

use crate::book::{Block, Recipe};
use crate::kitchen::{Kitchen, finish};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use vu_e2e::artifacts::Lab;

/// libvirt's driver, as virsh loads it.
pub(crate) const DRIVER: &str = "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so";

/// Has libvirt start no process but QEMU, as who we are.
const SETTINGS: &str = r#"
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"#;

pub(crate) fn check(recipe: &mut Recipe, kitchen: &mut Kitchen<'_>) -> Result<()> {
    for block in recipe.take("sh")? {
        kitchen.run(&block.text)?;
    }
    let blocks = recipe.take("xml")?;
    let (domains, parts): (Vec<_>, Vec<_>) =
        blocks.iter().partition(|block| block.text.starts_with("<domain"));
    let [domain] = domains[..] else {
        anyhow::bail!("{} domains", domains.len());
    };
    let xml = kitchen.at_home(&assemble(&domain.text, &parts)?);
    let line = argv(kitchen, &xml)?;
    ensure!(
        line.contains("blk-guest.sock,reconnect"),
        "no reconnection: {line}"
    );
    // Debian 12's libvirt gives QEMU a `reconnect` in seconds, which the lab's QEMU no longer knows.
    let reconnect = "<reconnect enabled='yes' timeout='1'/>";
    ensure!(xml.contains(reconnect), "no {reconnect}");
    let script = script(kitchen, &xml.replace(reconnect, ""))?;
    let said = finish(&mut virsh(kitchen, &[&script]))?;
    for device in ["blk", "rng", "gpio", "i2c", "input", "vsock"] {
        ensure!(
            said.contains(&format!("dev: vhost-user-{device}-pci")),
            "QEMU has no {device}:\n{said}"
        );
    }
    Ok(())
}

/// `domain` with the arguments of all `parts` in its own `<qemu:commandline>`.
fn assemble(domain: &str, parts: &[&Block]) -> Result<String> {
    let (head, tail) = domain
        .split_once("</qemu:commandline>")
        .context("no <qemu:commandline>")?;
    let mut whole = head.to_owned();
    for part in parts {
        let inner = part
            .text
            .strip_prefix("<qemu:commandline>")
            .and_then(|text| text.trim_end().strip_suffix("</qemu:commandline>"));
        whole += inner.with_context(|| format!("{}: no <qemu:commandline>", part.place))?;
    }
    Ok(whole + "</qemu:commandline>" + tail)
}

/// Has virsh start the domain, ask QEMU for its devices, and end it.
pub(crate) fn script(kitchen: &Kitchen<'_>, xml: &str) -> Result<String> {
    let file = prepare(kitchen, xml)?;
    Ok(format!(
        "create {} --paused; qemu-monitor-command guest --hmp 'info qtree'; destroy guest",
        file.display()
    ))
}

/// The line by which libvirt would start the domain.
pub(crate) fn argv(kitchen: &Kitchen<'_>, xml: &str) -> Result<String> {
    let file = prepare(kitchen, xml)?.display().to_string();
    finish(&mut virsh(
        kitchen,
        &["domxml-to-native", "qemu-argv", "--xml", &file],
    ))
}

/// Writes `xml` for the lab's QEMU, and libvirt's settings.
fn prepare(kitchen: &Kitchen<'_>, xml: &str) -> Result<PathBuf> {
    let emulator = format!("<devices><emulator>{}</emulator>", Lab::open()?.qemu()?.display());
    let xml = xml
        .replace("type='kvm'", "type='qemu'")
        .replace("<devices>", &emulator);
    let settings = root(kitchen.scratch.folder()).join("etc");
    std::fs::create_dir_all(&settings)?;
    std::fs::write(settings.join("qemu.conf"), SETTINGS)?;
    let file = kitchen.scratch.path("domain.xml");
    std::fs::write(&file, xml)?;
    Ok(file)
}

/// The folder that libvirt has instead of the host's.
fn root(folder: &Path) -> PathBuf {
    folder.join("lv")
}

/// virsh, with a libvirt inside that has the test's folder for its own.
pub(crate) fn virsh(kitchen: &Kitchen<'_>, args: &[&str]) -> Command {
    let uri = format!("qemu:///embed?root={}", root(kitchen.scratch.folder()).display());
    let mut command = Command::new("virsh");
    command.args(["--quiet", "--connect", &uri]).args(args);
    command
}
