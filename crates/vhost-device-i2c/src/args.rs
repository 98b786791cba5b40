// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-i2c`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use vu_common::CommonArgs;

use crate::allow::{AllowList, ListError};
use crate::backend;
use crate::device::{I2c, Limits};

/// Serves a virtio I2C adapter to virtual machines over vhost-user.
///
/// Each socket is one adapter for one guest; the buses pair with the sockets in their order.
#[derive(Debug, clap::Parser)]
#[command(name = "vhost-device-i2c", version)]
pub struct I2cArgs {
    /// The options that every device has.
    #[command(flatten)]
    pub common: CommonArgs,

    /// The bus of a guest, and what it may talk to there: NAME[:ADDR,..] or sim:DEV,..[:ADDR,..]
    ///
    /// A bus of the host is given as i2c-1, 1, /dev/i2c-1 or by the name of its adapter. ADDR is an address
    /// of 7 bits as 0x50 or 80, one of 10 bits as t0x150, or a range as 0x50-0x57; without any, the guest may talk
    /// to the whole bus.
    ///
    /// `sim:` is a simulated bus with devices KIND@ADDR[=ARG]: 24c02@0x50=FILE (24c01 to 24c512; FILE keeps the
    /// contents), lm75@0x48=23.5 (degrees), regs@0x20 (256 registers), nak@0x30 (never acknowledges),
    /// slow@0x31=100ms (stretches the clock).
    #[arg(short, long = "bus", value_name = "BUS", required = true)]
    pub buses: Vec<BusSource>,

    /// Give a request up after MS milliseconds without an answer of its bus
    ///
    /// The guest gets an error, and the daemon goes on. The time that the bytes themselves take at 100 kHz is added.
    #[arg(long, value_name = "MS", default_value = "1000")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=20_000))]
    timeout: u16,

    /// Most bytes of a message; those of the adapters' drivers may be lower
    #[arg(long, value_name = "BYTES", default_value = "8192")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    max_message: u16,
}

impl I2cArgs {
    /// Opens the buses, in the order of the options.
    ///
    /// Each guest has its bus for itself, as far as we go: what one says to it is not seen by the others, and
    /// the host lets them in by turns. That two may talk to the same device can be meant, so it is only logged.
    ///
    /// # Errors
    /// What cannot be opened, with its name.
    pub fn open(&self) -> anyhow::Result<Vec<I2c>> {
        let limits = self.limits();
        let mut shared: Vec<(String, &AllowList)> = Vec::new();
        let mut devices = Vec::new();
        for BusSource { place, allowed } in &self.buses {
            let bus = backend::open(place, limits.timeout)?;
            let name = bus.name();
            if let BusPlace::Host(_) = place {
                let common = |(other, list): &(String, &AllowList)| {
                    (*other == name).then(|| list.overlap(allowed)).flatten()
                };
                if let Some(address) = shared.iter().find_map(common) {
                    log::warn!("{name}: several guests may talk to {address}, and maybe more");
                }
                shared.push((name.clone(), allowed));
            }
            devices.push(I2c::new(bus, allowed.clone(), limits).context(name)?);
        }
        Ok(devices)
    }

    /// What every guest is held to.
    pub fn limits(&self) -> Limits {
        Limits {
            timeout: Duration::from_millis(self.timeout.into()),
            max_message: self.max_message.into(),
        }
    }
}

impl AsRef<CommonArgs> for I2cArgs {
    fn as_ref(&self) -> &CommonArgs {
        &self.common
    }
}

/// The value of `--bus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusSource {
    /// Which bus.
    pub place: BusPlace,
    /// What the guest may talk to on it.
    pub allowed: AllowList,
}

/// Where a bus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusPlace {
    /// A bus of the host: its number, its device, or the name of its adapter.
    Host(String),
    /// A simulated bus: its devices.
    Sim(String),
}

/// A value of `--bus` that names no bus.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No bus at all.
    #[error("no such bus (known: NAME[:ADDR,..], sim:DEV,..[:ADDR,..])")]
    Empty,
    /// What follows the last colon.
    #[error(transparent)]
    List(#[from] ListError),
}

impl FromStr for BusSource {
    type Err = SourceError;

    fn from_str(value: &str) -> Result<Self, SourceError> {
        let (place, allowed) = split_list(value)?;
        let place = match place.strip_prefix("sim:") {
            Some(devices) => BusPlace::Sim(devices.to_owned()),
            None if place.is_empty() || place == "sim" => return Err(SourceError::Empty),
            None => BusPlace::Host(place.to_owned()),
        };
        let allowed = allowed.unwrap_or_else(AllowList::all);
        Ok(Self { place, allowed })
    }
}

