// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines as programs of a guest use them, by whatever front end.

use crate::board::Board;
use crate::{Bench, GPIO, run};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vu_e2e::front::Front;
use vu_e2e::guest::Guest;
use vu_e2e::qmp::Qmp;

/// Line 3 is wired to the LED, and line 4 is high.
const BOARD: &str = r#"
    lines = 6
    line.0.name = "button"
    line.1.name = "led"
    line.2.name = "stop"
    line.3.follows = "led"
    line.4.initial = 1
"#;

fn names(look: &Value) -> Vec<&str> {
    let lines = look["lines"].as_array().into_iter().flatten();
    lines.filter_map(|line| line["name"].as_str()).collect()
}

/// Names, levels, directions, and the edges of each kind.
fn all_of_it(front: Front, name: &str) -> Result<()> {
    run(name, |scratch| {
        let bench = Bench::new(scratch, BOARD, &[])?;
        let mut guest = bench.guest(front)?;
        let mut board = bench.board()?;
        names_and_levels(&mut guest)?;
        outputs(&mut guest, &mut board)?;
        edges(&mut guest, &mut board)?;
        bench.close(guest, front)
    })
}

fn names_and_levels(guest: &mut Guest) -> Result<()> {
    let look = guest.task("gpio,do=look")?;
    ensure!(
        names(&look) == ["button", "led", "stop", "", "", ""],
        "lines: {look}"
    );
    for (line, level) in [(0, 0), (4, 1)] {
        let found = guest.task(&format!("gpio,do=get,line={line}"))?;
        ensure!(found["level"] == level, "line {line}: {found}");
    }
    Ok(())
}

fn outputs(guest: &mut Guest, board: &mut Board) -> Result<()> {
    for level in [1, 0] {
        guest.say(&format!("gpio,do=set,line=1,level={level},stop=2"))?;
        guest.event("armed")?;
        let lines = board.lines()?;
        ensure!(lines[1] == format!("1 led out {level}"), "lines: {lines:?}");
        ensure!(lines[2].starts_with("2 stop in"), "lines: {lines:?}");
        board.set("stop", level == 1)?;
        guest.result("gpio")?;
        board.wait_for("1 led unused 0")?;
    }
    // The wire to the LED.
    guest.say("gpio,do=follow,in=3,out=5,stop=2")?;
    guest.event("armed")?;
    board.set("led", true)?;
    board.wait("5", true)?;
    board.set("led", false)?;
    board.wait("5", false)?;
    board.set("stop", true)?;
    let followed = guest.result("gpio")?;
    ensure!(followed["edges"] == 2, "{followed}");
    board.set("stop", false)
}

/// Each edge is only made when the one before has come to the guest: others may be latched as one.
fn edges(guest: &mut Guest, board: &mut Board) -> Result<()> {
    for (kind, expected) in [
        ("rising", ["rising", "rising"]),
        ("falling", ["falling", "falling"]),
        ("both", ["rising", "falling"]),
    ] {
        guest.say(&format!("gpio,do=watch,line=0,edge={kind},count=2"))?;
        guest.event("armed")?;
        for edge in expected {
            if kind != "both" {
                board.set("button", edge == "falling")?;
            }
            board.set("button", edge == "rising")?;
            ensure!(guest.event("edge")?["kind"] == edge, "{kind}: not {edge}");
        }
        let found = guest.result("gpio")?;
        ensure!(found["edges"] == json!(expected), "{kind}: {found}");
        board.set("button", false)?;
    }
    Ok(())
}

#[test]
fn uml() -> Result<()> {
    all_of_it(Front::Uml, "lines::uml")
}

#[test]
fn qemu_pci() -> Result<()> {
    all_of_it(Front::Pci, "lines::qemu_pci")
}

#[test]
fn qemu_mmio() -> Result<()> {
    all_of_it(Front::Mmio, "lines::qemu_mmio")
}

#[test]
fn qemu_generic_device() -> Result<()> {
    all_of_it(Front::Generic, "lines::qemu_generic_device")
}

