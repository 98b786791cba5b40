// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path of a GPIO device (virtio 1.3, sections 5.18.6 and 5.18.7): what a message means, and what the driver gets.
//! One thread, and one descriptor for the edges of all lines.
//!
//! | what happens | request queue | event queue |
//! |---|---|---|
//! | done | `STATUS_OK` and the value | |
//! | unknown message, line or value; no room for the names | `STATUS_ERR` | |
//! | the host refused, a read-only line is to be driven | `STATUS_ERR`, a line in the host's log | |
//! | the line interrupts | | `IRQ_STATUS_VALID` |
//! | unmasked without being enabled, disabled while unmasked, unknown line | | `IRQ_STATUS_INVALID` |
//! | no room for a status | used length 0, nothing is done | used length 0 |
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, Read, Write};

use vu_common::{Chain, Cx, Interest, Ready, Token, Worker, guest_warn};

use crate::backend::Edge;
use crate::config::Names;
use crate::device::{Home, OnDisconnect};
use crate::irq::Answer;
use crate::lines::{Back, Lines};
use crate::request::{Direction, Request, parse_irq_request};
use crate::spec::{
    EVENTQ, IRQ_REQUEST_LEN, REQUEST_LEN, REQUESTQ, VIRTIO_GPIO_DIRECTION_IN, VIRTIO_GPIO_DIRECTION_NONE,
    VIRTIO_GPIO_DIRECTION_OUT, VIRTIO_GPIO_IRQ_STATUS_INVALID, VIRTIO_GPIO_IRQ_STATUS_VALID,
    VIRTIO_GPIO_STATUS_ERR, VIRTIO_GPIO_STATUS_OK,
};

/// A buffer of the event queue, and which of those that were popped it is.
pub(crate) struct Parked(u64, Chain);

/// The data path of a GPIO device.
pub struct GpioWorker {
    /// There until the worker ends.
    lines: Option<Lines<Parked>>,
    names: Names,
    /// `VIRTIO_GPIO_F_IRQ` was negotiated.
    interrupts: bool,
    home: Home,
    on_disconnect: OnDisconnect,
    watched: Option<Token>,
    /// Buffers of the event queue so far.
    popped: u64,
    edges: Vec<Edge>,
}

impl GpioWorker {
    pub(crate) fn new(
        lines: Lines<Parked>,
        names: Names,
        interrupts: bool,
        home: Home,
        on_disconnect: OnDisconnect,
    ) -> Self {
        Self {
            lines: Some(lines),
            names,
            interrupts,
            home,
            on_disconnect,
            watched: None,
            popped: 0,
            edges: Vec::new(),
        }
    }
}

impl Drop for GpioWorker {
    /// The lines go home, for the next guest.
    fn drop(&mut self) {
        let Some(mut lines) = self.lines.take() else {
            return;
        };
        // Chains of a ring that has ended are nobody's.
        drop(lines.take_buffers());
        if self.on_disconnect == OnDisconnect::Release {
            lines.release();
        }
        self.home.welcome(lines);
    }
}

