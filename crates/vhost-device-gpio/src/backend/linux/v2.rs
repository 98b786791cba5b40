// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface of Linux 5.10 and later (GPIO uAPI v2), by the crate `gpiocdev`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use gpiocdev::chip::Chip;
use gpiocdev::line::{self, EdgeDetection, EdgeKind, Value};
use gpiocdev::request::{Config, Request};

use super::find::plain;
use super::{CONSUMER, Info, Mode, Uapi};
use crate::backend::Edges;
use crate::request::Direction;

/// Edges of a line that the kernel keeps for us. A masked interrupt is latched once, so a longer burst tells no more.
const KERNEL_BUFFER: u32 = 256;
/// Words of an edge as the kernel gives it.
const EVENT_WORDS: usize = 6;
/// Edges of a line that are taken in one turn, so that a fast one does not keep the others waiting.
const TURN: usize = 32;

pub(crate) struct V2 {
    chip: Chip,
    count: u32,
}

impl Uapi for V2 {
    const NAME: &'static str = "v2";
    type Hold = Request;

    fn open(path: &Path) -> io::Result<Self> {
        let chip = Chip::from_path(path).map_err(plain)?;
        let count = chip.info().map_err(plain)?.num_lines;
        Ok(Self { chip, count })
    }

    fn count(&self) -> u32 {
        self.count
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
        // The chip that we hold keeps its name, so this path leads to it and to no other.
        let mut config = config(offset, mode);
        config.on_chip(self.chip.path());
        let mut builder = Request::from_config(config);
        builder
            .with_consumer(CONSUMER)
            .with_kernel_event_buffer_size(KERNEL_BUFFER);
        builder.request().map_err(plain)
    }

    fn change(&self, hold: &Request, offset: u32, mode: Mode) -> Option<io::Result<()>> {
        Some(hold.reconfigure(&config(offset, mode)).map_err(plain))
    }

    fn value(&self, hold: &Request) -> io::Result<bool> {
        hold.lone_value()
            .map(|value| value == Value::Active)
            .map_err(plain)
    }

    fn set_value(&self, hold: &Request, level: bool) -> io::Result<()> {
        hold.set_lone_value(of_level(level)).map_err(plain)
    }

    fn events<'a>(&self, hold: &'a Request) -> Option<BorrowedFd<'a>> {
        Some(hold.as_fd())
    }

    fn edges(&self, hold: &mut Request, seen: &mut dyn FnMut(bool)) -> io::Result<()> {
        let mut words = [0; EVENT_WORDS * TURN];
        let count = match hold.read_edge_events_into_slice(&mut words).map_err(plain) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            result => result?,
        };
        for event in words[..count].chunks_exact(hold.edge_event_u64_size()) {
            let event = hold.edge_event_from_slice(event).map_err(plain)?;
            seen(event.kind == EdgeKind::Rising);
        }
        Ok(())
    }
}

fn config(offset: u32, mode: Mode) -> Config {
    let mut config = Config::default();
    config.with_line(offset);
    match mode {
        Mode::AsIs => config.as_is(),
        Mode::In(edges) => config.as_input().with_edge_detection(edges.map(of_edges)),
        Mode::Out(level) => config.as_output(of_level(level)),
    };
    config
}

fn of_edges(edges: Edges) -> EdgeDetection {
    match edges {
        Edges::Rising => EdgeDetection::RisingEdge,
        Edges::Falling => EdgeDetection::FallingEdge,
        Edges::Both => EdgeDetection::BothEdges,
    }
}

fn of_level(level: bool) -> Value {
    if level { Value::Active } else { Value::Inactive }
}
