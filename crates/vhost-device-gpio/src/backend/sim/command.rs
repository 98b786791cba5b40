// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands by which a script plays the world around a simulated board.
//!
//! | command | answer |
//! |---|---|
//! | `set LINE 0` or `set LINE 1` | `ok`; the level of the line while nothing else drives it |
//! | `toggle LINE` | `ok` |
//! | `get LINE` | `0` or `1`: the level that a probe would show |
//! | `lines` | one line each: number, name, direction, level; then `ok` |
//! | `watch` | `ok`, and from then on `LINE LEVEL` for each change, LINE being the number |
//!
//! LINE is a number or a name. What is not understood is answered with `error: ...`.

use serde_json::{Value, json};

use super::Board;
use crate::request::Direction;

const KNOWN: &str = "commands are: set LINE 0|1, toggle LINE, get LINE, lines, watch";

/// A line that a board does not have, by what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("no line {0}")]
pub struct NoSuchLine(String);

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// To be answered so.
    Answer(String),
    /// Whoever sent it wants to know of changes.
    Watch,
}

impl Board {
    /// Carries out one command.
    pub(super) fn command(&self, text: &str) -> Outcome {
        let words: Vec<&str> = text.split_whitespace().collect();
        let result = match words[..] {
            ["set", line, level @ ("0" | "1")] => self.set(line, level == "1").map(|()| "ok".into()),
            ["toggle", line] => self.set_outside(line, |level| !level).map(|()| "ok".into()),
            ["get", line] => self
                .find(line)
                .map(|at| u8::from(self.lock().level(at)).to_string()),
            ["lines"] => Ok(self.list()),
            ["watch"] => return Outcome::Watch,
            _ => Ok(format!("error: {KNOWN}")),
        };
        Outcome::Answer(result.unwrap_or_else(|what| format!("error: {what}")))
    }

    /// Sets the level of a line, by number or name, while nothing else drives it.
    ///
    /// # Errors
    /// There is no such line.
    pub fn set(&self, line: &str, level: bool) -> Result<(), NoSuchLine> {
        self.set_outside(line, |_| level)
    }

    fn set_outside(&self, line: &str, level: impl FnOnce(bool) -> bool) -> Result<(), NoSuchLine> {
        let at = self.find(line)?;
        self.change(|state| {
            if let Some(line) = state.lines.get_mut(at) {
                line.outside = level(line.outside);
            }
        });
        Ok(())
    }

    fn find(&self, line: &str) -> Result<usize, NoSuchLine> {
        let state = self.lock();
        let found = match line.parse() {
            Ok(number) => Some(number).filter(|number| *number < state.lines.len()),
            Err(_) => state.lines.iter().position(|known| known.wiring.name == line),
        };
        found.ok_or_else(|| NoSuchLine(line.into()))
    }

    fn list(&self) -> String {
        let mut answer = String::new();
        self.each(|at, name, direction, level| {
            let name = if name.is_empty() { "-" } else { name };
            answer.push_str(&format!("{at} {name} {direction} {level}\n"));
        });
        answer.push_str("ok");
        answer
    }

    /// The lines as JSON: an array of objects with `line`, `name`, `direction` (`in`, `out` or `unused`) and `value`.
    pub fn describe(&self) -> Value {
        let mut lines = Vec::new();
        self.each(|at, name, direction, level| {
            lines.push(json!({"line": at, "name": name, "direction": direction, "value": level}));
        });
        lines.into()
    }

    /// Tells number, name, direction and level of each line.
    fn each(&self, mut tell: impl FnMut(usize, &str, &str, u8)) {
        let state = self.lock();
        for (at, line) in state.lines.iter().enumerate() {
            let direction = match line.direction {
                None => "unused",
                Some(Direction::In) => "in",
                Some(Direction::Out) => "out",
            };
            tell(at, &line.wiring.name, direction, u8::from(state.level(at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Board, KNOWN, Outcome};
    use crate::backend::sim::Wiring;
    use crate::request::{Direction, Line};

    #[test]
    fn a_script_plays_the_world() {
        let button = Wiring {
            name: "button".into(),
            ..Wiring::default()
        };
        let board = Board::new(vec![button, Wiring::default()]).unwrap();
        let mut chip = board.chip();
        chip.set_direction(Line::new(1, 2).unwrap(), Direction::Out, true)
            .unwrap();
        for (command, answer) in [
            ("get button", "0"),
            ("set button 1", "ok"),
            (" get  0\r", "1"),
            ("toggle 0", "ok"),
            ("get 0", "0"),
            ("set 1 0", "ok"),
            ("get 1", "1"),
            ("lines", "0 button unused 0\n1 - out 1\nok"),
            ("get 2", "error: no line 2"),
            ("toggle led", "error: no line led"),
            ("set 0 2", &format!("error: {KNOWN}")),
            ("set 0", &format!("error: {KNOWN}")),
            ("", &format!("error: {KNOWN}")),
        ] {
            assert_eq!(
                board.command(command),
                Outcome::Answer(answer.into()),
                "{command}"
            );
        }
        assert_eq!(board.command("watch\n"), Outcome::Watch);
    }
}
