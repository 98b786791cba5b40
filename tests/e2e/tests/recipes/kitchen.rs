// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where recipes are tried: runs their lines, with their paths in a folder for the test.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vu_e2e::artifacts::{Lab, tools};
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::qmp::Qmp;
use vu_e2e::quick::skip;
use vu_e2e::scratch::Scratch;

/// Folders of the recipes that the test's folder stands for.
const FOLDERS: [&str; 4] = [
    "/run/vhost-device",
    "/var/run/kubevirt-hooks",
    "/srv",
    "$XDG_RUNTIME_DIR",
];

/// How long QEMU may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder, and the daemons that run there.
#[derive(Debug)]
pub(crate) struct Kitchen<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) daemons: Vec<Daemon>,
}

impl<'a> Kitchen<'a> {
    pub(crate) fn new(scratch: &'a Scratch) -> Self {
        Self {
            scratch,
            daemons: Vec::new(),
        }
    }

    /// `text` with the paths of here.
    pub(crate) fn at_home(&self, text: &str) -> String {
        let here = self.scratch.folder().display().to_string();
        FOLDERS
            .iter()
            .fold(text.to_owned(), |text, folder| text.replace(folder, &here))
    }

    /// Runs the lines of a block in the shell: a daemon goes on, a QEMU goes when its devices are there, and
    /// everything else runs to its end.
    pub(crate) fn run(&mut self, text: &str) -> Result<()> {
        let text = self.at_home(text).replace("\\\n", " ");
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let result = match words[0] {
                name if name.starts_with("vhost-device-") => self.serve(name, &words[1..]),
                "qemu-system-x86_64" => self.qemu(&words[1..]),
                "cloud-hypervisor" => self.cloud_hypervisor(&words[1..]),
                _ => finish(
                    Command::new("sh")
                        .args(["-ec", line])
                        .current_dir(self.scratch.folder()),
                )
                .map(drop),
            };
            result.with_context(|| line.to_owned())?;
        }
        Ok(())
    }

    /// Starts a daemon and waits until it listens.
    pub(crate) fn serve(&mut self, name: &str, args: &[&str]) -> Result<()> {
        let at = args
            .iter()
            .position(|arg| *arg == "--socket-path")
            .context("no --socket-path")?;
        let socket = Path::new(args.get(at + 1).context("no path")?);
        let others = [&args[..at], &args[at + 2..]].concat();
        let program = daemon::build(name, Profile::Debug)?;
        self.daemons.push(Daemon::start_at(&program, &others, socket)?);
        Ok(())
    }

    /// Starts QEMU as far as its devices, and sees to it that each vhost-user device is one of them.
    pub(crate) fn qemu(&self, args: &[&str]) -> Result<()> {
        let wanted: Vec<&str> = devices(args).collect();
        ensure!(!wanted.is_empty(), "no vhost-user device");
        let monitor = self.scratch.path("qmp");
        let mut command = Command::new(Lab::open()?.qemu()?);
        // A test has no use for a real CPU: the guest does not start.
        command.args(args.iter().map(|arg| if *arg == "kvm" { "tcg" } else { arg }));
        command.args(["-S", "-display", "none", "-nodefaults", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", monitor.display()));
        let mut process = Running(command.stdin(Stdio::null()).spawn().context("QEMU")?);
        let end = Instant::now() + PATIENCE;
        while !monitor.exists() {
            let ended = process.0.try_wait()?;
            ensure!(
                ended.is_none() && Instant::now() < end,
                "QEMU is not there: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut qmp = Qmp::connect(&monitor)?;
        let path = json!({ "path": "/machine/peripheral-anon" });
        let found = qmp.execute_with("qom-list", &path)?;
        for device in wanted {
            ensure!(is_there(&found, device), "QEMU has no {device}, but {found}");
        }
        qmp.execute("quit")?;
        let status = process.0.wait()?;
        std::fs::remove_file(&monitor).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        ensure!(status.success(), "QEMU: {status}");
        Ok(())
    }

    /// Starts Cloud Hypervisor if there is one: it gets as far as the kernel, which is not there.
    fn cloud_hypervisor(&self, args: &[&str]) -> Result<()> {
        if !tools::installed("cloud-hypervisor") {
            return skip(
                "recipes::cloud_hypervisor (its program)",
                "there is no cloud-hypervisor",
            );
        }
        let output = Command::new("cloud-hypervisor").args(args).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !text.contains("generic-vhost-user") && !text.contains("Usage"),
            "cloud-hypervisor: {text}"
        );
        Ok(())
    }
}

/// The vhost-user devices on QEMU's line.
pub(crate) fn devices<'a>(args: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let pairs = args.windows(2).filter(|pair| pair[0] == "-device");
    let names = pairs.map(|pair| pair[1].split(',').next().unwrap_or_default());
    names.filter(|name| name.starts_with("vhost-user-"))
}

fn is_there(found: &Value, device: &str) -> bool {
    let kind = format!("child<{device}>");
    found
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["type"] == kind))
}

/// A process that goes with the test.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command` to its end, which must be a good one, and gives what it printed.
pub(crate) fn finish(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| name.clone())?;
    ensure!(
        output.status.success(),
        "{name}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
