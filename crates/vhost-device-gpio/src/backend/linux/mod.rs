// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Chips of the host, by its GPIO character devices.
//!
//! | file | what it answers |
//! |---|---|
//! | `find.rs` | which chip a text means |
//! | `lines.rs` | which of its lines the guest gets |
//! | `chip.rs` | the chip of one guest: which lines are taken, and how |
//! | `v1.rs`, `v2.rs` | the two versions of the kernel's interface |

mod chip;
mod find;
mod lines;
mod v1;
mod v2;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

pub use find::{Here, NotFound};
pub use lines::{BadLines, There};

use vu_common::{Access, Needs};

use self::chip::LinuxChip;
use self::find::Found;
use self::lines::Chosen;
use self::v1::V1;
use self::v2::V2;
use super::{Chip, Edges};
use crate::request::Direction;

/// The letter of the requests of a chip and its lines (include/uapi/linux/gpio.h).
const IOCTLS: u8 = 0xb4;
/// What the host shows as the consumer of a line.
const CONSUMER: &str = "vhost-device-gpio";

/// Version of the kernel's interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// v2, or v1 if the kernel does not know v2.
    #[default]
    Auto,
    /// That of Linux 4.8, which newer kernels may lack.
    V1,
    /// That of Linux 5.10.
    V2,
}

/// Why a chip of the host cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such chip.
    #[error(transparent)]
    Chip(#[from] NotFound),
    /// It has no such lines.
    #[error("{0}: {1}")]
    Lines(String, BadLines),
    /// It cannot be used.
    #[error("{0}")]
    Open(String, #[source] io::Error),
    /// The kernel has no such interface to it.
    #[error("{0}: the kernel does not know version {1} of the GPIO interface")]
    Version(String, &'static str),
    /// Two guests would have the same line.
    #[error("{0:?} and {1:?} both name line {2} of {3}")]
    Shared(String, String, u32, String),
}

/// Opens the chips that texts like `gpiochip0:0-3,led,5/ro` name, each for a guest of its own.
///
/// # Errors
/// [`OpenError`], for the first that cannot be served.
pub fn open(texts: &[&str], version: Version) -> Result<Vec<Box<dyn Chip>>, OpenError> {
    let mut opened: Vec<(&str, Found, Vec<Chosen>)> = Vec::new();
    let mut chips = Vec::new();
    for text in texts {
        let (found, list) = find::find(text)?;
        let (chip, chosen) = match version {
            Version::V1 => open_as::<V1>(&found, list)?,
            Version::V2 => open_as::<V2>(&found, list)?,
            Version::Auto => match open_as::<V2>(&found, list) {
                Err(OpenError::Version(..)) => open_as::<V1>(&found, list)?,
                result => result?,
            },
        };
        for (other, chip, lines) in &opened {
            if chip.path == found.path
                && let Some(line) = shared(lines, &chosen)
            {
                let (other, text, name) = (other.to_string(), text.to_string(), found.name);
                return Err(OpenError::Shared(other, text, line, name));
            }
        }
        opened.push((text, found, chosen));
        chips.push(chip);
    }
    Ok(chips)
}

/// The first line that is in both.
fn shared(lines: &[Chosen], others: &[Chosen]) -> Option<u32> {
    let mut offsets = lines.iter().map(|line| line.offset);
    offsets.find(|offset| others.iter().any(|other| other.offset == *offset))
}

fn open_as<U: Uapi + 'static>(
    found: &Found,
    list: Option<&str>,
) -> Result<(Box<dyn Chip>, Vec<Chosen>), OpenError> {
    let path = found.path.display().to_string();
    let failed = |e: io::Error| match e.kind() {
        // What kernels answer to a request that they do not know.
        io::ErrorKind::InvalidInput => OpenError::Version(path.clone(), U::NAME),
        _ => OpenError::Open(path.clone(), e),
    };
    let uapi = U::open(&found.path).map_err(failed)?;
    // Each line is taken by the path of its chip.
    Needs::default()
        .ioctls_of(IOCTLS)
        .path(&found.path, Access::ReadWrite)
        .declare();
    let name = |offset| uapi.info(offset).map(|info| info.name);
    let names: Vec<_> = (0..uapi.count())
        .map(name)
        .collect::<io::Result<_>>()
        .map_err(failed)?;
    let chosen = lines::choose(list, &names).map_err(|e| OpenError::Lines(path.clone(), e))?;
    let chip = LinuxChip::new(&path, uapi, &chosen).map_err(failed)?;
    log::info!(
        "{path}: {} line(s) by version {} of the GPIO interface",
        chosen.len(),
        U::NAME
    );
    Ok((Box::new(chip), chosen))
}

/// How a line is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To be read, with the direction that it has.
    AsIs,
    /// As an input, with these edges told.
    In(Option<Edges>),
    /// As an output of this level.
    Out(bool),
}

/// What the host says of a line.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    /// Empty for none.
    pub(crate) name: String,
    /// Who uses it, if somebody does.
    pub(crate) consumer: Option<String>,
    pub(crate) direction: Direction,
}

/// One version of the kernel's interface to one chip. Lines are named by their numbers on the chip. Errors are the
/// kernel's own.
pub(crate) trait Uapi: Send + Sized {
    /// How people call it.
    const NAME: &'static str;
    /// A line in use; released on drop.
    type Hold: Send;

    fn open(path: &Path) -> io::Result<Self>;
    fn count(&self) -> u32;
    fn info(&self, offset: u32) -> io::Result<Info>;
    fn take(&self, offset: u32, mode: Mode) -> io::Result<Self::Hold>;
    /// Changes how a line is used. `None` if it has to be released and taken anew.
    fn change(&self, hold: &Self::Hold, offset: u32, mode: Mode) -> Option<io::Result<()>>;
    fn value(&self, hold: &Self::Hold) -> io::Result<bool>;
    fn set_value(&self, hold: &Self::Hold, level: bool) -> io::Result<()>;
    /// What can be read when the line had an edge, if its edges can be told at all.
    fn events<'a>(&self, hold: &'a Self::Hold) -> Option<BorrowedFd<'a>>;
    /// Tells the levels that the line went to by its next edges; not necessarily all, and none if there were none. The
    /// descriptor does not block.
    fn edges(&self, hold: &mut Self::Hold, seen: &mut dyn FnMut(bool)) -> io::Result<()>;
}
