// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The GPIO device (virtio 1.3, section 5.18): what a message means, and what the driver gets.
//!
//! | what happens | request queue | event queue |
//! |---|---|---|
//! | done | `STATUS_OK` and the value | |
//! | unknown message, line or value; no room for the names | `STATUS_ERR` | |
//! | the host refused, a read-only line is to be driven | `STATUS_ERR`, a line in the host's log | |
//! | the line interrupts | | `IRQ_STATUS_VALID` |
//! | unmasked without being enabled, disabled while unmasked, unknown line | | `IRQ_STATUS_INVALID` |
//! | no room for a status | used length 0 | used length 0 |
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vu_common::{Capabilities, Chain, Cx, Device, Interest, Ready, Spec, Start, Token, Worker, guest_warn};

use crate::backend::{Chip, Edge, Edges};
use crate::config::{self, Names};
use crate::irq::{Answer, Interrupt};
use crate::request::{Direction, Line, Request, Trigger, parse_irq_request};
use crate::spec::{
    CONFIG_LEN, EVENTQ, IRQ_REQUEST_LEN, REQUEST_LEN, REQUESTQ, VIRTIO_GPIO_DIRECTION_IN,
    VIRTIO_GPIO_DIRECTION_NONE, VIRTIO_GPIO_DIRECTION_OUT, VIRTIO_GPIO_F_IRQ, VIRTIO_GPIO_IRQ_STATUS_INVALID,
    VIRTIO_GPIO_IRQ_STATUS_VALID, VIRTIO_GPIO_STATUS_ERR, VIRTIO_GPIO_STATUS_OK, VIRTIO_ID_GPIO,
};

/// What `--print-capabilities` prints.
pub const CAPABILITIES: Capabilities = Capabilities {
    kind: "gpio",
    features: &[],
};

/// What becomes of the lines when the guest leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnDisconnect {
    /// Every line is released.
    #[default]
    Release,
    /// They stay as they are until the guest, or another one, comes.
    Keep,
}

/// A GPIO device, as one guest sees it.
pub struct Gpio {
    names: Names,
    on_disconnect: OnDisconnect,
    /// The lines, while no worker has them.
    lines: Arc<Mutex<Option<Lines>>>,
}

/// The chip, and what the guest has told of each line.
struct Lines {
    chip: Box<dyn Chip>,
    states: Vec<LineState>,
}

#[derive(Debug, Default)]
struct LineState {
    /// `None` until the driver sets a direction for the first time: then it is the host's.
    direction: Option<Option<Direction>>,
    /// The level to start an output with.
    output: bool,
    interrupt: Interrupt<Chain>,
}

impl Gpio {
    /// A device with the lines of `chip`.
    pub fn new(chip: Box<dyn Chip>, on_disconnect: OnDisconnect) -> Self {
        let names = chip.names();
        let states = names.iter().map(|_| LineState::default()).collect();
        Self {
            names: Names::new(&names),
            on_disconnect,
            lines: Arc::new(Mutex::new(Some(Lines { chip, states }))),
        }
    }
}

impl Device for Gpio {
    type Worker = GpioWorker;

    fn spec(&self) -> Spec {
        Spec {
            features: VIRTIO_GPIO_F_IRQ,
            config_len: CONFIG_LEN,
            ..Spec::new("gpio", VIRTIO_ID_GPIO, 2)
        }
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) {
        config::read(&self.names, offset, dst);
    }

    fn start(&self, start: &Start<'_>) -> io::Result<GpioWorker> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(GpioWorker {
            lines: Some(lines.ok_or_else(|| io::Error::other("another guest has the lines"))?),
            home: self.lines.clone(),
            names: self.names.clone(),
            on_disconnect: self.on_disconnect,
            interrupts: start.features & VIRTIO_GPIO_F_IRQ != 0,
            watched: None,
            edges: Vec::new(),
        })
    }
}

/// The data path of a GPIO device: one thread, one descriptor for the edges of all lines.
pub struct GpioWorker {
    lines: Option<Lines>,
    home: Arc<Mutex<Option<Lines>>>,
    names: Names,
    on_disconnect: OnDisconnect,
    /// `VIRTIO_GPIO_F_IRQ` was negotiated.
    interrupts: bool,
    watched: Option<Token>,
    edges: Vec<Edge>,
}

impl Drop for GpioWorker {
    /// The lines go home, for the next guest.
    fn drop(&mut self) {
        let Some(mut lines) = self.lines.take() else {
            return;
        };
        lines.part(self.on_disconnect);
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(lines);
    }
}

