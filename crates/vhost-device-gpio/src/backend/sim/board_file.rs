// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Board files: TOML that says how the lines of a simulated chip are wired.
//!
//! ```toml
//! lines = 8                # number of lines; as many as are described if absent
//!
//! [line.0]
//! name = "button"
//! press-every-ms = 1000    # goes high, or low again, each time this has passed
//!
//! [line.1]
//! name = "led"
//! log = true               # its changes are logged
//!
//! [line.3]
//! follows = "led"          # as an input it has the level of that line, by number or name
//!
//! [line.4]
//! initial = 1              # as an input it is high until something changes it
//! ```

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::Wiring;

/// Most lines of a simulated chip; what the field `ngpio` can say is more than anybody looks at.
const MAX_LINES: usize = 1024;

/// Why a board cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not TOML.
    #[error("{0}")]
    Toml(PathBuf, #[source] toml::de::Error),
    /// A key that does not exist, or a value that its key does not take.
    #[error("{0}: {1}: {2}")]
    Key(PathBuf, String, &'static str),
    /// The number of lines.
    #[error("a simulated chip has 1 to {MAX_LINES} lines")]
    Lines,
}

/// `count` lines without names.
///
/// # Errors
/// [`BoardError::Lines`].
pub fn plain(count: usize) -> Result<Vec<Wiring>, BoardError> {
    if (1..=MAX_LINES).contains(&count) {
        Ok(vec![Wiring::default(); count])
    } else {
        Err(BoardError::Lines)
    }
}

/// The wiring that the file at `path` describes.
///
/// # Errors
/// [`BoardError`], with the path and the key.
pub fn load(path: &Path) -> Result<Vec<Wiring>, BoardError> {
    let text = fs::read_to_string(path).map_err(|e| BoardError::Read(path.into(), e))?;
    let table = text
        .parse::<Table>()
        .map_err(|e| BoardError::Toml(path.into(), e))?;
    parse(&table).map_err(|(key, what)| match what {
        Some(what) => BoardError::Key(path.into(), key, what),
        None => BoardError::Lines,
    })
}

type Fault = (String, Option<&'static str>);

fn fault(key: impl Into<String>, what: &'static str) -> Fault {
    (key.into(), Some(what))
}

fn parse(table: &Table) -> Result<Vec<Wiring>, Fault> {
    if let Some(key) = table
        .keys()
        .find(|key| !["lines", "line"].contains(&key.as_str()))
    {
        return Err(fault(key, "unknown key (known: lines, line.N)"));
    }
    let empty = Table::new();
    let described = match table.get("line") {
        None => &empty,
        Some(value) => value
            .as_table()
            .ok_or_else(|| fault("line", "is a table: [line.0]"))?,
    };
    let number = |key: &String| {
        let number = key.parse::<usize>().ok().filter(|number| *number < MAX_LINES);
        number.ok_or_else(|| fault(format!("line.{key}"), "is not the number of a line"))
    };
    let numbers = described.keys().map(number).collect::<Result<Vec<_>, _>>()?;
    let count = match table.get("lines") {
        None => numbers.iter().max().map_or(0, |last| last.saturating_add(1)),
        Some(value) => value
            .as_integer()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0),
    };
    let mut lines = plain(count).map_err(|_lines| (String::new(), None))?;
    let mut follows = Vec::new();
    for (number, (key, value)) in numbers.iter().zip(described) {
        let key = format!("line.{key}");
        let line = lines
            .get_mut(*number)
            .ok_or_else(|| fault(&key, "is beyond the last line"))?;
        let table = value.as_table().ok_or_else(|| fault(&key, "is a table"))?;
        for (name, value) in table {
            let key = format!("{key}.{name}");
            if name == "follows" {
                follows.push((*number, key, value));
            } else {
                set(line, name, value).map_err(|what| fault(key, what))?;
            }
        }
    }
    check_names(&lines)?;
    for (at, key, value) in follows {
        follow(&mut lines, at, value).map_err(|what| fault(key, what))?;
    }
    Ok(lines)
}

/// A line can be named by whoever needs it.
fn check_names(lines: &[Wiring]) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for (at, name) in lines.iter().map(|line| &line.name).enumerate() {
        let wrong = if name.is_empty() {
            continue;
        } else if name.parse::<usize>().is_ok() {
            "is the number of a line"
        } else if name.contains(char::is_whitespace) {
            "has no spaces"
        } else if !seen.insert(name) {
            "is the name of another line"
        } else {
            continue;
        };
        return Err(fault(format!("line.{at}.name"), wrong));
    }
    Ok(())
}

