// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The text that describes a simulated bus: `KIND@ADDRESS[=ARGUMENT],..`.
//!
//! | device | what it is |
//! |---|---|
//! | `24c02@0x50=FILE` | EEPROM, 24c01 to 24c512, kept in a file if one is given |
//! | `lm75@0x48=23.5` | temperature sensor, with the degrees that it measures; 25 if they are not given |
//! | `regs@0x20` | 256 registers |
//! | `nak@0x30` | does not acknowledge |
//! | `slow@0x31=100ms` | 256 registers that stretch the clock that long for each message |

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::eeprom::{Eeprom, Model};
use super::image::Image;
use super::lm75::{self, Lm75};
use super::nak::Nak;
use super::regs::Regs;
use super::slow::Slow;
use super::{Address, Device, Place};

/// The seven-bit addresses that the bus does not need for itself.
const FREE: std::ops::RangeInclusive<u16> = 0x08..=0x77;
const TEN: std::ops::RangeInclusive<u16> = 0..=0x3ff;
/// The longest stretch of the clock: a bus that is held for longer is a mistake of who wrote it.
const MAX_STRETCH: Duration = Duration::from_secs(60);

/// The devices that `text` describes.
pub(super) fn bus(text: &str) -> Result<Vec<Place>> {
    ensure!(
        !text.is_empty(),
        "sim: no device (as in sim:24c02@0x50,lm75@0x48=23.5)"
    );
    let mut places: Vec<Place> = Vec::new();
    for text in text.split(',') {
        let place = place(text).with_context(|| format!("sim: {text:?}"))?;
        for at in addresses(&place) {
            if let Some(other) = places.iter().find(|other| other.nth(at).is_some()) {
                bail!("sim: {text:?}: {at} is taken by the device at {}", other.address);
            }
        }
        places.push(place);
    }
    Ok(places)
}

fn place(text: &str) -> Result<Place> {
    let (kind, rest) = text
        .split_once('@')
        .context("a device is KIND@ADDRESS[=ARGUMENT], as lm75@0x48=23.5")?;
    let (address, argument) = match rest.split_once('=') {
        Some((address, argument)) => (address, Some(argument)),
        None => (rest, None),
    };
    let address = address.parse()?;
    let device = device(kind, argument)?;
    let place = Place { address, device };
    check(&place)?;
    Ok(place)
}

fn device(kind: &str, argument: Option<&str>) -> Result<Box<dyn Device>> {
    if let Some(model) = Model::named(kind) {
        let image = match argument {
            Some("") => bail!("the name of the file is empty"),
            Some(path) => Image::open(Path::new(path), model.size)?,
            None => Image::in_memory(model.size),
        };
        return Ok(Box::new(Eeprom::new(model, image)));
    }
    match (kind, argument) {
        ("lm75", degrees) => Ok(Box::new(Lm75::new(temperature(degrees.unwrap_or("25"))?))),
        ("slow", Some(time)) => Ok(Box::new(Slow::new(stretch(time)?))),
        ("slow", None) => bail!("how long does it stretch the clock? (as in slow@0x31=100ms)"),
        ("regs" | "nak", Some(_)) => bail!("{kind} takes no argument"),
        ("regs", None) => Ok(Box::new(Regs::new())),
        ("nak", None) => Ok(Box::new(Nak)),
        _ => bail!("no such device: {kind:?} (there are 24c01 to 24c512, lm75, regs, nak, slow)"),
    }
}

fn temperature(text: &str) -> Result<f32> {
    let degrees = text.parse().ok().filter(|degrees| lm75::RANGE.contains(degrees));
    degrees.with_context(|| format!("{text:?} is not a temperature from -55 to 125 degrees"))
}

fn stretch(text: &str) -> Result<Duration> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let mut parsed = units.iter().filter_map(|(unit, micros)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*micros).map(Duration::from_micros)
    });
    let time = parsed.next().filter(|time| *time <= MAX_STRETCH);
    time.ok_or_else(|| anyhow!("{text:?} is not a time of at most a minute, as 100ms"))
}

/// All addresses of a device.
fn addresses(place: &Place) -> impl Iterator<Item = Address> {
    let first = place.address;
    (0..place.device.addresses()).map(move |nth| match first {
        Address::Seven(first) => Address::Seven(first.saturating_add(u8::try_from(nth).unwrap_or(u8::MAX))),
        Address::Ten(first) => Address::Ten(first.saturating_add(nth)),
    })
}

/// Whether the device can be where it is to be.
fn check(place: &Place) -> Result<()> {
    let count = place.device.addresses();
    let (first, room) = match place.address {
        Address::Seven(first) => (u16::from(first), FREE),
        Address::Ten(first) => (first, TEN),
    };
    let at = place.address;
    ensure!(
        room.contains(&first),
        "{at} is reserved (devices have 0x08 to 0x77)"
    );
    // The lower bits of the address are a part of what is to be read or written.
    ensure!(
        first.is_multiple_of(count),
        "it has {count} addresses, so that the first cannot be {at}"
    );
    Ok(())
}
