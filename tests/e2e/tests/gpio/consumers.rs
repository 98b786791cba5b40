// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drivers of the guest's kernel that use lines, as its device tree (`tests/guest/dts/gpio.dts`) says.

use crate::board::Board;
use crate::{Bench, run};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use vu_e2e::front::{self, Front};
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
        let guest = front::uml(&bench.lab)?.device_tree(&bench.lab.device_tree("gpio")?);
        let mut guest = guest.start(scratch)?;
        guest.event("ready")?;
        test(&mut guest, &mut bench.board()?)?;
        bench.close(guest, Front::Uml)
    })
}

/// Gives a line a level, of which the guest must see that it has pressed or released a key.
fn press(guest: &mut Guest, board: &mut Board, line: &str, key: u16, pressed: bool) -> Result<()> {
    board.set(line, pressed)?;
    let found = guest.event("key")?;
    ensure!(
        found["code"] == key && found["pressed"] == pressed,
        "{line} {pressed}: {found}"
    );
    Ok(())
}

/// Has the guest tell of all keys, until one is released.
fn listen(guest: &mut Guest, until: u16) -> Result<()> {
    guest.say(&format!("gpio,do=keys,until={until}"))?;
    guest.event("armed").map(drop)
}

#[test]
fn keys() -> Result<()> {
    with_device_tree("consumers::keys", |guest, board| {
        for _ in 0..2 {
            listen(guest, BUTTON)?;
            press(guest, board, "button", BUTTON, true)?;
            press(guest, board, "button", BUTTON, false)?;
            guest.result("gpio")?;
        }
        Ok(())
    })
}

#[test]
fn level_interrupt_lasts_as_long_as_the_level() -> Result<()> {
    with_device_tree(
        "consumers::level_interrupt_lasts_as_long_as_the_level",
        |guest, board| {
            listen(guest, LEVEL)?;
            press(guest, board, "level", LEVEL, true)?;
            // Nothing but this button is heard of for longer than one interrupt counts.
            let start = Instant::now();
            while start.elapsed() < RELEASE * 3 {
                press(guest, board, "button", BUTTON, true)?;
                press(guest, board, "button", BUTTON, false)?;
            }
            press(guest, board, "level", LEVEL, false)?;
            guest.result("gpio").map(drop)
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
                // The kernel does it in the background.
                board.wait(light, line)?;
            }
        }
        let look = guest.task("gpio,do=look")?;
        let users: Vec<_> = (0..4).map(|line| &look["lines"][line]["consumer"]).collect();
        ensure!(users[..3] == ["button", "led", "low"], "consumers: {users:?}");
        Ok(())
    })
}
