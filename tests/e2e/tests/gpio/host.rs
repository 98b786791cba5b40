// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines of a chip of the host, from a gpio-sim chip of a simulated host to a driver of its guest.
//!
//! That no edge is lost means: while the guest waits for an edge of a line, each edge reaches it; edges at other times
//! are latched as one (virtio 1.3, section 5.18.7), so that after any number of them it still gets to know the last
//! level.

use anyhow::{Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Profile};
use vu_e2e::guest::Script;
use vu_e2e::host::{Chip, Host, Step};
use vu_e2e::launch::Launch;
use vu_e2e::qemu::Qemu;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

/// The virtio device id of a GPIO device.
const ID: u32 = 41;
const SOCKET: &str = "/run/gpio.sock";
/// What the host's kernel knows of all lines, with who has them.
const LINES: &str = "/sys/kernel/debug/gpio";
/// As whom the daemon has a line.
const CONSUMER: &str = "vhost-device-gpio";

/// Line 3 follows line 2 until line 4 has an edge.
const FOLLOW: &str = "gpio,do=follow,in=2,out=3,stop=4";
const IN: u32 = 2;
const OUT: u32 = 3;
const STOP: u32 = 4;

/// In how many bursts a line is toggled 100,000 times; an even number of times in each.
const BURSTS: u32 = 20;

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-gpio", Profile::Debug).unwrap())
}

fn board() -> Chip {
    Chip::new("board", 8)
}

/// A guest under User-mode Linux that waits for tasks.
fn uml(lab: &Lab) -> Result<Launch> {
    let guest = Uml::new(&lab.um_kernel()?, &lab.guest_program()?).device(ID, Path::new(SOCKET));
    Ok(guest.script(&Script::serve()).launch(Path::new("/run")))
}

/// A guest under QEMU that waits for tasks.
fn qemu(lab: &Lab) -> Result<Launch> {
    let guest = Qemu::new(&lab.qemu()?, &lab.x86_boot()?).device("vhost-user-gpio-pci", Path::new(SOCKET));
    Ok(guest.script(&Script::serve()).launch(Path::new("/run")))
}

/// Plays `steps` on a host with `chip`, of which a guest has what `args` say. In the end the guest has gone, the daemon
/// has nothing to do, and no line is in use. Gives what the steps have found.
fn play(
    guest: fn(&Lab) -> Result<Launch>,
    chip: &Chip,
    args: &[&str],
    steps: impl IntoIterator<Item = Step>,
) -> Result<Vec<Value>> {
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let host = Host::new(&lab.um_kernel()?, &lab.guest_program()?)
            .then(chip.make())
            .daemon(program(), args, Path::new(SOCKET))
            .guest(&guest(&lab)?)
            .then(Step::event("ready"));
        let host = steps.into_iter().fold(host, Host::then);
        let host = host
            .then(Step::say("poweroff"))
            .then(Step::end(60))
            .then(Step::lacks(LINES, CONSUMER))
            .then(Step::idle());
        // The first is that the guest is ready.
        Ok(host.play(scratch)?.split_off(1))
    })
}

/// Whether the test `name` is left out of this run.
fn skips(name: &str) -> Result<bool> {
    quick::skips(&format!("gpio::host::{name}"))
}

/// Has the guest do a task that is done at once, and finds its result.
fn task(line: &str) -> [Step; 2] {
    [Step::say(line), Step::result("gpio")]
}

fn outputs_inputs_and_edges(guest: fn(&Lab) -> Result<Launch>, args: &[&str]) -> Result<()> {
    let board = board();
    let follow = [
        Step::say(FOLLOW),
        Step::event("armed"),
        board.is(OUT, false),
        board.pull(IN, true),
        board.is(OUT, true),
        board.pull(IN, false),
        board.is(OUT, false),
        Step::contains(LINES, CONSUMER),
        board.pull(STOP, true),
        Step::result("gpio"),
    ];
    let levels = [board.pull(5, true)]
        .into_iter()
        .chain(task("gpio,do=get,line=5"))
        .chain(task("gpio,do=get,line=6"));
    let found = play(guest, &board, args, follow.into_iter().chain(levels))?;
    let [_armed, followed, high, low] = &found[..] else {
        anyhow::bail!("found {found:?}");
    };
    ensure!(followed["edges"] == 2 && followed["level"] == 0, "{followed}");
    ensure!(high["level"] == 1 && low["level"] == 0, "{high}, {low}");
    Ok(())
}

#[test]
fn version_2() -> Result<()> {
    if skips("version_2")? {
        return Ok(());
    }
    outputs_inputs_and_edges(uml, &["--chip", "board", "--uapi", "v2"])
}

