// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The input device (virtio 1.3, section 5.8), as one guest sees it: its source waits here while no worker has it.
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use vu_common::{About, Command, CommandRequest, Device, Migration, Refused, Spec, Start};

use crate::backend::Source;
use crate::backend::sim::Desk;
use crate::config::Answers;
use crate::spec::{CONFIG_LEN, VIRTIO_ID_INPUT};
use crate::worker::InputWorker;

/// The daemon, as managers and packages see it.
pub const ABOUT: About = About {
    features: &["evdev-path", "no-grab"],
    host_devices: &["char-input"],
    commands: &[Command {
        name: "inject",
        arguments: "do=COMMAND",
        help: "Use a simulated device, as a script does: do='key A'",
    }],
    example: "--sim keyboard",
    ..About::new("input")
};

/// An input device, as one guest sees it.
pub struct Input {
    answers: Answers,
    /// `select` and `subsel`.
    selection: AtomicU16,
    /// Of a simulated device.
    desk: Option<Arc<Desk>>,
    home: Home,
}

impl Input {
    /// A device whose events come from `source`.
    #[must_use]
    pub fn new(source: Box<dyn Source>) -> Self {
        Self {
            answers: Answers::new(source.description()),
            selection: AtomicU16::new(0),
            desk: source.desk(),
            home: Home(Arc::new(Mutex::new(Some(source)))),
        }
    }
}

impl Device for Input {
    type Worker = InputWorker;

    fn spec(&self) -> Spec {
        // Asked for once per connection, none of which is to find the selection of another.
        self.reset();
        Spec {
            config_len: CONFIG_LEN,
            // What the guest was told to be pressed is known to this process only.
            migration: Migration::No,
            ..Spec::new("input", VIRTIO_ID_INPUT, 2)
        }
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) {
        let selection = self.selection.load(Ordering::Relaxed).to_le_bytes();
        self.answers.read(selection, offset, dst);
    }

    /// QEMU writes the whole structure for each field; only the two that select count.
    fn write_config(&self, offset: usize, src: &[u8]) -> std::result::Result<(), Refused> {
        let mut selection = self.selection.load(Ordering::Relaxed).to_le_bytes();
        let written = selection.iter_mut().skip(offset).zip(src);
        let mut fields = 0_usize;
        for (field, byte) in written {
            *field = *byte;
            fields = fields.saturating_add(1);
        }
        self.selection
            .store(u16::from_le_bytes(selection), Ordering::Relaxed);
        if fields == 0 { Err(Refused) } else { Ok(()) }
    }

    fn start(&self, _start: &Start<'_>) -> io::Result<InputWorker> {
        let source = self.home.lock().take();
        let source = source.ok_or_else(|| io::Error::other("another guest has the device"))?;
        Ok(InputWorker::new(source, self.home.clone()))
    }

    fn command(&self, name: &str, request: CommandRequest<'_>) -> Result<Value> {
        let desk = self.desk.as_ref().context("the device is not a simulated one")?;
        match name {
            "inject" => Ok(desk.inject(&request.text("do")?)?.into()),
            other => bail!("{other}: not a command of this device"),
        }
    }

    fn reset(&self) {
        self.selection.store(0, Ordering::Relaxed);
    }
}

/// Where the source is while no worker has it.
#[derive(Clone)]
pub(crate) struct Home(Arc<Mutex<Option<Box<dyn Source>>>>);

impl Home {
    fn lock(&self) -> MutexGuard<'_, Option<Box<dyn Source>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the source back.
    pub(crate) fn welcome(&self, source: Box<dyn Source>) {
        *self.lock() = Some(source);
    }
}