#[test]
fn two_chips_of_one_daemon() -> Result<()> {
    run("lines::two_chips_of_one_daemon", |scratch| {
        let (socket, commands) = (scratch.path("second.sock"), scratch.path("second-board.sock"));
        let more = [
            "--socket-path",
            socket.to_str().context("path")?,
            "--chip",
            "sim:2",
            "--sim-socket",
            commands.to_str().context("path")?,
        ];
        let bench = Bench::new(scratch, BOARD, &more)?;
        let mut guest = bench.qemu()?.device(&GPIO.pci(), &socket).start(scratch)?;
        guest.event("ready")?;
        let sizes = [0, 1].map(|chip| {
            let look = guest.task(&format!("gpio,do=look,chip=/dev/gpiochip{chip}"))?;
            Ok::<_, anyhow::Error>(names(&look).len())
        });
        let [first, second] = sizes;
        ensure!([first?, second?] == [6, 2], "other chips");
        let (mut one, mut other) = (bench.board()?, Board::at(&commands)?);
        guest.say("gpio,do=follow,chip=/dev/gpiochip1,in=0,out=1,count=1")?;
        guest.event("armed")?;
        one.set("0", true)?;
        ensure!(!other.level("1")?, "the first board has changed the second one");
        other.set("0", true)?;
        let followed = guest.result("gpio")?;
        ensure!(followed["level"] == 1, "{followed}");
        ensure!(
            !one.level("1")?,
            "the second chip's output went to the first board"
        );
        bench.close(guest, Front::Pci)
    })
}

#[test]
fn guest_reboots_itself() -> Result<()> {
    run("lines::guest_reboots_itself", |scratch| {
        let bench = Bench::new(scratch, BOARD, &[])?;
        let monitor = scratch.path("qmp");
        let mut guest = bench.qemu()?.reboots().qmp(&monitor).start(scratch)?;
        let mut board = bench.board()?;
        for _ in 0..2 {
            guest.event("ready")?;
            edges(&mut guest, &mut board)?;
            guest.say("reboot")?;
        }
        guest.event("ready")?;
        edges(&mut guest, &mut board)?;
        Qmp::connect(&monitor)?.execute("quit")?;
        guest.finish()
    })
}

#[test]
fn guest_under_uml_reboots_itself() -> Result<()> {
    run("lines::guest_under_uml_reboots_itself", |scratch| {
        let bench = Bench::new(scratch, BOARD, &[])?;
        let mut guest = bench.guest(Front::Uml)?;
        let mut board = bench.board()?;
        edges(&mut guest, &mut board)?;
        guest.say("reboot")?;
        guest.event("ready")?;
        outputs(&mut guest, &mut board)?;
        edges(&mut guest, &mut board)?;
        bench.close(guest, Front::Uml)
    })
}

#[test]
fn machine_is_reset_while_its_guest_waits_for_an_edge() -> Result<()> {
    run(
        "lines::machine_is_reset_while_its_guest_waits_for_an_edge",
        |scratch| {
            let bench = Bench::new(scratch, BOARD, &[])?;
            let monitor = scratch.path("qmp");
            let mut guest = bench.qemu()?.reboots().qmp(&monitor).start(scratch)?;
            let mut board = bench.board()?;
            guest.event("ready")?;
            guest.say("gpio,do=follow,in=0,out=1,stop=2")?;
            guest.event("armed")?;
            board.set("button", true)?;
            board.wait("led", true)?;
            Qmp::connect(&monitor)?.execute("system_reset")?;
            guest.event("ready")?;
            board.set("button", false)?;
            outputs(&mut guest, &mut board)?;
            edges(&mut guest, &mut board)?;
            bench.close(guest, Front::Pci)
        },
    )
}

/// A guest that drives the LED and waits for an edge is killed. What becomes of the lines?
fn guest_is_killed(name: &str, args: &[&str], led: &str) -> Result<()> {
    run(name, |scratch| {
        let bench = Bench::new(scratch, BOARD, args)?;
        let mut guest = bench.guest(Front::Uml)?;
        let mut board = bench.board()?;
        guest.say("gpio,do=set,line=1,level=1,stop=2")?;
        guest.event("armed")?;
        drop(guest);
        board.wait_for(led)?;
        // The next one finds a board that works, whatever is left of the one before.
        let mut guest = bench.guest(Front::Uml)?;
        outputs(&mut guest, &mut board)?;
        bench.close(guest, Front::Uml)
    })
}

#[test]
fn lines_of_a_guest_that_is_killed_are_let_go() -> Result<()> {
    let name = "lines::lines_of_a_guest_that_is_killed_are_let_go";
    guest_is_killed(name, &[], "1 led unused 0")
}

#[test]
fn lines_of_a_guest_that_is_killed_are_kept() -> Result<()> {
    let name = "lines::lines_of_a_guest_that_is_killed_are_kept";
    guest_is_killed(name, &["--on-disconnect", "keep"], "1 led out 1")
}

#[test]
fn one_daemon_serves_one_guest_after_the_other() -> Result<()> {
    run("lines::one_daemon_serves_one_guest_after_the_other", |scratch| {
        let bench = Bench::new(scratch, BOARD, &[])?;
        let mut board = bench.board()?;
        for front in [Front::Uml, Front::Pci] {
            let mut guest = bench.guest(front)?;
            edges(&mut guest, &mut board)?;
            front.end(guest)?;
        }
        bench.daemon.terminate().map(drop)
    })
}
