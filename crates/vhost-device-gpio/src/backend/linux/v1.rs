// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface of Linux before 5.10 (GPIO uAPI v1), by the crate `gpio-cdev`.
//!
//! It knows two kinds of handles, of which only the one for edges can be waited for, and neither becomes the other: a
//! line that changes how it is used is released for a moment.

use std::error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use gpio_cdev::{
    Chip, Error, EventRequestFlags, EventType, LineDirection, LineEventHandle, LineHandle, LineRequestFlags,
};

use super::{CONSUMER, Info, Mode, Uapi};
use crate::backend::Edges;
use crate::request::Direction;

/// Edges of a line that are taken in one turn, so that a fast one does not keep the others waiting.
const TURN: usize = 16;

pub(crate) struct V1 {
    chip: Chip,
}

/// A line in use.
pub(crate) enum Hold {
    /// Without edges.
    Plain(LineHandle),
    /// An input whose edges are told.
    Edges(LineEventHandle),
}

impl V1 {
    fn line(&self, offset: u32) -> io::Result<gpio_cdev::Line> {
        let mut lines = self.chip.lines();
        let index = usize::try_from(offset).unwrap_or(usize::MAX);
        lines.nth(index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Uapi for V1 {
    const NAME: &'static str = "v1";
    type Hold = Hold;

    fn open(path: &Path) -> io::Result<Self> {
        let chip = Chip::new(path).map_err(plain)?;
        Ok(Self { chip })
    }

    fn count(&self) -> u32 {
        self.chip.num_lines()
    }

    fn info(&self, offset: u32) -> io::Result<Info> {
        let info = self.line(offset)?.info().map_err(plain)?;
        let consumer = info.consumer().unwrap_or_default();
        Ok(Info {
            name: info.name().unwrap_or_default().into(),
            consumer: info.is_kernel().then(|| consumer.into()),
            direction: match info.direction() {
                LineDirection::Out => Direction::Out,
                LineDirection::In => Direction::In,
            },
        })
    }

    fn take(&self, offset: u32, mode: Mode) -> io::Result<Hold> {
        let line = self.line(offset)?;
        let (flags, level) = match mode {
            Mode::In(Some(edges)) => {
                let handle = line.events(LineRequestFlags::INPUT, of_edges(edges), CONSUMER);
                return handle.map(Hold::Edges).map_err(plain);
            }
            Mode::AsIs => (LineRequestFlags::empty(), false),
            Mode::In(None) => (LineRequestFlags::INPUT, false),
            Mode::Out(level) => (LineRequestFlags::OUTPUT, level),
        };
        let handle = line.request(flags, level.into(), CONSUMER);
        handle.map(Hold::Plain).map_err(plain)
    }

    fn change(&self, _hold: &Hold, _offset: u32, _mode: Mode) -> Option<io::Result<()>> {
        None
    }

    fn value(&self, hold: &Hold) -> io::Result<bool> {
        let value = match hold {
            Hold::Plain(handle) => handle.get_value(),
            Hold::Edges(handle) => handle.get_value(),
        };
        value.map(|value| value != 0).map_err(plain)
    }

    fn set_value(&self, hold: &Hold, level: bool) -> io::Result<()> {
        match hold {
            Hold::Plain(handle) => handle.set_value(level.into()).map_err(plain),
            Hold::Edges(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn events<'a>(&self, hold: &'a Hold) -> Option<BorrowedFd<'a>> {
        match hold {
            Hold::Plain(_) => None,
            Hold::Edges(handle) => Some(handle.as_fd()),
        }
    }

    fn edges(&self, hold: &mut Hold, seen: &mut dyn FnMut(bool)) -> io::Result<()> {
        let Hold::Edges(handle) = hold else {
            return Ok(());
        };
        for _ in 0..TURN {
            match handle.get_event().map_err(plain) {
                Ok(event) => seen(event.event_type() == EventType::RisingEdge),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn of_edges(edges: Edges) -> EventRequestFlags {
    match edges {
        Edges::Rising => EventRequestFlags::RISING_EDGE,
        Edges::Falling => EventRequestFlags::FALLING_EDGE,
        Edges::Both => EventRequestFlags::BOTH_EDGES,
    }
}

/// The host's own error, without what the crate says around it.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn plain(error: Error) -> io::Error {
    let source = error::Error::source(&error);
    let errno = source.and_then(|source| match source.downcast_ref::<io::Error>() {
        Some(error) => error.raw_os_error(),
        None => source
            .downcast_ref::<nix::errno::Errno>()
            .map(|errno| *errno as i32),
    });
    match errno {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Uapi, V1};

    #[test]
    fn the_errors_of_the_crate_are_those_of_the_host() {
        for (path, errno) in [("/nonexistent", 2), ("/dev/null", 25)] {
            let error = V1::open(path.as_ref()).map(drop).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
        }
    }
}
