// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `evemu-record` writes: a letter, a colon, numbers. Codes and bits are hexadecimal, values are not.
//!
//! | line | what it says |
//! |---|---|
//! | `N: NAME` | name |
//! | `I: BUS VENDOR PRODUCT VERSION` | numbers |
//! | `P: BYTE ...` | the next bytes of the properties' bits |
//! | `B: TYPE BYTE ...` | the next bytes of the bits of codes of a type; of type 0, the types |
//! | `A: AXIS MIN MAX FUZZ FLAT [RES]` | an axis |
//! | `L: LED STATE`, `S: SWITCH STATE` | how an LED and a switch were at first |
//! | `E: SEC.USEC TYPE CODE VALUE` | what happened |
//!
//! `#` begins a comment, but not in a name.

use std::collections::BTreeMap;

use super::{Draft, Lines, Recording, axis, decimal, ids, quoted, time};
use crate::request::Event;
use crate::spec::{EV_REP, EV_SW, EV_SYN};

/// Bytes of the longest set of bits: for codes below 1024.
const MAX_BYTES: usize = 128;

pub(super) fn parse(lines: &mut Lines<'_>) -> Result<Recording, String> {
    let mut draft = Draft::default();
    let mut bytes = Bytes::default();
    for line in lines.by_ref() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (letter, rest) = line.split_once(':').ok_or_else(|| unknown(line))?;
        if letter == "N" {
            rest.strip_prefix(' ').unwrap_or(rest).clone_into(&mut draft.name);
            continue;
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (letter, &words[..]) {
            ("I", _) => {
                let numbers = words.iter().map(|word| hexadecimal(word));
                draft.ids = ids(numbers.collect::<Result<_, _>>()?)?;
            }
            ("P", _) => {
                let codes = bytes.codes(None, &words)?;
                draft.props.extend(codes);
            }
            ("B", [kind, words @ ..]) => {
                let kind = hexadecimal(kind)?;
                let codes = bytes.codes(Some(kind), words)?;
                match kind {
                    // Repeats have a type, and no bits.
                    EV_SYN if codes.contains(&EV_REP) => draft.has(EV_REP, [0, 1]),
                    _ => draft.has(kind, codes),
                }
            }
            ("A", [code, words @ ..]) => {
                let numbers = words.iter().map(|word| decimal(word));
                let axis = axis(&numbers.collect::<Result<Vec<i32>, _>>()?)?;
                draft.axes.insert(hexadecimal(code)?, axis);
            }
            // The guest has its own mind about LEDs.
            ("L", [led, state]) => drop((hexadecimal(led)?, decimal::<i32>(state)?)),
            ("S", [switch, state]) => {
                let event = Event::new(EV_SW, hexadecimal(switch)?, decimal(state)?);
                draft.state.apply(event);
            }
            ("E", [at, kind, code, value]) => {
                let (seconds, micros) = at.split_once('.').ok_or_else(|| unknown(line))?;
                let event = Event::new(hexadecimal(kind)?, hexadecimal(code)?, decimal(value)?);
                draft.event(time(decimal(seconds)?, decimal(micros)?)?, event)?;
            }
            _ => return Err(unknown(line)),
        }
    }
    draft.finish()
}

fn unknown(line: &str) -> String {
    let line: String = line.chars().take(40).collect();
    format!(
        "{line:?} is no line of evemu (`N: NAME`, `E: SEC.USEC TYPE CODE VALUE`, ...) nor of libinput record"
    )
}

fn hexadecimal(text: &str) -> Result<u16, String> {
    let number = u16::from_str_radix(text, 16).ok();
    number.ok_or_else(|| format!("{} is not a hexadecimal number of 16 bits", quoted(text)))
}

/// How many bytes came of the codes of each type, and of the properties (`None`).
#[derive(Default)]
struct Bytes(BTreeMap<Option<u16>, usize>);

impl Bytes {
    /// The codes whose bits are set in the next bytes.
    fn codes(&mut self, kind: Option<u16>, words: &[&str]) -> Result<Vec<u16>, String> {
        let begin = self.0.entry(kind).or_default();
        let mut codes = Vec::new();
        for word in words {
            let byte = hexadecimal(word)?;
            if byte > 0xff {
                return Err(format!("{} is not a byte", quoted(word)));
            }
            if *begin >= MAX_BYTES {
                return Err(format!("more than {MAX_BYTES} bytes of bits"));
            }
            let first = *begin as u16 * 8;
            codes.extend((0..8).filter(|bit| byte & 1 << bit != 0).map(|bit| first + bit));
            *begin += 1;
        }
        Ok(codes)
    }
}