impl Worker for GpioWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        self.watch(cx);
        while let Some(chain) = cx.pop(q) {
            if q == REQUESTQ {
                self.request(chain);
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

    /// The last buffers that were popped are given back, as if they had not been popped. Those before one that was
    /// answered cannot be, and are returned.
    fn stop(&mut self, cx: &mut Cx<'_>, q: usize) {
        if q != EVENTQ {
            return;
        }
        let Some(lines) = &mut self.lines else { return };
        let mut parked = lines.take_buffers();
        parked.sort_unstable_by_key(|Parked(number, _)| std::cmp::Reverse(*number));
        let mut last = self.popped;
        for Parked(number, chain) in parked {
            if number == last {
                last = last.saturating_sub(1);
                cx.give_back(chain);
            } else {
                answer(chain, &[VIRTIO_GPIO_IRQ_STATUS_INVALID]);
            }
        }
    }
}

impl GpioWorker {
    /// Has the edges of the lines told, from the first request on.
    fn watch(&mut self, cx: &mut Cx<'_>) {
        let Some(lines) = self
            .lines
            .as_ref()
            .filter(|_| self.interrupts && self.watched.is_none())
        else {
            return;
        };
        match cx.watch(lines.chip().fd(), Interest::READABLE) {
            Ok(token) => self.watched = Some(token),
            Err(e) => {
                log::error!("no interrupts for this guest: cannot wait for edges: {e}");
                self.interrupts = false;
            }
        }
    }

    fn request(&mut self, mut chain: Chain) {
        if chain.writable_len() == 0 {
            guest_warn!("a message without room for a status");
            return chain.complete(0);
        }
        let mut bytes = [0; REQUEST_LEN];
        let parsed = match chain.reader().read_exact(&mut bytes) {
            Ok(()) => Request::parse(bytes, self.count()),
            Err(_) => {
                guest_warn!("a message of less than {REQUEST_LEN} bytes");
                return answer(chain, &[VIRTIO_GPIO_STATUS_ERR, 0]);
            }
        };
        let result = match parsed {
            Ok(Request::GetLineNames) => return self.line_names(chain),
            Ok(request) => self.act(request).map_err(|e| e.to_string()),
            Err(malformed) => Err(format!("bad message: {malformed}")),
        };
        match result {
            Ok(value) => answer(chain, &[VIRTIO_GPIO_STATUS_OK, value]),
            Err(text) => {
                guest_warn!("{text}");
                answer(chain, &[VIRTIO_GPIO_STATUS_ERR, 0]);
            }
        }
    }

    fn count(&self) -> usize {
        self.lines.as_ref().map_or(0, Lines::count)
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

    /// Does what the message asks. Returns the value of the response.
    fn act(&mut self, request: Request) -> io::Result<u8> {
        let lines = self.lines.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let back = match request {
            Request::GetLineNames => None,
            Request::GetDirection(line) => {
                return lines.direction(line).map(|direction| match direction {
                    None => VIRTIO_GPIO_DIRECTION_NONE,
                    Some(Direction::Out) => VIRTIO_GPIO_DIRECTION_OUT,
                    Some(Direction::In) => VIRTIO_GPIO_DIRECTION_IN,
                });
            }
            Request::SetDirection(line, Some(direction)) => {
                lines.activate(line, direction)?;
                None
            }
            Request::SetDirection(line, None) => lines.deactivate(line)?,
            Request::GetValue(line) => return lines.value(line).map(u8::from),
            Request::SetValue(line, level) => {
                lines.set_value(line, level)?;
                None
            }
            Request::SetIrqType(line, _) if !self.interrupts => {
                let what = format!("{line} of the guest: an interrupt type without VIRTIO_GPIO_F_IRQ");
                return Err(io::Error::other(what));
            }
            Request::SetIrqType(line, Some(trigger)) => lines.enable(line, trigger)?,
            Request::SetIrqType(line, None) => lines.disable(line)?,
        };
        give_back(back);
        Ok(0)
    }

    /// A buffer of the event queue unmasks its line.
    fn unmask(&mut self, mut chain: Chain) {
        self.popped = self.popped.saturating_add(1);
        if chain.writable_len() == 0 {
            guest_warn!("a buffer on the event queue without room for a status");
            return chain.complete(0);
        }
        let mut bytes = [0; IRQ_REQUEST_LEN];
        let parsed = chain.reader().read_exact(&mut bytes).ok();
        let line = parsed.and_then(|()| parse_irq_request(bytes, self.count()).ok());
        let Some((line, lines)) = line.zip(self.lines.as_mut()) else {
            guest_warn!("a buffer on the event queue for no line");
            return answer(chain, &[VIRTIO_GPIO_IRQ_STATUS_INVALID]);
        };
        give_back(lines.unmask(line, Parked(self.popped, chain)));
    }

    fn deliver(&mut self) {
        let Some(lines) = &mut self.lines else { return };
        lines.edges(&mut self.edges);
        for edge in self.edges.drain(..) {
            give_back(lines.edge(edge));
        }
    }
}

fn give_back(back: Back<Parked>) {
    let Some((Parked(_, chain), status)) = back else {
        return;
    };
    let status = match status {
        Answer::Valid => VIRTIO_GPIO_IRQ_STATUS_VALID,
        Answer::Invalid => VIRTIO_GPIO_IRQ_STATUS_INVALID,
    };
    answer(chain, &[status]);
}

/// Writes a response, as much of it as there is room for, and gives the chain back.
fn answer(mut chain: Chain, response: &[u8]) {
    let written = chain.writer().write(response).unwrap_or(0);
    chain.complete(u32::try_from(written).unwrap_or(0));
}
