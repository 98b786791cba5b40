// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which accelerator QEMU can use. That `/dev/kvm` exists says little: on some machines a guest hangs there, so one
//! has to boot before it is believed.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::store::{Facts, Ingredients};
use super::{Boot, Lab, Part};

/// How long a probe guest may take to its first line; with a KVM that works it takes a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// How QEMU runs a guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// On the processor, by the kernel's virtualisation.
    Kvm,
    /// Translated; slower, and it works everywhere.
    #[default]
    Tcg,
}

impl Accel {
    /// As QEMU's `-accel` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Accel {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => bail!("{word}: no such accelerator (known: kvm, tcg)"),
        }
    }
}

impl Lab {
    /// KVM if a guest really boots with it, else TCG. Probed once; [`forget`](Self::forget) has it probed again.
    ///
    /// # Errors
    /// When there is no QEMU or kernel to probe with.
    pub fn accel(&self) -> Result<Accel> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Accel::Tcg);
        }
        let (qemu, boot) = (self.qemu()?, self.debian_boot()?);
        let name = Part::Accel.name();
        let ingredients = Ingredients::default()
            .with("qemu", qemu.as_os_str().as_encoded_bytes())
            .with("kernel", boot.kernel.as_os_str().as_encoded_bytes());
        let folder = self.store.part(name, &ingredients, |folder| {
            eprintln!("lab: {name}: trying KVM, for at most {} s", PATIENCE.as_secs());
            let accel = if boots(&qemu, &boot)? {
                Accel::Kvm
            } else {
                Accel::Tcg
            };
            fs::write(folder.join(name), accel.name()).with_context(|| folder.display().to_string())?;
            Ok(Facts::from([("result".to_owned(), accel.to_string())]))
        })?;
        let path = folder.join(name);
        fs::read_to_string(&path)
            .with_context(|| path.display().to_string())?
            .parse()
    }
}

/// Whether the guest program speaks within the time, under KVM.
fn boots(qemu: &Path, boot: &Boot) -> Result<bool> {
    let mut child = Command::new(qemu)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .args([
            "-machine",
            "q35",
            "-accel",
            "kvm",
            "-m",
            "256M",
            "-append",
            "console=ttyS0 quiet panic=-1",
        ])
        .arg("-kernel")
        .arg(&boot.kernel)
        .arg("-initrd")
        .arg(&boot.initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| qemu.display().to_string())?;
    let console = child.stdout.take().context("the probe guest has no console")?;
    let (sender, lines) = channel();
    let reader = thread::spawn(move || {
        let spoke = BufReader::new(console)
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains(r#""event":"boot""#));
        // Nobody listens once the time is over.
        let _ = sender.send(spoke);
    });
    let spoke = lines.recv_timeout(PATIENCE).unwrap_or(false);
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().context("the probe guest")?;
    if reader.join().is_err() {
        bail!("the reader of the probe guest's console panicked");
    }
    Ok(spoke)
}

#[cfg(test)]
mod tests {
    use super::Accel;

    #[test]
    fn names_are_read_as_they_are_written() {
        for accel in [Accel::Kvm, Accel::Tcg] {
            assert_eq!(accel.to_string().parse::<Accel>().unwrap(), accel);
        }
        assert!(
            "hvf"
                .parse::<Accel>()
                .unwrap_err()
                .to_string()
                .contains("known: kvm, tcg")
        );
    }
}
