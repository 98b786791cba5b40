// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! systemd: a real one, in namespaces of its own, runs the recipe, and starts each daemon for a guest that connects.

use crate::book::Recipe;
use crate::kitchen::{Kitchen, Running, finish};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vu_e2e::daemon::{self, Profile};
use vu_e2e::scratch::Scratch;
use vu_testkit::frontend::FrontEnd;

const NAMES: [&str; 6] = ["blk", "gpio", "i2c", "input", "rng", "vsock"];
const PATIENCE: Duration = Duration::from_secs(60);

/// What the machine has of its own.
const NAMESPACES: [&str; 8] = [
    "--fork",
    "--kill-child",
    "--pid",
    "--mount",
    "--uts",
    "--ipc",
    "--net",
    "--cgroup",
];

/// Whether we may have what a systemd needs.
pub(crate) fn may_start() -> bool {
    let mut command = Command::new("unshare");
    command
        .args(NAMESPACES)
        .args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"]);
    finish(&mut command).is_ok()
}

pub(crate) fn check(recipe: &mut Recipe, kitchen: &mut Kitchen<'_>) -> Result<()> {
    let machine = Machine::start(kitchen.scratch)?;
    let options = recipe.take("ini")?;
    let [install, start] = &recipe.take("sh")?[..] else {
        anyhow::bail!("not two blocks in sh");
    };
    machine.run(&install.text)?;
    for block in options {
        let (path, text) = block.text.split_once('\n').context("no lines")?;
        let path = path.strip_prefix("# /").context("no path")?;
        std::fs::write(machine.path(path), text).with_context(|| block.place.clone())?;
    }
    machine.run(&start.text)?;
    NAMES.iter().try_for_each(|name| machine.check(name))
}

/// A systemd that is PID 1 of its namespaces.
struct Machine {
    process: Running,
    pid: String,
}

impl Machine {
    fn start(scratch: &Scratch) -> Result<Self> {
        let (root, bin) = (scratch.path("root"), scratch.path("bin"));
        std::fs::create_dir(&root)?;
        std::fs::create_dir(&bin)?;
        for name in NAMES.map(|name| format!("vhost-device-{name}")) {
            std::fs::copy(daemon::build(&name, Profile::Debug)?, bin.join(name))?;
        }
        let log = std::fs::File::create(scratch.path("systemd.log"))?;
        let process = Command::new("unshare")
            .args(NAMESPACES)
            .args(["sh", "-c", include_str!("pid1.sh"), "pid1"])
            .args([root, bin])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("unshare")?;
        let mut machine = Self {
            pid: String::new(),
            process: Running(process),
        };
        let unshare = machine.process.0.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let end = Instant::now() + PATIENCE;
        while !machine.is_up() {
            ensure!(
                Instant::now() < end && machine.process.0.try_wait()?.is_none(),
                "systemd does not come up: {}",
                std::fs::read_to_string(scratch.path("systemd.log"))?
            );
            std::thread::sleep(Duration::from_millis(50));
            machine.pid = std::fs::read_to_string(&children)?.trim().to_owned();
        }
        Ok(machine)
    }

    fn is_up(&self) -> bool {
        !self.pid.is_empty() && self.path("run/systemd/private").exists()
    }

    /// A path of the machine, from the host.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/{path}", self.pid))
    }

    /// Runs lines of shell there.
    fn run(&self, script: &str) -> Result<String> {
        finish(
            Command::new("nsenter")
                .args([
                    "--target", &self.pid, "--all", "--root", "--wd", "sh", "-ec", script,
                ])
                .stdin(Stdio::null()),
        )
    }

    /// The units are sound and safe; a guest that connects has the daemon started, which serves it.
    fn check(&self, name: &str) -> Result<()> {
        let service = format!("vhost-device-{name}@guest.service");
        let template = format!("/etc/systemd/system/vhost-device-{name}@.service");
        self.run(&format!(
            "systemd-analyze verify --man=no {service}\n\
             systemd-analyze security --offline=true --threshold=25 {template}\n\
             ! systemctl --quiet is-active {service}"
        ))?;
        let socket = self.path(&format!("run/vhost-device/{name}-guest.sock"));
        let answer = FrontEnd::connect(&socket, PATIENCE)
            .map_err(anyhow::Error::from)
            .and_then(|guest| Ok((guest.get_features()?, guest)));
        let state = self.run(&format!("systemctl --no-pager --full status {service} || true"))?;
        let (features, _guest) = answer.with_context(|| state.clone())?;
        // Every device has VIRTIO_F_VERSION_1.
        ensure!(features & 1 << 32 != 0, "features {features:#x}");
        let user = self.run(&format!(
            "systemctl is-active {service}\nps -o user:32= -p $(systemctl show --value -p MainPID {service})"
        ))?;
        let expected = format!("active\nvhost-device-{name}");
        ensure!(user.trim() == expected, "{user}\n{state}");
        Ok(())
    }
}