#[test]
fn version_1() -> Result<()> {
    if skips("version_1")? {
        return Ok(());
    }
    outputs_inputs_and_edges(uml, &["--chip", "gpiochip0", "--uapi", "v1"])
}

#[test]
fn guest_under_qemu() -> Result<()> {
    if skips("guest_under_qemu")? {
        return Ok(());
    }
    outputs_inputs_and_edges(qemu, &["--chip", "/dev/gpiochip0"])
}

/// The guest's task `action`, with the module that takes an interrupt.
fn interrupt(action: &str) -> Result<String> {
    let module = Lab::open()?.lab_module("lab_irq")?;
    Ok(format!(
        "gpio,do={action},line={IN},out={OUT},stop={STOP},module={}",
        module.display()
    ))
}

/// A level interrupt comes for as long as the line has the level, and no longer.
#[test]
fn level_interrupt() -> Result<()> {
    if skips("level_interrupt")? {
        return Ok(());
    }
    let board = board();
    let steps = [
        Step::say(&interrupt("level")?),
        Step::event("armed"),
        // While the line is low there is nothing to do.
        Step::idle(),
        board.pull(IN, true),
        board.is(OUT, true),
        board.pull(IN, false),
        Step::idle(),
        board.pull(STOP, true),
        Step::result("gpio"),
    ];
    let found = play(uml, &board, &["--chip", "board"], steps)?;
    let result = &found[1];
    ensure!(
        result["count"].as_u64() >= Some(5) && result["more"] == 0,
        "{result}"
    );
    Ok(())
}

/// What becomes of an output when the guest dies.
fn guest_dies(on_disconnect: &str, then: impl FnOnce(&Chip) -> Vec<Step>) -> Result<()> {
    let board = board();
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let args = ["--chip", "board", "--on-disconnect", on_disconnect];
        let host = Host::new(&lab.um_kernel()?, &lab.guest_program()?)
            .then(board.make())
            .daemon(program(), &args, Path::new(SOCKET))
            .guest(&uml(&lab)?)
            .then(Step::event("ready"))
            .then(Step::say("gpio,do=set,line=3,level=1,stop=4"))
            .then(Step::event("armed"))
            .then(board.is(OUT, true))
            .then(Step::kill())
            .then(Step::says("front end disconnected"))
            .then(Step::idle());
        let host = then(&board).into_iter().fold(host, Host::then);
        host.play(scratch).map(drop)
    })
}

#[test]
fn lines_of_a_guest_that_dies_are_free_again() -> Result<()> {
    if skips("lines_of_a_guest_that_dies_are_free_again")? {
        return Ok(());
    }
    guest_dies("release", |board| {
        vec![Step::lacks(LINES, CONSUMER), board.is(OUT, false)]
    })
}

#[test]
fn lines_of_a_guest_that_dies_are_kept_if_asked_for() -> Result<()> {
    if skips("lines_of_a_guest_that_dies_are_kept_if_asked_for")? {
        return Ok(());
    }
    guest_dies("keep", |board| {
        vec![Step::contains(LINES, CONSUMER), board.is(OUT, true)]
    })
}

fn no_edge_is_lost(version: &str) -> Result<()> {
    let board = board();
    let answered = [
        Step::say(FOLLOW),
        Step::event("armed"),
        // Each edge is one that the guest waits for.
        board.ping_pong(IN, OUT, 10),
        board.pull(STOP, true),
        Step::result("gpio"),
    ];
    // Here most edges come while the line is masked. Each burst ends at another level than the one before, which is not
    // the level that an interrupt in the middle of it sees.
    let bursts = (0..BURSTS).flat_map(|burst| {
        let high = burst % 2 == 0;
        let times = 100_000 / BURSTS + u32::from(high);
        [board.toggle(IN, times), board.is(OUT, high)]
    });
    let masked = [
        board.pull(IN, false),
        board.pull(STOP, false),
        Step::say(&interrupt("edges")?),
        Step::event("armed"),
    ];
    let masked = masked
        .into_iter()
        .chain(bursts)
        .chain([board.pull(STOP, true), Step::result("gpio")]);
    let steps = answered.into_iter().chain(masked);
    let found = play(uml, &board, &["--chip", "board", "--uapi", version], steps)?;
    let (answered, followed) = (&found[1], &found[2]);
    let masked = found.last().unwrap_or(&Value::Null);
    eprintln!("answered {answered}, followed {followed}, masked {masked}");
    let times = answered["times"].as_u64().unwrap_or_default();
    ensure!(times >= 20, "only {answered}");
    ensure!(followed["edges"] == times, "{answered}, but {followed}");
    // At least one for each burst, and the pauses leave no time for as many as there were edges.
    let count = masked["count"].as_u64().unwrap_or_default();
    ensure!((u64::from(BURSTS)..100_000).contains(&count), "{masked}");
    Ok(())
}

