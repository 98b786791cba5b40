// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path of an input device (virtio 1.3, section 5.8.6), on one thread.
//!
//! | what happens | event queue | status queue |
//! |---|---|---|
//! | a frame | an event per buffer, used length 8; frames that find no buffers wait | |
//! | a buffer with less than 8 writable bytes | used length 0, its event takes the next one | |
//! | an LED, a sound, a repeat | | to the host, used length 0 |
//! | any other event, or less than 8 bytes | | used length 0 |
//!
//! While something is pressed, the buffers that its release takes are kept in reserve: at a stop no others can be had.
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;
use std::io::{Read, Write};

use vu_common::{Chain, Cx, Interest, Ready, Token, Worker, guest_warn};

use crate::backend::{Change, Source};
use crate::backlog::Backlog;
use crate::device::Home;
use crate::request::Event;
use crate::spec::{EVENT_LEN, EVENTQ, STATUSQ};

/// The data path of an input device.
pub struct InputWorker {
    /// There until the worker ends.
    source: Option<Box<dyn Source>>,
    home: Home,
    /// The event queue runs: the source is the guest's.
    attached: bool,
    watched: Option<Token>,
    backlog: Backlog,
    /// Buffers of the event queue for the release of what is pressed; the oldest first.
    reserve: VecDeque<Chain>,
    changes: Vec<Change>,
    statuses: Vec<Event>,
}

impl InputWorker {
    pub(crate) fn new(source: Box<dyn Source>, home: Home) -> Self {
        Self {
            source: Some(source),
            home,
            attached: false,
            watched: None,
            backlog: Backlog::default(),
            reserve: VecDeque::new(),
            changes: Vec::new(),
            statuses: Vec::new(),
        }
    }

    fn attach(&mut self) {
        if let Some(source) = self.source.as_mut().filter(|_| !self.attached) {
            source.attach();
            self.attached = true;
        }
    }

    /// Has the changes told, unless a source that can wait is to.
    fn watch(&mut self, cx: &mut Cx<'_>) {
        let Some(source) = self.source.as_ref().filter(|_| self.attached) else {
            return;
        };
        let wanted = !(self.backlog.is_long() && source.waits());
        match self.watched {
            Some(token) if !wanted => {
                cx.unwatch(token);
                self.watched = None;
            }
            None if wanted => match cx.watch(source.fd(), Interest::READABLE) {
                Ok(token) => self.watched = Some(token),
                Err(e) => log::error!("no events for this guest: cannot wait for them: {e}"),
            },
            _ => {}
        }
    }

    fn gather(&mut self) {
        let Some(source) = &mut self.source else { return };
        source.read(&mut self.changes);
        for change in self.changes.drain(..) {
            match change {
                Change::Frame(events) => self.backlog.push(&events),
                Change::State(state) => self.backlog.bring_to(&state),
                Change::Released => self.backlog.release(),
            }
        }
    }

    /// Gives the guest as many events as it has buffers for.
    fn deliver(&mut self, cx: &mut Cx<'_>) {
        while let Some(event) = self.backlog.first() {
            let oldest = self.reserve.pop_front().or_else(|| cx.pop(EVENTQ));
            let Some(chain) = oldest else { break };
            self.give(event, chain);
        }
        // While events wait, each buffer is for them.
        if self.backlog.first().is_none() {
            self.set_aside(cx);
        }
        self.watch(cx);
    }

    /// Takes as many buffers as the release of what is pressed needs, if there are so many.
    fn set_aside(&mut self, cx: &mut Cx<'_>) {
        let wanted = self.backlog.release_len();
        while self.reserve.len() < wanted
            && let Some(chain) = cx.pop(EVENTQ)
        {
            self.reserve.push_back(chain);
        }
    }

    /// Gives the guest the first event that waits, if the buffer has room for it.
    fn give(&mut self, event: Event, mut chain: Chain) {
        if chain.writer().write_all(&event.to_bytes()).is_ok() {
            chain.complete(EVENT_LEN as u32);
            self.backlog.advance();
        } else {
            guest_warn!("a buffer on the event queue without room for an event");
            chain.complete(0);
        }
    }

    /// Lifts what is pressed, as far as the reserve goes, and gives the rest of it back.
    fn release(&mut self, cx: &mut Cx<'_>) {
        self.backlog.end(self.reserve.len());
        while let Some(event) = self.backlog.first() {
            let Some(chain) = self.reserve.pop_front() else {
                break;
            };
            self.give(event, chain);
        }
        self.backlog.forget();
        while let Some(chain) = self.reserve.pop_back() {
            cx.give_back(chain);
        }
    }

    /// Every buffer of the status queue comes back, when the host has got what it says.
    fn take_statuses(&mut self, cx: &mut Cx<'_>) {
        let mut chains = Vec::new();
        while let Some(mut chain) = cx.pop(STATUSQ) {
            let mut bytes = [0; EVENT_LEN];
            if chain.reader().read_exact(&mut bytes).is_ok() {
                let event = Event::from_bytes(bytes);
                self.statuses
                    .extend(Some(event).filter(|event| event.is_status()));
            } else {
                guest_warn!("a buffer on the status queue of less than {EVENT_LEN} bytes");
            }
            chains.push(chain);
        }
        if let Some(source) = self.source.as_mut().filter(|_| !self.statuses.is_empty()) {
            source.status(&self.statuses);
        }
        self.statuses.clear();
        chains.into_iter().for_each(|chain| chain.complete(0));
    }
}

impl Drop for InputWorker {
    /// The source goes home, for the next guest.
    fn drop(&mut self) {
        if let Some(mut source) = self.source.take() {
            if self.attached {
                source.detach();
            }
            self.home.welcome(source);
        }
    }
}

impl Worker for InputWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        if q == EVENTQ {
            self.attach();
            self.deliver(cx);
        } else {
            self.take_statuses(cx);
        }
    }

    fn event(&mut self, cx: &mut Cx<'_>, token: Token, _ready: Ready) {
        if self.watched == Some(token) {
            self.gather();
            self.deliver(cx);
        }
    }

    /// A guest that is reset, one that is paused, and one whose device ends look the same here: keys are lifted. What
    /// waits is of no use to the first; the second gets the state of the device when it goes on.
    fn stop(&mut self, cx: &mut Cx<'_>, q: usize) {
        if q != EVENTQ {
            return;
        }
        if let Some(token) = self.watched.take() {
            cx.unwatch(token);
        }
        if let Some(source) = self.source.as_mut().filter(|_| self.attached) {
            source.detach();
            self.attached = false;
        }
        self.release(cx);
    }
}