impl Worker for GpioWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        while let Some(chain) = cx.pop(q) {
            if q == REQUESTQ {
                self.request(cx, chain);
            } else {
                self.unmask(chain);
            }
        }
    }

    fn event(&mut self, _cx: &mut Cx<'_>, token: Token, _ready: Ready) {
        if self.watched == Some(token) {
            self.deliver();
        }
    }

    fn stop(&mut self, cx: &mut Cx<'_>, q: usize) {
        if q != EVENTQ {
            return;
        }
        let Some(lines) = &mut self.lines else { return };
        for state in &mut lines.states {
            if let Some(chain) = state.interrupt.take_buffer() {
                cx.give_back(chain);
            }
        }
    }
}

/// Status, value and how many bytes both are, of a response on the request queue.
type Response = io::Result<u8>;

impl GpioWorker {
    fn request(&mut self, cx: &mut Cx<'_>, mut chain: Chain) {
        let mut bytes = [0; REQUEST_LEN];
        let parsed = match chain.reader().read_exact(&mut bytes) {
            Ok(()) => Request::parse(bytes, self.count()),
            Err(_) => return answer(chain, &[VIRTIO_GPIO_STATUS_ERR, 0]),
        };
        let request = match parsed {
            Ok(request) => request,
            Err(e) => {
                guest_warn!("bad message: {e}");
                return answer(chain, &[VIRTIO_GPIO_STATUS_ERR, 0]);
            }
        };
        if request == Request::GetLineNames {
            return self.line_names(chain);
        }
        match self.act(cx, request) {
            Ok(value) => answer(chain, &[VIRTIO_GPIO_STATUS_OK, value]),
            Err(e) => {
                guest_warn!("{e}");
                answer(chain, &[VIRTIO_GPIO_STATUS_ERR, 0]);
            }
        }
    }

    fn count(&self) -> usize {
        self.lines.as_ref().map_or(0, |lines| lines.states.len())
    }

    /// The names come whole or not at all.
    fn line_names(&self, mut chain: Chain) {
        let block = self.names.block();
        if block.is_empty() || chain.writable_len() <= block.len() {
            return answer(chain, &[VIRTIO_GPIO_STATUS_ERR]);
        }
        let mut writer = chain.writer();
        let written = writer
            .write_all(&[VIRTIO_GPIO_STATUS_OK])
            .and_then(|()| writer.write_all(block));
        let len = if written.is_ok() {
            block.len().saturating_add(1)
        } else {
            0
        };
        chain.complete(u32::try_from(len).unwrap_or(0));
    }

    fn act(&mut self, cx: &mut Cx<'_>, request: Request) -> Response {
        let Some(lines) = &mut self.lines else {
            return Err(io::Error::other("no lines"));
        };
        match request {
            Request::GetLineNames => Ok(0),
            Request::GetDirection(line) => lines.direction(line).map(|direction| match direction {
                None => VIRTIO_GPIO_DIRECTION_NONE,
                Some(Direction::Out) => VIRTIO_GPIO_DIRECTION_OUT,
                Some(Direction::In) => VIRTIO_GPIO_DIRECTION_IN,
            }),
            Request::SetDirection(line, direction) => lines.set_direction(line, direction).map(|()| 0),
            Request::GetValue(line) => lines.chip.value(line).map(u8::from),
            Request::SetValue(line, level) => lines.set_value(line, level).map(|()| 0),
            Request::SetIrqType(..) if !self.interrupts => Err(io::Error::other(
                "an interrupt type, but VIRTIO_GPIO_F_IRQ was not negotiated",
            )),
            Request::SetIrqType(line, trigger) => {
                lines.set_irq_type(line, trigger)?;
                if self.watched.is_none() {
                    self.watched = Some(cx.watch(lines.chip.fd(), Interest::READABLE)?);
                }
                Ok(0)
            }
        }
    }

    /// A buffer of the event queue unmasks its line.
    fn unmask(&mut self, mut chain: Chain) {
        let mut bytes = [0; IRQ_REQUEST_LEN];
        let parsed = chain.reader().read_exact(&mut bytes).ok();
        let line = parsed.and_then(|()| parse_irq_request(bytes, self.count()).ok());
        let state = line.zip(self.lines.as_mut());
        let Some((line, lines)) = state else {
            guest_warn!("a buffer on the event queue for no line");
            return answer(chain, &[VIRTIO_GPIO_IRQ_STATUS_INVALID]);
        };
        if let Some((chain, status)) = lines.unmask(line, chain) {
            let status = match status {
                Answer::Valid => VIRTIO_GPIO_IRQ_STATUS_VALID,
                Answer::Invalid => VIRTIO_GPIO_IRQ_STATUS_INVALID,
            };
            answer(chain, &[status]);
        }
    }

