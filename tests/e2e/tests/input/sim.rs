// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulated devices, as programs of a guest see them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::Daemon;
use vu_e2e::guest::{End, Guest, Script};
use vu_e2e::qemu::Qemu;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

use crate::{ID, program};

/// One who uses a simulated device.
struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn act(&mut self, command: &str) -> Result<()> {
        writeln!(self.0.get_mut(), "{command}")?;
        let answer = self.line()?;
        ensure!(answer == "ok", "{command}: {answer}");
        Ok(())
    }
}

/// Where a guest runs.
#[derive(Clone, Copy)]
enum On {
    Uml,
    Qemu,
    /// QEMU with Debian's kernel, which has virtual consoles.
    Debian,
}

/// Boots a guest with a simulated device, and has `play` use it once a program of the guest reads, with
/// somebody who is told what the guest does; gives what the program found.
fn boot(
    on: On,
    kind: &str,
    task: &str,
    play: impl Fn(&mut Client, &mut Client) -> Result<()>,
) -> Result<Value> {
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let control = scratch.path("control");
        let args = ["--sim", kind, "--sim-socket", control.to_str().context("path")?];
        let daemon = Daemon::start(program(), &args, scratch)?;
        let (mut client, mut news) = (Client::connect(&control)?, Client::connect(&control)?);
        news.act("watch")?;
        let script = Script::new(task, End::PowerOff);
        let mut guest = start(on, &lab, &daemon, &script, scratch)?;
        guest.event("reading")?;
        client.act("wait")?;
        play(&mut client, &mut news)?;
        let result = guest.result("input")?;
        guest.finish()?;
        ensure!(daemon.terminate()?.success(), "the daemon did not go in peace");
        Ok(result)
    })
}

fn start(on: On, lab: &Lab, daemon: &Daemon, script: &Script, scratch: &Scratch) -> Result<Guest> {
    match on {
        On::Uml => {
            let guest = Uml::new(&lab.um_kernel()?, &lab.guest_program()?).device(ID, daemon.socket());
            guest.script(script).start(scratch)
        }
        On::Qemu | On::Debian => {
            let boot = match on {
                On::Debian => lab.debian_boot()?,
                _ => quick::boot(lab)?,
            };
            let guest = Qemu::new(&lab.qemu()?, &boot);
            let guest = guest.device("vhost-user-input-pci", daemon.socket());
            guest.script(script).start(scratch)
        }
    }
}

/// Of a keyboard: what it is, that keys arrive in order, and that an LED of the guest reaches the host.
fn keyboard(on: On) -> Result<()> {
    let found = boot(
        on,
        "keyboard",
        "input,events=14,led=1,timeout=60",
        |client, news| {
            while news.line()? != "LED_CAPSL 1" {}
            client.act("type hI")
        },
    )?;
    ensure!(found["name"] == "Simulated keyboard", "{found}");
    ensure!(found["serial"] == "sim-keyboard", "{found}");
    ensure!(found["ids"] == json!([6, 0, 1, 1]), "{found}");
    ensure!(found["types"] == json!([0, 1, 17, 18, 20]), "{found}");
    ensure!(found["keys"] == 139, "{found}");
    ensure!(found["leds"] == json!([1]), "{found}");
    ensure!(found["monotonic"] == true, "{found}");
    // Who sets an LED is told of it, too.
    let mut expected = vec![[17, 1, 1], [0, 0, 0]];
    for (key, value) in [(35, 1), (35, 0), (42, 1), (23, 1), (23, 0), (42, 0)] {
        expected.extend([[1, key, value], [0, 0, 0]]);
    }
    ensure!(found["events"] == json!(expected), "{found}");
    Ok(())
}

/// Of a touch screen: ranges, and a frame of ten fingers as one.
fn touch(on: On) -> Result<()> {
    // 10 times slot, id, x and y, but for the first slot; a button; the pointer; the end.
    let found = boot(on, "touch", "input,events=43,timeout=60", |client, _| {
        let fingers: Vec<String> = (0..10).map(|slot| format!("{slot} {} 7", 100 + slot)).collect();
        client.act(&format!("touch {}", fingers.join(" ")))
    })?;
    ensure!(found["props"] == json!([1]), "{found}");
    ensure!(found["axes"][2] == json!([0x2f, 0, 9, 0, 0, 0]), "{found}");
    ensure!(found["axes"][3] == json!([0x35, 0, 32767, 0, 0, 120]), "{found}");
    let events = found["events"].as_array().context("events")?;
    let ends: Vec<usize> = (0..events.len())
        .filter(|at| events[*at] == json!([0, 0, 0]))
        .collect();
    ensure!(ends == [42], "the frame ends at {ends:?}: {found}");
    let places: Vec<&Value> = events
        .iter()
        .filter(|event| event[1] == 0x35)
        .map(|event| &event[2])
        .collect();
    ensure!(
        places
            == (100..110)
                .map(Value::from)
                .collect::<Vec<_>>()
                .iter()
                .collect::<Vec<_>>(),
        "{found}"
    );
    Ok(())
}

/// A button is held when the daemon ends: the guest sees it released, although nobody is there any more. A key would
/// repeat meanwhile.
#[test]
fn an_ending_daemon_lifts_what_is_held_under_qemu() -> Result<()> {
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let control = scratch.path("control");
        let args = ["--sim=mouse", "--sim-socket", control.to_str().context("path")?];
        let daemon = Daemon::start(program(), &args, scratch)?;
        let mut client = Client::connect(&control)?;
        let script = Script::new("input,events=4,timeout=60", End::PowerOff);
        let mut guest = start(On::Qemu, &lab, &daemon, &script, scratch)?;
        guest.event("reading")?;
        client.act("wait")?;
        client.act("down BTN_LEFT")?;
        guest.event("came")?;
        ensure!(daemon.terminate()?.success(), "the daemon did not go in peace");
        let found = guest.result("input")?;
        let events = json!([[1, 272, 1], [0, 0, 0], [1, 272, 0], [0, 0, 0]]);
        ensure!(found["events"] == events, "{found}");
        guest.finish()
    })
}

#[test]
fn a_line_is_typed_on_the_console_of_a_guest() -> Result<()> {
    let found = boot(
        On::Debian,
        "keyboard",
        "input,do=console,timeout=60",
        |client, _| client.act(r#"type "echo \"Hello, World!\" | wc -c >~/n_1\n""#),
    )?;
    ensure!(
        found["line"] == "echo \"Hello, World!\" | wc -c >~/n_1\n",
        "{found}"
    );
    Ok(())
}

#[test]
fn a_keyboard_under_qemu() -> Result<()> {
    keyboard(On::Qemu)
}

#[test]
fn ten_fingers_under_qemu() -> Result<()> {
    touch(On::Qemu)
}

#[test]
fn a_keyboard_under_uml() -> Result<()> {
    if quick::skips("sim::a_keyboard_under_uml")? {
        return Ok(());
    }
    keyboard(On::Uml)
}

#[test]
fn ten_fingers_under_uml() -> Result<()> {
    if quick::skips("sim::ten_fingers_under_uml")? {
        return Ok(());
    }
    touch(On::Uml)
}
