// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface of Linux 5.10 and later (GPIO uAPI v2), by the crate `gpiocdev`.

use std::io;
use std::path::{Path, PathBuf};

use gpiocdev::chip::Chip;
use gpiocdev::line::{self, EdgeDetection, EdgeKind, Value};
use gpiocdev::request::{Config, Request};
use gpiocdev::{AbiVersion, Error};

use super::{CONSUMER, Info, Mode, Uapi};
use crate::backend::Edges;
use crate::request::Direction;

/// Edges of one line that the kernel keeps for us.
const EVENT_BUFFER: u32 = 1024;

pub(crate) struct V2 {
    path: PathBuf,
    chip: Chip,
    count: u32,
}

impl V2 {
    /// Opens the chip. `Unsupported` if the kernel only knows the former interface.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let chip = Chip::from_path(path).map_err(plain)?;
        let count = chip.info().map_err(plain)?.num_lines;
        chip.supports_abi_version(AbiVersion::V2)
            .map_err(|e| io::Error::new(io::ErrorKind::Unsupported, e))?;
        Ok(Self {
            path: path.into(),
            chip,
            count,
        })
    }

    fn config(&self, offset: u32, mode: Mode) -> Config {
        let mut config = Config::default();
        config.on_chip(&self.path).with_line(offset);
        match mode {
            Mode::In(edges) => {
                config.as_input().with_edge_detection(edges.map(|edges| match edges {
                    Edges::Rising => EdgeDetection::RisingEdge,
                    Edges::Falling => EdgeDetection::FallingEdge,
                    Edges::Both => EdgeDetection::BothEdges,
                }));
            }
            Mode::Out(level) => {
                config.as_output(level_value(level));
            }
        }
        config
    }
}

fn level_value(level: bool) -> Value {
    if level { Value::Active } else { Value::Inactive }
}

/// The host's own error, without what the crate says around it.
fn plain(error: Error) -> io::Error {
    match error {
        Error::Os(errno) | Error::Uapi(_, gpiocdev::UapiError::Os(errno)) => io::Error::from_raw_os_error(errno.0),
        other => io::Error::other(other),
    }
}

impl Uapi for V2 {
    type Hold = Request;

    fn count(&self) -> usize {
        self.count as usize
    }

    fn info(&self, offset: u32) -> io::Result<Info> {
        let info = self.chip.line_info(offset).map_err(plain)?;
        Ok(Info {
            name: info.name,
            consumer: info.used.then_some(info.consumer),
            direction: match info.direction {
                line::Direction::Output => Direction::Out,
                line::Direction::Input => Direction::In,
            },
        })
    }

    fn take(&self, offset: u32, mode: Mode) -> io::Result<Request> {
        let mut builder = Request::from_config(self.config(offset, mode));
        builder
            .with_consumer(CONSUMER)
            .with_kernel_event_buffer_size(EVENT_BUFFER)
            .using_abi_version(AbiVersion::V2);
        builder.request().map_err(plain)
    }

    fn change(&self, hold: &Request, offset: u32, mode: Mode) -> Option<io::Result<()>> {
        Some(hold.reconfigure(&self.config(offset, mode)).map_err(plain))
    }

    fn value(&self, hold: &Request, offset: u32) -> io::Result<bool> {
        hold.value(offset).map(|value| value == Value::Active).map_err(plain)
    }

    fn set_value(&self, hold: &Request, offset: u32, level: bool) -> io::Result<()> {
        hold.set_value(offset, level_value(level)).map(drop).map_err(plain)
    }

    fn next_edge(&self, hold: &mut Request) -> io::Result<Option<bool>> {
        if !hold.has_edge_event().map_err(plain)? {
            return Ok(None);
        }
        let event = hold.read_edge_event().map_err(plain)?;
        Ok(Some(event.kind == EdgeKind::Rising))
    }
}