/// Wires line `at` to the one that `value` names.
fn follow(lines: &mut [Wiring], at: usize, value: &Value) -> Result<(), &'static str> {
    let source = find(lines, value).ok_or("names no line")?;
    if let Some(line) = lines.get_mut(at) {
        if line.press_every.is_some() {
            return Err("is set for a line that presses itself");
        }
        line.follows = Some(source);
    }
    if is_loop(lines, at) {
        return Err("closes a loop");
    }
    Ok(())
}

fn set(line: &mut Wiring, name: &str, value: &Value) -> Result<(), &'static str> {
    let level = || match value {
        Value::Integer(n @ 0..=1) => Some(*n == 1),
        Value::Boolean(level) => Some(*level),
        _ => None,
    };
    match name {
        "name" => line.name = value.as_str().ok_or("is a string")?.into(),
        "initial" => line.initial = level().ok_or("is 0 or 1")?,
        "log" => line.log = value.as_bool().ok_or("is true or false")?,
        "press-every-ms" => {
            let ms = value
                .as_integer()
                .and_then(|ms| u64::try_from(ms).ok())
                .filter(|ms| *ms > 0);
            line.press_every = Some(Duration::from_millis(ms.ok_or("is a number of milliseconds")?));
        }
        _ => return Err("unknown key (known: name, initial, follows, log, press-every-ms)"),
    }
    Ok(())
}

/// A line by number or name.
fn find(lines: &[Wiring], value: &Value) -> Option<usize> {
    match value {
        Value::Integer(number) => usize::try_from(*number)
            .ok()
            .filter(|number| *number < lines.len()),
        Value::String(name) => lines
            .iter()
            .position(|line| line.name == *name && !name.is_empty()),
        _ => None,
    }
}

fn is_loop(lines: &[Wiring], start: usize) -> bool {
    let mut at = start;
    for _ in 0..=lines.len() {
        match lines.get(at).and_then(|line| line.follows) {
            Some(next) => at = next,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Fault, Table, Wiring, parse};

    fn board(text: &str) -> Result<Vec<Wiring>, Fault> {
        parse(&text.parse::<Table>().unwrap())
    }

    #[test]
    fn a_board_has_the_wiring_that_its_file_describes() {
        let text = r#"
            lines = 6
            [line.0]
            name = "button"
            press-every-ms = 1500
            [line.1]
            name = "led"
            log = true
            [line.3]
            follows = "led"
            [line.4]
            follows = 3
            initial = 1
        "#;
        let line = Wiring::default;
        let expected = [
            Wiring {
                name: "button".into(),
                press_every: Some(Duration::from_millis(1500)),
                ..line()
            },
            Wiring {
                name: "led".into(),
                log: true,
                ..line()
            },
            line(),
            Wiring {
                follows: Some(1),
                ..line()
            },
            Wiring {
                follows: Some(3),
                initial: true,
                ..line()
            },
            line(),
        ];
        assert_eq!(board(text).unwrap(), expected);
        assert_eq!(board("[line.2]").unwrap(), [line(), line(), line()]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        for (text, key, what) in [
            ("pins = 3", "pins", "unknown key (known: lines, line.N)"),
            ("line = 3", "line", "is a table: [line.0]"),
            ("[line.x]", "line.x", "is not the number of a line"),
            ("[line.1024]", "line.1024", "is not the number of a line"),
            ("lines = 2\n[line.2]", "line.2", "is beyond the last line"),
            ("[line]\n0 = 1", "line.0", "is a table"),
            ("[line.0]\nname = 1", "line.0.name", "is a string"),
            ("[line.0]\nname = \"7\"", "line.0.name", "is the number of a line"),
            ("[line.0]\nname = \"a b\"", "line.0.name", "has no spaces"),
            (
                "[line]\n0.name = \"x\"\n1.name = \"x\"",
                "line.1.name",
                "is the name of another line",
            ),
            ("[line.0]\ninitial = 2", "line.0.initial", "is 0 or 1"),
            ("[line.0]\nlog = 1", "line.0.log", "is true or false"),
            (
                "[line.0]\npress-every-ms = 0",
                "line.0.press-every-ms",
                "is a number of milliseconds",
            ),
            ("[line.0]\nfollows = 1", "line.0.follows", "names no line"),
            ("[line.0]\nfollows = \"\"", "line.0.follows", "names no line"),
            ("[line.0]\nfollows = 0", "line.0.follows", "closes a loop"),
            (
                "[line]\n0.follows = 1\n1.follows = 0",
                "line.1.follows",
                "closes a loop",
            ),
            (
                "[line]\n0.press-every-ms = 9\n0.follows = 1\n1 = {}",
                "line.0.follows",
                "is set for a line that presses itself",
            ),
        ] {
            assert_eq!(board(text), Err((key.into(), Some(what))), "{text}");
        }
        for text in ["", "lines = 0", "lines = -1", "lines = 1025", "lines = \"8\""] {
            assert_eq!(board(text), Err((String::new(), None)), "{text}");
        }
    }
}
