// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a device of the host is named, and whether it is meant.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which device of the host a guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The one at a path.
    Path(PathBuf),
    /// By its name; what follows a `*` at the end may be anything.
    Name(String),
    /// By the place that it is plugged in, likewise.
    Phys(String),
    /// By vendor and product.
    Id(u16, u16),
}

/// What is known of a device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) phys: String,
    pub(super) id: (u16, u16),
}

impl Rule {
    /// Whether it means this device. Links are followed, since those of udev come and go with the device.
    pub(super) fn fits(&self, device: &Facts) -> bool {
        match self {
            Self::Path(path) => same_file(path, &device.path),
            Self::Name(name) => matches(name, &device.name),
            Self::Phys(phys) => matches(phys, &device.phys),
            Self::Id(vendor, product) => (*vendor, *product) == device.id,
        }
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    }
}

/// A device that is not named as one can be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not id=VENDOR:PRODUCT, two numbers of up to four hexadecimal digits")]
pub struct BadRule(String);

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let number = |text| u16::from_str_radix(text, 16).ok();
        Ok(match text.split_once('=') {
            Some(("name", name)) => Self::Name(name.into()),
            Some(("phys", phys)) => Self::Phys(phys.into()),
            Some(("id", id)) => {
                let id = id.split_once(':');
                let id = id.and_then(|(vendor, product)| number(vendor).zip(number(product)));
                let (vendor, product) = id.ok_or_else(|| BadRule(text.into()))?;
                Self::Id(vendor, product)
            }
            _ => Self::Path(text.into()),
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Name(name) => write!(f, "name={name}"),
            Self::Phys(phys) => write!(f, "phys={phys}"),
            Self::Id(vendor, product) => write!(f, "id={vendor:04x}:{product:04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Rule};

    fn facts() -> Facts {
        Facts {
            path: "/dev/null".into(),
            name: "A Keyboard".into(),
            phys: "usb-0000:00:14.0-3/input0".into(),
            id: (0x046d, 0xc52b),
        }
    }

    #[test]
    fn a_rule_means_a_device_by_path_name_place_or_numbers() {
        for (rule, fits) in [
            ("/dev/null", true),
            ("/dev/../dev/null", true),
            ("/dev/zero", false),
            ("/nowhere", false),
            ("name=A Keyboard", true),
            ("name=A Key", false),
            ("name=A Key*", true),
            ("name=*", true),
            ("phys=usb-0000:00:14.0-3/*", true),
            ("phys=usb-0000:00:14.0-4/*", false),
            ("id=46d:c52b", true),
            ("id=046D:C52B", true),
            ("id=046d:c52c", false),
        ] {
            let parsed: Rule = rule.parse().unwrap();
            assert_eq!(parsed.fits(&facts()), fits, "{rule}");
        }
    }

    #[test]
    fn a_rule_is_shown_as_it_is_written() {
        for rule in ["/dev/input/event3", "name=x=y", "phys=*", "id=046d:c52b"] {
            assert_eq!(rule.parse::<Rule>().unwrap().to_string(), rule);
        }
        for wrong in ["id=", "id=46d", "id=46d:", "id=1046d:0", "id=x:y"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }
}