/// Takes the list of addresses off the end. A colon may also be a part of an adapter's name, as in `NVIDIA i2c
/// adapter 1 at 1:00.0`, or of a file's: then no list follows it.
fn split_list(value: &str) -> Result<(&str, Option<AllowList>), ListError> {
    let Some((place, list)) = value.rsplit_once(':').filter(|(place, _)| *place != "sim") else {
        return Ok((value, None));
    };
    match list.parse() {
        Ok(list) => Ok((place, Some(list))),
        Err(e) if has_no_colon(place) => Err(e),
        Err(_) => Ok((value, None)),
    }
}

/// Whether `place` is written in a way in which no colon follows but that of a list.
fn has_no_colon(place: &str) -> bool {
    let number = place.strip_prefix("/dev/").unwrap_or(place);
    let number = number.strip_prefix("i2c-").unwrap_or(number);
    let plain_sim = place.starts_with("sim:") && !place.contains('/');
    plain_sim || number.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{BusPlace, BusSource, I2cArgs, SourceError};
    use crate::allow::AllowList;
    use clap::{CommandFactory, Parser};
    use std::time::Duration;

    fn parse(options: &[&str]) -> Result<I2cArgs, clap::Error> {
        let fixed = ["vhost-device-i2c", "--socket-path", "/tmp/i2c.sock"];
        I2cArgs::try_parse_from(fixed.iter().chain(options))
    }

    #[test]
    fn the_option_table_is_consistent() {
        I2cArgs::command().debug_assert();
    }

    #[test]
    fn every_bus_is_parsed_with_its_list() {
        for (value, place, list) in [
            ("i2c-1", BusPlace::Host("i2c-1".into()), None),
            ("1", BusPlace::Host("1".into()), None),
            ("1:0x20", BusPlace::Host("1".into()), Some("0x20")),
            (
                "/dev/i2c-1:0x50-0x57,t0x150",
                BusPlace::Host("/dev/i2c-1".into()),
                Some("0x50-0x57,t0x150"),
            ),
            (
                "SMBus I801 adapter at efa0:80",
                BusPlace::Host("SMBus I801 adapter at efa0".into()),
                Some("80"),
            ),
            (
                "NVIDIA i2c adapter 1 at 1:00.0",
                BusPlace::Host("NVIDIA i2c adapter 1 at 1:00.0".into()),
                None,
            ),
            (
                "NVIDIA i2c adapter 1 at 1:00.0:0x50",
                BusPlace::Host("NVIDIA i2c adapter 1 at 1:00.0".into()),
                Some("0x50"),
            ),
            ("sim:", BusPlace::Sim(String::new()), None),
            (
                "sim:regs@0x20,lm75@0x48=23.5",
                BusPlace::Sim("regs@0x20,lm75@0x48=23.5".into()),
                None,
            ),
            (
                "sim:regs@0x20,lm75@0x48:0x20",
                BusPlace::Sim("regs@0x20,lm75@0x48".into()),
                Some("0x20"),
            ),
            (
                "sim:24c02@0x50=/a:b/c",
                BusPlace::Sim("24c02@0x50=/a:b/c".into()),
                None,
            ),
            (
                "sim:24c02@0x50=/a:b/c:0x50",
                BusPlace::Sim("24c02@0x50=/a:b/c".into()),
                Some("0x50"),
            ),
        ] {
            let allowed = list.map_or_else(AllowList::all, |list| list.parse().unwrap());
            assert_eq!(value.parse(), Ok(BusSource { place, allowed }), "{value}");
        }
    }

    #[test]
    fn a_wrong_bus_is_refused_with_the_reason() {
        for (value, reason) in [
            ("", "no such bus (known: "),
            ("sim", "no such bus (known: "),
            (":0x20", "no such bus (known: "),
            ("i2c-1:", "\"\" is not an address"),
            ("/dev/i2c-1:0x80", "\"0x80\" is not an address"),
            ("1:0x20,0x3x", "\"0x3x\" is not an address"),
            ("sim:regs@0x20:0x2x", "\"0x2x\" is not an address"),
        ] {
            let error = value.parse::<BusSource>().unwrap_err().to_string();
            assert!(error.contains(reason), "{value}: {error}");
        }
        assert_eq!("".parse::<BusSource>(), Err(SourceError::Empty));
    }

    #[test]
    fn the_limits_have_bounds() {
        let limits = parse(&["--bus", "1"]).unwrap().limits();
        assert_eq!(
            (limits.timeout, limits.max_message),
            (Duration::from_secs(1), 8192)
        );
        let limits = parse(&["-b", "1", "--timeout", "20000", "--max-message", "65535"])
            .unwrap()
            .limits();
        assert_eq!(
            (limits.timeout, limits.max_message),
            (Duration::from_secs(20), 65535)
        );
        for options in [
            ["--timeout", "0"],
            ["--timeout", "20001"],
            ["--max-message", "0"],
            ["--max-message", "65536"],
        ] {
            assert!(
                parse(&[&["--bus", "1"], &options[..]].concat()).is_err(),
                "{options:?}"
            );
        }
        assert!(parse(&[]).is_err());
    }
}
