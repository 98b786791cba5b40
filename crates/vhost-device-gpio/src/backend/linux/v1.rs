// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface of Linux before 5.10 (GPIO uAPI v1), by the crate `gpio-cdev`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use gpio_cdev::{
    Chip, Error, EventRequestFlags, EventType, LineDirection, LineEventHandle, LineHandle, LineRequestFlags,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CONSUMER, Info, Mode, Uapi};
use crate::backend::Edges;
use crate::request::Direction;

pub(crate) struct V1 {
    chip: Chip,
}

impl V1 {
    /// Opens the chip.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let chip = Chip::new(path).map_err(plain)?;
        Ok(Self { chip })
    }

    fn line(&self, offset: u32) -> io::Result<gpio_cdev::Line> {
        self.chip.clone().get_line(offset).map_err(plain)
    }
}

/// A line in use: with edges it is another kind of handle.
pub(crate) enum Hold {
    Plain(LineHandle, File),
    Events(LineEventHandle),
}

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(_, never) => never.as_fd(),
            Self::Events(handle) => handle.as_fd(),
        }
    }
}

/// The host's own error, without what the crate says around it.
fn plain(error: Error) -> io::Error {
    let text = error.to_string();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = source {
        if let Some(errno) = error.downcast_ref::<nix::errno::Errno>() {
            return io::Error::from_raw_os_error(*errno as i32);
        }
        source = error.source();
    }
    io::Error::other(text)
}
