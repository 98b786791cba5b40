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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        format!(
            "{:#}",
            bus(text).err().unwrap_or_else(|| panic!("{text} was taken"))
        )
    }

    #[test]
    fn every_kind() {
        let eeproms = ["01", "02", "04", "08", "16", "32", "64", "128", "256", "512"];
        let addresses = [1, 1, 2, 4, 8, 1, 1, 1, 1, 1];
        for (size, count) in eeproms.into_iter().zip(addresses) {
            let places = bus(&format!("24c{size}@0x50")).unwrap();
            assert_eq!(places[0].device.addresses(), count, "24c{size}");
        }
        let text =
            "24c02@0x50,lm75@72=-3.5,lm75@0x49,regs@0x20,nak@0x30,slow@0x31=100ms,slow@50=1s,regs@t0x150";
        let places = bus(text).unwrap();
        let addresses: Vec<_> = places.iter().map(|place| place.address).collect();
        let seven = [0x50, 72, 0x49, 0x20, 0x30, 0x31, 50].map(Address::Seven);
        assert_eq!(addresses[..7], seven);
        assert_eq!(addresses[7..], [Address::Ten(0x150)]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("", "sim: no device"),
            ("regs", "sim: \"regs\": a device is KIND@ADDRESS[=ARGUMENT]"),
            ("regs@0x20,", "sim: \"\": a device is KIND@ADDRESS[=ARGUMENT]"),
            (
                "tmp102@0x48",
                "sim: \"tmp102@0x48\": no such device: \"tmp102\" (there are 24c01 to",
            ),
            ("24c03@0x50", "no such device: \"24c03\""),
            ("regs@", "\"\" is not an address"),
            ("regs@0x80", "\"0x80\" is not an address"),
            ("regs@t0x400", "\"t0x400\" is not an address"),
            ("regs@0x07", "0x07 is reserved (devices have 0x08 to 0x77)"),
            ("regs@0x78", "0x78 is reserved"),
            (
                "24c04@0x51",
                "it has 2 addresses, so that the first cannot be 0x51",
            ),
            (
                "24c16@0x54",
                "it has 8 addresses, so that the first cannot be 0x54",
            ),
            (
                "regs@0x20,nak@32",
                "sim: \"nak@32\": 0x20 is taken by the device at 0x20",
            ),
            ("24c08@0x50,regs@0x53", "0x53 is taken by the device at 0x50"),
            (
                "regs@0x53,24c08@0x50",
                "sim: \"24c08@0x50\": 0x53 is taken by the device at 0x53",
            ),
            ("regs@t0x3f,nak@t63", "0x03f (10 bits) is taken"),
            ("regs@0x20=5", "regs takes no argument"),
            ("nak@0x20=", "nak takes no argument"),
            (
                "lm75@0x48=warm",
                "\"warm\" is not a temperature from -55 to 125 degrees",
            ),
            ("lm75@0x48=126", "\"126\" is not a temperature"),
            ("lm75@0x48=NaN", "\"NaN\" is not a temperature"),
            ("lm75@0x48=", "\"\" is not a temperature"),
            ("slow@0x31", "how long does it stretch the clock?"),
            ("slow@0x31=100", "\"100\" is not a time of at most a minute"),
            ("slow@0x31=61s", "\"61s\" is not a time of at most a minute"),
            (
                "slow@0x31=99999999999999999999s",
                "is not a time of at most a minute",
            ),
            ("24c02@0x50=", "the name of the file is empty"),
            (
                "24c02@0x50=/nowhere/rom",
                "/nowhere/rom: No such file or directory",
            ),
        ];
        for (text, error) in table {
            let said = refused(text);
            assert!(said.contains(error), "{text}: {said}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(stretch("250us").unwrap(), Duration::from_micros(250));
        assert_eq!(stretch("100ms").unwrap(), Duration::from_millis(100));
        assert_eq!(stretch("60s").unwrap(), Duration::from_secs(60));
    }
}
