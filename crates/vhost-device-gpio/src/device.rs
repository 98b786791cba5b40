// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The GPIO device (virtio 1.3, section 5.18), as one guest sees it: its lines wait here while no worker has them.
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use vu_common::{About, Command, CommandRequest, Device, Migration, Spec, Start};

use crate::backend::Chip;
use crate::backend::sim::Board;
use crate::config::{self, Names};
use crate::lines::Lines;
use crate::spec::{CONFIG_LEN, VIRTIO_GPIO_F_IRQ, VIRTIO_ID_GPIO};
use crate::worker::{GpioWorker, Parked};

/// The daemon, as managers and packages see it.
pub const ABOUT: About = About {
    host_devices: &["char-gpiochip"],
    commands: &[
        Command {
            name: "lines",
            arguments: "",
            help: "The lines of a simulated chip, which way they go and their levels",
        },
        Command {
            name: "set-line",
            arguments: "line=NUMBER|NAME value=0|1",
            help: "Set the level of a line of a simulated chip from outside",
        },
    ],
    example: "--chip sim:8",
    ..About::new("gpio")
};

/// Longest time to poll. A message takes far less than the wake-up for it, and a guest that moves bits by lines sends them
/// one after the other.
const POLL: Duration = Duration::from_micros(50);

/// What becomes of the lines when the guest leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnDisconnect {
    /// Every line is released
    #[default]
    Release,
    /// They stay as they are, enabled interrupts too, until a guest comes
    Keep,
}

/// A GPIO device, as one guest sees it.
pub struct Gpio {
    names: Names,
    on_disconnect: OnDisconnect,
    /// Of a simulated chip.
    board: Option<Arc<Board>>,
    home: Home,
}

impl Gpio {
    /// A device with the lines of `chip`.
    pub fn new(chip: Box<dyn Chip>, on_disconnect: OnDisconnect) -> Self {
        Self {
            names: Names::new(&chip.names()),
            on_disconnect,
            board: chip.board(),
            home: Home::new(Lines::new(chip)),
        }
    }
}

impl Device for Gpio {
    type Worker = GpioWorker;

    fn spec(&self) -> Spec {
        Spec {
            features: VIRTIO_GPIO_F_IRQ,
            config_len: CONFIG_LEN,
            // Another host has other lines, and what the guest has told of them stays here.
            migration: Migration::No,
            poll: POLL,
            ..Spec::new("gpio", VIRTIO_ID_GPIO, 2)
        }
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) {
        config::read(&self.names, offset, dst);
    }

    fn start(&self, start: &Start<'_>) -> io::Result<GpioWorker> {
        let lines = self.home.lock().take();
        let lines = lines.ok_or_else(|| io::Error::other("another guest has the lines"))?;
        let interrupts = start.features & VIRTIO_GPIO_F_IRQ != 0;
        let names = self.names.clone();
        Ok(GpioWorker::new(
            lines,
            names,
            interrupts,
            self.home.clone(),
            self.on_disconnect,
        ))
    }

    fn command(&self, name: &str, request: CommandRequest<'_>) -> Result<Value> {
        let board = self.board.as_ref().context("the chip is not a simulated one")?;
        match name {
            "lines" => Ok(board.describe()),
            "set-line" => {
                let (line, value) = (request.text("line")?, request.flag("value")?);
                board.set(&line, value)?;
                Ok(Value::Null)
            }
            other => bail!("{other}: not a command of this device"),
        }
    }

    fn reset(&self) {
        if let Some(lines) = &mut *self.home.lock() {
            lines.release();
        }
    }
}

/// Where the lines are while no worker has them.
#[derive(Clone)]
pub(crate) struct Home(Arc<Mutex<Option<Lines<Parked>>>>);

impl Home {
    fn new(lines: Lines<Parked>) -> Self {
        Self(Arc::new(Mutex::new(Some(lines))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Lines<Parked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lines back.
    pub(crate) fn welcome(&self, lines: Lines<Parked>) {
        *self.lock() = Some(lines);
    }
}