#[test]
fn no_edge_is_lost_by_version_2() -> Result<()> {
    if skips("no_edge_is_lost_by_version_2")? {
        return Ok(());
    }
    no_edge_is_lost("v2")
}

#[test]
fn no_edge_is_lost_by_version_1() -> Result<()> {
    if skips("no_edge_is_lost_by_version_1")? {
        return Ok(());
    }
    no_edge_is_lost("v1")
}

#[test]
fn line_of_another_is_refused_by_the_name_of_who_has_it() -> Result<()> {
    if skips("line_of_another_is_refused_by_the_name_of_who_has_it")? {
        return Ok(());
    }
    let board = board().hog(5, "fan");
    let steps = [
        Step::say("gpio,do=get,line=5"),
        Step::failure("gpio"),
        Step::says("line 5"),
        Step::says("in use by \"fan\""),
        Step::contains(LINES, "fan"),
        board.pull(6, true),
    ];
    let found = play(
        uml,
        &board,
        &["--chip", "board"],
        steps.into_iter().chain(task("gpio,do=get,line=6")),
    )?;
    ensure!(found[1]["level"] == 1, "{}", found[1]);
    Ok(())
}

#[test]
fn guest_has_the_lines_that_were_chosen() -> Result<()> {
    if skips("guest_has_the_lines_that_were_chosen")? {
        return Ok(());
    }
    let board = board().name(3, "led").name(6, "button");
    let steps = task("gpio,do=look").into_iter().chain([
        Step::say("gpio,do=set,line=0,level=1,stop=2"),
        Step::event("armed"),
        board.is(3, true),
        board.pull(1, true),
        Step::result("gpio"),
        // That one is the guest's to read only.
        Step::say("gpio,do=set,line=1,level=1"),
        Step::failure("gpio"),
        Step::says("may only read it"),
        board.pull(6, true),
    ]);
    let steps = steps.chain(task("gpio,do=get,line=1"));
    let found = play(uml, &board, &["--chip", "board:led,button/ro,1"], steps)?;
    let names: Vec<&str> = found[0]["lines"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|line| line["name"].as_str())
        .collect();
    ensure!(names == ["led", "button", ""], "{names:?}");
    ensure!(found.last().is_some_and(|found| found["level"] == 1), "{found:?}");
    Ok(())
}

/// The chip goes by `removal` while the guest drives a line of it.
fn chip_goes_under_load(removal: Step) -> Result<()> {
    let board = board();
    let steps = [
        Step::say("gpio,do=drive,line=3,seconds=8"),
        Step::event("driving"),
        removal,
        Step::result("gpio"),
        Step::idle(),
        Step::say("gpio,do=get,line=5"),
        Step::failure("gpio"),
    ];
    let found = play(uml, &board, &["--chip", "board"], steps)?;
    let driven = &found[1];
    let count = |name: &str| driven[name].as_u64().unwrap_or_default();
    ensure!(count("well") > 0 && count("failed") > 0, "{driven}");
    Ok(())
}

#[test]
fn chip_that_is_removed_under_load_is_an_error() -> Result<()> {
    if skips("chip_that_is_removed_under_load_is_an_error")? {
        return Ok(());
    }
    chip_goes_under_load(board().unplug())
}

#[test]
fn chip_whose_driver_goes_under_load_is_an_error() -> Result<()> {
    if skips("chip_whose_driver_goes_under_load_is_an_error")? {
        return Ok(());
    }
    chip_goes_under_load(Step::write(
        "/sys/bus/platform/drivers/gpio-sim/unbind",
        "gpio-sim.0",
    ))
}

#[test]
fn chip_that_is_removed_while_the_guest_waits_costs_nothing() -> Result<()> {
    if skips("chip_that_is_removed_while_the_guest_waits_costs_nothing")? {
        return Ok(());
    }
    let board = board();
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let host = Host::new(&lab.um_kernel()?, &lab.guest_program()?)
            .then(board.make())
            .daemon(program(), &["--chip", "board"], Path::new(SOCKET))
            .guest(&uml(&lab)?)
            .then(Step::event("ready"))
            .then(Step::say(FOLLOW))
            .then(Step::event("armed"))
            .then(board.pull(IN, true))
            .then(board.is(OUT, true))
            .then(board.unplug())
            .then(Step::idle())
            // It would wait for an edge for a long time.
            .then(Step::kill())
            .then(Step::idle());
        host.play(scratch).map(drop)
    })
}
