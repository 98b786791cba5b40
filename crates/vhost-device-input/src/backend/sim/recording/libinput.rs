// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `libinput record` writes. It is YAML, of which that program uses little: each line is a key, a key with a list
//! of numbers, or an item; which section a line is in, its key says. So lines are read one at a time, without regard
//! to how far they are indented, and what is wrong has a line.

use super::{Draft, Lines, Recording, axis, decimal, ids, quoted, time};
use crate::request::Event;

/// The only version of the format.
const VERSION: &str = "1";

/// What the line at hand belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    /// `evdev`, what the device is.
    Device,
    /// `codes`, by type.
    Codes,
    /// `absinfo`, by axis.
    Axes,
    /// `evdev` among `events`.
    Events,
    /// Anything else, as `hid`, `udev`, and the events that libinput made of the device's.
    Other,
}

pub(super) fn parse(lines: &mut Lines<'_>, wanted: Option<usize>) -> Result<Recording, String> {
    let (mut draft, mut section) = (Draft::default(), Section::Other);
    let mut devices = 0;
    for raw in lines.by_ref() {
        if let Some(version) = raw.strip_prefix("version:")
            && without_comment(version).trim() != VERSION
        {
            return Err(format!(
                "version {} of the format is not known",
                quoted(version.trim())
            ));
        }
        let line = without_comment(raw).trim();
        if line.starts_with("- node:") {
            (devices, section) = (devices + 1, Section::Other);
            continue;
        }
        if devices == wanted.unwrap_or(1) && !line.is_empty() {
            section = take(&mut draft, section, line)?;
        }
    }
    match wanted {
        _ if devices == 0 => Err("the file ends, and has no device (`- node: ...`)".into()),
        None if devices > 1 => Err(format!(
            "there are {devices} devices: choose one by device=NUMBER"
        )),
        Some(number) if number == 0 || number > devices => {
            Err(format!("there is no device {number} among {devices}"))
        }
        _ => draft.finish(),
    }
}

/// Takes in a line; the section that the next one is in.
fn take(draft: &mut Draft, section: Section, line: &str) -> Result<Section, String> {
    if let Some(item) = line.strip_prefix("- ") {
        return match (section, item.trim()) {
            (_, "evdev:") => Ok(Section::Events),
            (Section::Events, item) if item.starts_with('[') => event(draft, item).map(|()| section),
            _ => Ok(Section::Other),
        };
    }
    let Some((key, value)) = line.split_once(':') else {
        return match section {
            Section::Other => Ok(section),
            _ => Err(format!("{} is neither a key nor an item", quoted(line))),
        };
    };
    let key = key.trim();
    match (section, key) {
        (_, "evdev") => Ok(Section::Device),
        (_, "events" | "hid" | "udev" | "quirks" | "libinput") | (Section::Other | Section::Events, _) => {
            Ok(Section::Other)
        }
        (_, "codes") => Ok(Section::Codes),
        (_, "absinfo") => Ok(Section::Axes),
        (_, "name") => {
            let name = value.trim();
            let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            quoted.unwrap_or(name).clone_into(&mut draft.name);
            Ok(Section::Device)
        }
        (_, "id") => {
            draft.ids = ids(numbers(value)?)?;
            Ok(Section::Device)
        }
        (_, "properties") => {
            draft.props = numbers(value)?;
            Ok(Section::Device)
        }
        (Section::Codes, kind) if is_number(kind) => {
            draft.has(decimal(kind)?, numbers(value)?);
            Ok(section)
        }
        (Section::Axes, code) if is_number(code) => {
            draft.axes.insert(decimal(code)?, axis(&numbers(value)?)?);
            Ok(section)
        }
        _ => Ok(Section::Device),
    }
}

/// `[seconds, microseconds, type, code, value]`.
fn event(draft: &mut Draft, item: &str) -> Result<(), String> {
    let [seconds, micros, kind, code, value] = numbers::<i64>(item)?[..] else {
        return Err("an event is [seconds, microseconds, type, code, value]".into());
    };
    let time = time(fit("time", seconds)?, fit("time", micros)?)?;
    let event = Event::new(fit("type", kind)?, fit("code", code)?, fit("value", value)?);
    draft.event(time, event)
}

fn fit<T: TryFrom<i64>>(what: &str, number: i64) -> Result<T, String> {
    let number_of_type = T::try_from(number).ok();
    number_of_type.ok_or_else(|| format!("{number} is no {what}"))
}

/// The numbers of a list as `[1, 2]`.
fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("{} is not a list of numbers", quoted(text)))?;
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    inner.split(',').map(decimal).collect()
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A line up to its comment, which begins with `#`, but not in a string nor in a word.
fn without_comment(line: &str) -> &str {
    let (mut quoted, mut spaced) = (false, true);
    for (at, character) in line.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '#' if !quoted && spaced => return &line[..at],
            _ => {}
        }
        spaced = character.is_whitespace();
    }
    line
}
