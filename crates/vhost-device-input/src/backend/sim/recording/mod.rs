// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recordings of devices: what they are, and what happened at them, when. Read from what `evemu-record` and
//! `libinput record` write.
//!
//! | file | what it answers |
//! |---|---|
//! | `evemu.rs` | lines of the one |
//! | `libinput.rs` | lines of the other |

mod evemu;
mod libinput;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use crate::backend::frames::{Completed, Frames};
use crate::config::{Axis, Bits, Description};
use crate::request::Event;
use crate::spec::{EV_ABS, EV_KEY, EV_LED, EV_MSC, EV_REL, EV_REP, EV_SND, EV_SW};
use crate::state::State;

/// Types of events that a guest can be given, or can give.
const KINDS: [u16; 8] = [EV_KEY, EV_REL, EV_ABS, EV_MSC, EV_SW, EV_LED, EV_SND, EV_REP];

/// A device, and what happened at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// What it is and can do.
    pub description: Description,
    /// How its switches were at first.
    pub state: State,
    /// Frames without their ends, and when each happened after the first one; never earlier than the one before.
    pub frames: Vec<(Duration, Vec<Event>)>,
}

/// A file that is no recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadRecording {
    /// Where it was noticed, from 1 on.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl Recording {
    /// Reads a recording from a file, of several devices the one with number `device`, from 1 on.
    ///
    /// # Errors
    /// What the host refused, or [`BadRecording`].
    pub fn read(path: &Path, device: Option<usize>) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let parsed = Self::parse(&String::from_utf8_lossy(&bytes), device);
        parsed.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))
    }

    /// Takes a recording from the text of a file, of several devices the one with number `device`, from 1 on.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, device: Option<usize>) -> Result<Self, BadRecording> {
        let mut lines = Lines::new(text);
        let what = if lines.is_libinput() {
            libinput::parse(&mut lines, device)
        } else if device.is_some_and(|number| number != 1) {
            Err("a recording of evemu has one device".into())
        } else {
            evemu::parse(&mut lines)
        };
        what.map_err(|what| BadRecording {
            line: lines.number.max(1),
            what,
        })
    }
}

/// The lines of a file, counted.
struct Lines<'a> {
    lines: std::str::Lines<'a>,
    /// Of the line that was taken last, from 1 on.
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            lines: text.lines(),
            number: 0,
        }
    }

    /// Whether the first line that says something is one of `libinput record`.
    fn is_libinput(&self) -> bool {
        let mut lines = self.lines.clone();
        let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
        first.is_some_and(|line| {
            let keys = ["version:", "ndevices:", "libinput:", "system:", "devices:"];
            keys.iter().any(|key| line.starts_with(key))
        })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let line = self.lines.next()?;
        self.number += 1;
        Some(line)
    }
}

/// A recording of which a part was read.
#[derive(Default)]
struct Draft {
    name: String,
    ids: [u16; 4],
    props: Vec<u16>,
    codes: BTreeMap<u16, Vec<u16>>,
    axes: BTreeMap<u16, Axis>,
    state: State,
    /// There from the first event on.
    events: Option<Events>,
}

struct Events {
    description: Description,
    frames: Frames,
    /// When the first frame happened.
    first: Option<Duration>,
    done: Vec<(Duration, Vec<Event>)>,
}

impl Draft {
    /// Notes that the device has these codes of a type.
    fn has(&mut self, kind: u16, codes: impl IntoIterator<Item = u16>) {
        if KINDS.contains(&kind) {
            self.codes.entry(kind).or_default().extend(codes);
        }
    }

    fn description(&self) -> Description {
        let codes = self.codes.iter().filter(|(_, codes)| !codes.is_empty());
        Description {
            name: self.name.clone().into(),
            serial: Vec::new(),
            ids: self.ids,
            props: self.props.iter().copied().collect(),
            codes: codes
                .map(|(kind, codes)| (*kind, codes.iter().copied().collect::<Bits>()))
                .collect(),
            axes: self.axes.clone(),
        }
    }

    /// Adds what happened at a time.
    fn event(&mut self, time: Duration, event: Event) -> Result<(), String> {
        if self.events.is_none() {
            let description = self.description();
            self.events = Some(Events {
                frames: Frames::new(description.codes.contains_key(&EV_REP)),
                description,
                first: None,
                done: Vec::new(),
            });
        }
        let events = self.events.as_mut().expect("it was made above");
        let Event { kind, code, .. } = event;
        if KINDS.contains(&kind) && !events.description.has(kind, code) {
            return Err(format!("the device has no code {code} of type {kind}"));
        }
        if let Some(Completed::Frame(frame)) = events.frames.push(event)
            && !frame.is_empty()
        {
            let first = *events.first.get_or_insert(time);
            let last = events.done.last().map_or(Duration::ZERO, |(time, _)| *time);
            let time = time.saturating_sub(first).max(last);
            events.done.push((time, frame));
        }
        Ok(())
    }

    /// The whole, when all was read.
    fn finish(self) -> Result<Recording, String> {
        let description = self.description();
        if description.codes.is_empty() {
            return Err("the file ends, and there is no device in it that can do something".into());
        }
        Ok(Recording {
            description,
            state: self.state,
            frames: self.events.map_or_else(Vec::new, |events| events.done),
        })
    }
}

/// A time of a recording.
fn time(seconds: u64, micros: u32) -> Result<Duration, String> {
    let time = micros.checked_mul(1000).filter(|nanos| *nanos < 1_000_000_000);
    let time = time.map(|nanos| Duration::new(seconds, nanos));
    time.ok_or_else(|| format!("{micros} microseconds are a second or more"))
}

/// The beginning of what was not understood, fit for a message.
fn quoted(text: &str) -> String {
    let begin: String = text.chars().take(40).collect();
    format!("{begin:?}")
}

/// A number in decimal notation.
fn decimal<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let text = text.trim();
    let number = text.parse().ok();
    number.ok_or_else(|| format!("{} is not a number that fits", quoted(text)))
}

/// Bus, vendor, product and version.
fn ids(numbers: Vec<u16>) -> Result<[u16; 4], String> {
    let ids = numbers.try_into().ok();
    ids.ok_or_else(|| "an identity is bus, vendor, product and version".into())
}

/// The range of an axis: least and greatest value, fuzz, flat, and resolution if it is known.
fn axis(numbers: &[i32]) -> Result<Axis, String> {
    let (&[min, max, fuzz, flat], res) = numbers
        .split_first_chunk()
        .ok_or("an axis has a least and a greatest value, fuzz and flat")?;
    match *res {
        [] | [_] => Ok(Axis {
            min,
            max,
            fuzz,
            flat,
            res: res.first().copied().unwrap_or(0),
        }),
        _ => Err("an axis has five numbers".into()),
    }
}

#[cfg(test)]
mod tests;
