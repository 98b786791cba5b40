// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drivers of the guest's kernel that use lines, as its device tree (`tests/guest/dts/gpio.dts`) says.

use crate::board::Board;
use crate::{Bench, Front, run};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use vu_e2e::guest::Guest;

const BOARD: &str = r#"
    lines = 4
    line.0.name = "button"
    line.1.name = "led"
    line.2.name = "low"
    line.3.name = "level"
"#;

/// The codes of two keys.
const BUTTON: u16 = 30;
const LEVEL: u16 = 48;

/// How long a key whose interrupt has gone counts as pressed.
const RELEASE: Duration = Duration::from_secs(1);

/// Runs a test with a guest that has the device tree.
fn with_device_tree(name: &str, test: impl FnOnce(&mut Guest, &mut Board) -> Result<()>) -> Result<()> {
    run(name, |scratch| {
        let bench = Bench::new(scratch, BOARD, &[])?;
        let guest = bench.uml()?.device_tree(&bench.lab.device_tree("gpio")?);
        let mut guest = guest.start(scratch)?;
        guest.event("ready")?;
        test(&mut guest, &mut bench.board()?)?;
        bench.close(guest, Front::Uml)
    })
}

/// Gives a line a level, by which one key must be pressed or released.
fn press(guest: &mut Guest, board: &mut Board, line: &str, key: u16, pressed: bool) -> Result<()> {
    guest.say("input,events=2")?;
    guest.event("reading")?;
    board.set(line, pressed)?;
    let found = guest.result("input")?;
    let expected = json!([[1, key, u8::from(pressed)], [0, 0, 0]]);
    ensure!(found["events"] == expected, "{line}: {found}");
    Ok(())
}

#[test]
fn keys() -> Result<()> {
    with_device_tree("consumers::keys", |guest, board| {
        for pressed in [true, false, true, false] {
            press(guest, board, "button", BUTTON, pressed)?;
        }
        Ok(())
    })
}

#[test]
fn level_interrupt_lasts_as_long_as_the_level() -> Result<()> {
    with_device_tree(
        "consumers::level_interrupt_lasts_as_long_as_the_level",
        |guest, board| {
            press(guest, board, "level", LEVEL, true)?;
            // Nothing but this button is heard of for longer than one interrupt counts.
            let start = Instant::now();
            while start.elapsed() < RELEASE * 3 {
                press(guest, board, "button", BUTTON, true)?;
                press(guest, board, "button", BUTTON, false)?;
            }
            press(guest, board, "level", LEVEL, false)
        },
    )
}

#[test]
fn lights() -> Result<()> {
    with_device_tree("consumers::lights", |guest, board| {
        // Lights are off at first: high is off where low is active.
        board.wait_for("1 led out 0")?;
        board.wait_for("2 low out 1")?;
        for level in [true, false, true] {
            for (light, line) in [("led", level), ("low", !level)] {
                guest.task(&format!("gpio,do=light,name={light},level={}", u8::from(level)))?;
                ensure!(board.level(light)? == line, "{light} is not {level}");
            }
        }
        let look = guest.task("gpio,do=look")?;
        let users: Vec<_> = (0..4).map(|line| &look["lines"][line]["consumer"]).collect();
        ensure!(users[..3] == ["button", "led", "low"], "consumers: {users:?}");
        Ok(())
    })
}