    fn deliver(&mut self) {
        let Some(lines) = &mut self.lines else { return };
        lines.chip.edges(&mut self.edges);
        for edge in self.edges.drain(..) {
            if let Some(chain) = lines.edge(edge) {
                answer(chain, &[VIRTIO_GPIO_IRQ_STATUS_VALID]);
            }
        }
    }
}

impl Lines {
    fn state(&mut self, line: Line) -> io::Result<&mut LineState> {
        // A `Line` is below their number.
        self.states
            .get_mut(line.index())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn direction(&mut self, line: Line) -> io::Result<Option<Direction>> {
        match self.state(line)?.direction {
            Some(direction) => Ok(direction),
            None => self.chip.direction(line).map(Some),
        }
    }

    fn set_direction(&mut self, line: Line, direction: Option<Direction>) -> io::Result<()> {
        let output = self.state(line)?.output;
        self.chip.set_direction(line, direction, output)?;
        let parked = {
            let state = self.state(line)?;
            state.direction = Some(direction);
            if direction.is_some() {
                None
            } else {
                // All state of the line is discarded (section 5.18.6.8).
                state.output = false;
                state.interrupt.disable()
            }
        };
        if let Some(chain) = parked {
            answer(chain, &[VIRTIO_GPIO_IRQ_STATUS_INVALID]);
        }
        Ok(())
    }

    fn set_value(&mut self, line: Line, level: bool) -> io::Result<()> {
        self.chip.may_drive(line)?;
        if self.direction(line)? == Some(Direction::Out) {
            self.chip.set_value(line, level)?;
        }
        // Of a line that is no output yet, the level to start with.
        self.state(line)?.output = level;
        Ok(())
    }

    fn set_irq_type(&mut self, line: Line, trigger: Option<Trigger>) -> io::Result<()> {
        if trigger.is_some() && self.direction(line)? == Some(Direction::Out) {
            return Err(io::Error::other(format!(
                "{line} is an output: it cannot interrupt"
            )));
        }
        let edges = trigger.map(|trigger| match trigger {
            Trigger::EdgeRising => Edges::Rising,
            Trigger::EdgeFalling => Edges::Falling,
            // A level is read when an edge comes, and at each unmasking.
            Trigger::EdgeBoth | Trigger::LevelHigh | Trigger::LevelLow => Edges::Both,
        });
        self.chip.watch(line, edges)?;
        let interrupt = &mut self.state(line)?.interrupt;
        match trigger {
            Some(trigger) => interrupt.enable(trigger),
            None => {
                if let Some(chain) = interrupt.disable() {
                    answer(chain, &[VIRTIO_GPIO_IRQ_STATUS_INVALID]);
                }
            }
        }
        Ok(())
    }

    /// What to give back at once. A level that cannot be read is taken for inactive, and the next edge tells.
    fn unmask(&mut self, line: Line, chain: Chain) -> Option<(Chain, Answer)> {
        let level = self.level(line);
        match self.states.get_mut(line.index()) {
            Some(state) => state.interrupt.unmask(chain, level.unwrap_or(false)),
            None => Some((chain, Answer::Invalid)),
        }
    }

    /// The level of a line whose trigger is one.
    fn level(&mut self, line: Line) -> Option<bool> {
        let trigger = self.states.get(line.index())?.interrupt.trigger()?;
        let inactive = match trigger {
            Trigger::LevelHigh => false,
            Trigger::LevelLow => true,
            _ => return None,
        };
        let level = self.chip.value(line);
        Some(level.unwrap_or_else(|e| {
            guest_warn!("{e}");
            inactive
        }))
    }

    /// The buffer to give back for an edge. Of a level the line's state now counts: the edge may be old.
    fn edge(&mut self, edge: Edge) -> Option<Chain> {
        let level = self.level(edge.line).unwrap_or(edge.level);
        self.states.get_mut(edge.line.index())?.interrupt.edge(level)
    }

    /// The guest has gone.
    fn part(&mut self, on_disconnect: OnDisconnect) {
        let lines = self.states.len();
        for (number, state) in (0..).zip(&mut self.states) {
            // Chains of a ring that has ended are nobody's.
            drop(state.interrupt.disable());
            let Some(line) = Line::new(number, lines) else {
                continue;
            };
            let used = state.direction.is_some_and(|direction| direction.is_some());
            let mut result = self.chip.watch(line, None);
            if on_disconnect == OnDisconnect::Release && used {
                result = result.and(self.chip.set_direction(line, None, false));
                *state = LineState::default();
            }
            if let Err(e) = result {
                log::warn!("cannot release a line: {e}");
            }
        }
    }
}

/// Writes a response, as much of it as there is room for, and gives the chain back.
fn answer(mut chain: Chain, response: &[u8]) {
    let written = chain.writer().write(response).unwrap_or(0);
    chain.complete(u32::try_from(written).unwrap_or(0));
}
