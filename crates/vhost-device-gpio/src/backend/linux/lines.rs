// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which lines of a chip a guest gets: `0-3,led,5/ro`.

use std::collections::HashSet;
use std::fmt;

/// Follows a line that the guest may only read.
const READ_ONLY: &str = "/ro";
/// Most lines of a device: `ngpio` is a `le16`.
const MAX_LINES: usize = u16::MAX as usize;

/// A line that a guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Its number on the chip.
    pub(crate) offset: u32,
    /// Its name, empty for none.
    pub(crate) name: String,
    /// The guest may not drive it.
    pub(crate) read_only: bool,
}

/// Why lines cannot be chosen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLines {
    /// The chip has none that is called so.
    #[error("no line {0:?} ({1})")]
    Unknown(String, There),
    /// The range ends before it begins.
    #[error("{0}: not a range of lines")]
    Range(String),
    /// Several lines have this name.
    #[error("{0:?} is the name of several lines: name one by its number ({1})")]
    Ambiguous(String, There),
    /// A line is named twice.
    #[error("line {0} is named twice")]
    Twice(u32),
    /// More than a device can have.
    #[error("{0} lines: a device has at most {MAX_LINES}")]
    Many(usize),
}

/// The lines of a chip, for a message.
#[derive(Debug, PartialEq, Eq)]
pub struct There(Vec<String>);

impl fmt::Display for There {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0 => return f.write_str("the chip has no lines"),
            1 => f.write_str("lines there: 0")?,
            count => write!(f, "lines there: 0-{}", count - 1)?,
        }
        for (offset, name) in self.0.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            write!(f, ", {offset} {name:?}")?;
        }
        Ok(())
    }
}

/// The lines that `list` names, in its order, of a chip whose lines have these names; without a list, all of them.
///
/// # Errors
/// [`BadLines`].
pub(crate) fn choose(list: Option<&str>, names: &[String]) -> Result<Vec<Chosen>, BadLines> {
    let (mut chosen, mut seen) = (Vec::new(), HashSet::new());
    let all = format!("0-{}", names.len().saturating_sub(1));
    for item in list.unwrap_or(&all).split(',') {
        let (item, read_only) = match item.strip_suffix(READ_ONLY) {
            Some(item) => (item, true),
            None => (item, false),
        };
        for offset in offsets(item, names)? {
            let name = usize::try_from(offset).ok().and_then(|at| names.get(at)).cloned();
            let name = name.ok_or_else(|| BadLines::Unknown(item.into(), There(names.into())))?;
            if !seen.insert(offset) {
                return Err(BadLines::Twice(offset));
            }
            chosen.push(Chosen {
                offset,
                name,
                read_only,
            });
        }
    }
    if chosen.len() > MAX_LINES {
        return Err(BadLines::Many(chosen.len()));
    }
    Ok(chosen)
}

/// The numbers that a number, a range or a name stands for. They may be too large.
fn offsets(item: &str, names: &[String]) -> Result<std::ops::RangeInclusive<u32>, BadLines> {
    if let Ok(offset) = item.parse() {
        return Ok(offset..=offset);
    }
    let range = item
        .split_once('-')
        .map(|(first, last)| (first.parse(), last.parse()));
    if let Some((Ok(first), Ok(last))) = range {
        return if first <= last {
            Ok(first..=last)
        } else {
            Err(BadLines::Range(item.into()))
        };
    }
    let mut called = (0..)
        .zip(names)
        .filter(|(_, name)| *name == item && !item.is_empty());
    match (called.next(), called.next()) {
        (Some((offset, _)), None) => Ok(offset..=offset),
        (Some(_), Some(_)) => Err(BadLines::Ambiguous(item.into(), There(names.into()))),
        (None, _) => Err(BadLines::Unknown(item.into(), There(names.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::{BadLines, choose};

    fn names() -> Vec<String> {
        ["", "led", "twin", "twin", "", "5-7", "red/ro"]
            .map(String::from)
            .into()
    }

    /// The number of each line, negative if it is read-only.
    fn offsets(list: &str) -> Result<Vec<i64>, BadLines> {
        let lines = choose(Some(list), &names())?;
        let sign = |read_only| if read_only { -1 } else { 1 };
        Ok(lines
            .iter()
            .map(|line| i64::from(line.offset) * sign(line.read_only))
            .collect())
    }

    fn message(list: &str) -> String {
        offsets(list).unwrap_err().to_string()
    }

    #[test]
    fn lines_have_numbers_ranges_and_names_in_any_order() {
        assert_eq!(offsets("5-6/ro,led,0,2-2"), Ok(vec![-5, -6, 1, 0, 2]));
        assert_eq!(offsets("led/ro"), Ok(vec![-1]));
        assert_eq!(choose(Some("led"), &names()).unwrap()[0].name, "led");
    }

    #[test]
    fn without_a_list_the_guest_gets_all_lines() {
        let all = choose(None, &names()).unwrap();
        assert_eq!(
            all.iter().map(|line| line.offset).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6]
        );
        assert!(all.iter().all(|line| !line.read_only));
    }

    #[test]
    fn who_names_no_line_is_told_what_there_is() {
        let there = r#"lines there: 0-6, 1 "led", 2 "twin", 3 "twin", 5 "5-7", 6 "red/ro""#;
        for (list, name) in [
            ("lid", "lid"),
            ("7", "7"),
            ("0,5-7/ro", "5-7"),
            ("", ""),
            ("0,,1", ""),
            ("red/ro", "red"),
        ] {
            assert_eq!(message(list), format!("no line {name:?} ({there})"));
        }
        assert_eq!(
            message("twin"),
            format!("\"twin\" is the name of several lines: name one by its number ({there})")
        );
        assert_eq!(
            choose(None, &[]).unwrap_err().to_string(),
            "no line \"0-0\" (the chip has no lines)"
        );
    }

    #[test]
    fn no_line_comes_twice_and_no_range_backwards() {
        assert_eq!(offsets("0-2,led"), Err(BadLines::Twice(1)));
        assert_eq!(offsets("3-1"), Err(BadLines::Range("3-1".into())));
    }

    #[test]
    fn a_device_has_no_more_lines_than_its_configuration_can_tell() {
        let lines = |count| choose(None, &vec![String::new(); count]).map(|lines| lines.len());
        assert_eq!(lines(300), Ok(300));
        assert_eq!(lines(65_536), Err(BadLines::Many(65_536)));
    }
}
