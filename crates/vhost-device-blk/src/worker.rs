// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path of one thread: chains to requests to the engine, and completions back to chains.
//!
//! A request in flight has a slot; its chain waits there. Slots and what they hold are used again, so that
//! nothing is allocated once as many requests were in flight as there will be.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io::{self, Write};
use std::iter;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vu_common::{Chain, Cx, Interest, Ready, Segments, Token, Worker, guest_warn};
use vu_storage::{Completion, Engine, Op, Request};

use crate::device::{Shared, Step, status_of};
use crate::request::{Effect, Extent, HEADER_LEN, Segment};
use crate::spec::{SECTOR, status};

/// Requests that are submitted at most before the engine is told to start: enough to share a system call, and few
/// enough that a driver gets the first answers, and makes more requests of them, while the last ones are carried out.
const BATCH: usize = 8;

/// The data path of one thread of a disk.
pub struct BlkWorker {
    /// Dropped first: it waits for what is in flight.
    engine: Box<dyn Engine>,
    shared: Arc<Shared>,
    /// Negotiated feature bits.
    features: u64,
    slots: Vec<Slot>,
    free: Vec<u32>,
    depth: usize,
    done: Vec<Completion>,
    /// Requests of a batch that are still to be looked at; empty but in `take`.
    popped: Vec<Chain>,
    /// Where the segments of a request are put when it is parsed.
    segments: Vec<Segment>,
    /// Requests were submitted that the engine has not been told to start.
    uncommitted: bool,
    /// The engine's descriptor.
    watch: Option<Token>,
    /// Goes on when the rate allows it.
    timer: Option<Token>,
    /// Virtqueues in which requests are left: all slots are taken, or the rate is reached.
    waiting: Vec<usize>,
}

/// One request in flight.
#[derive(Default)]
struct Slot {
    chain: Option<Chain>,
    /// What is being done, for the log.
    at: Option<(Op, Extent)>,
    /// Bytes of data in the device-writable part, if it succeeds.
    written: usize,
    /// What happens to segments.
    effect: Option<Effect>,
    /// Segments that are still to be done, the next one last.
    segments: Vec<Segment>,
    /// Room for pieces of memory while none are in use.
    data: Segments,
}

/// Why no more requests are taken off a virtqueue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Enough for one batch.
    Batch,
    /// It is empty.
    Empty,
    /// All slots are taken.
    Full,
    /// The rate is reached; a timer runs.
    Rate,
}

impl Worker for BlkWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        self.watch(cx);
        // A storage on the network may find out by itself that it has changed.
        self.shared.tell_capacity();
        loop {
            let pause = self.take(cx, q);
            let progress = self.settle();
            match pause {
                Pause::Batch => {}
                Pause::Empty | Pause::Full if progress => {}
                Pause::Empty => break,
                Pause::Full | Pause::Rate => {
                    if !self.waiting.contains(&q) {
                        self.waiting.push(q);
                    }
                    break;
                }
            }
        }
    }

    fn event(&mut self, cx: &mut Cx<'_>, token: Token, _ready: Ready) {
        if self.timer == Some(token) {
            self.timer = None;
            self.resume(cx);
        } else if self.watch == Some(token) {
            self.poll(cx);
        }
    }

    fn poll(&mut self, cx: &mut Cx<'_>) {
        if self.free.len() < self.slots.len() && self.settle() {
            self.resume(cx);
        }
    }

    /// What is in flight completes by itself; nothing waits on this side.
    fn stop(&mut self, cx: &mut Cx<'_>, q: usize) {
        self.waiting.retain(|waiting| *waiting != q);
        if self.waiting.is_empty()
            && let Some(timer) = self.timer.take()
        {
            cx.cancel(timer);
        }
    }
}

impl BlkWorker {
    pub(crate) fn new(shared: Arc<Shared>, features: u64, depth: usize) -> io::Result<Self> {
        let engine = shared.disk.engine(depth)?;
        Ok(Self {
            engine,
            shared,
            features,
            slots: Vec::new(),
            free: Vec::new(),
            depth,
            done: Vec::with_capacity(depth),
            popped: Vec::new(),
            segments: Vec::new(),
            uncommitted: false,
            watch: None,
            timer: None,
            waiting: Vec::new(),
        })
    }

    /// The first call of all that can watch anything. Where that fails, it is tried again at the next kick.
    fn watch(&mut self, cx: &mut Cx<'_>) {
        if self.watch.is_none()
            && let Some(fd) = self.engine.fd()
        {
            match cx.watch(fd, Interest::READABLE) {
                Ok(token) => self.watch = Some(token),
                Err(e) => guest_warn!("{}: cannot wait for completions: {e}", self.shared.service.name),
            }
        }
    }

    /// Takes requests off virtqueue `q` and submits them.
    fn take(&mut self, cx: &mut Cx<'_>, q: usize) -> Pause {
        if self.timer.is_some() {
            return Pause::Rate;
        }
        let room = self
            .depth
            .saturating_sub(self.slots.len())
            .saturating_add(self.free.len());
        if room == 0 {
            return Pause::Full;
        }
        // All are popped before the first is looked at: by then its header has come from the driver's CPU.
        let wanted = BATCH.min(room);
        let mut popped = mem::take(&mut self.popped);
        popped.extend(iter::from_fn(|| cx.pop(q)).take(wanted));
        let mut pause = if popped.len() < wanted {
            Pause::Empty
        } else {
            Pause::Batch
        };
        let mut chains = popped.drain(..);
        while let Some(chain) = chains.next() {
            if let Err(wait) = self.allow(&chain) {
                chains.by_ref().rev().for_each(|later| cx.give_back(later));
                cx.give_back(chain);
                self.timer = Some(cx.timer(wait));
                pause = Pause::Rate;
                break;
            }
            self.begin(chain);
        }
        drop(chains);
        self.popped = popped;
        pause
    }

    /// Whether the rate allows a request now; if not, how long it has to wait.
    fn allow(&self, chain: &Chain) -> Result<(), Duration> {
        self.shared.limiter.as_ref().map_or(Ok(()), |limiter| {
            let data = data_out(chain).saturating_add(data_in(chain));
            limiter.admit(data as u64, Instant::now())
        })
    }

    /// Goes on with the virtqueues that wait.
    fn resume(&mut self, cx: &mut Cx<'_>) {
        for _ in 0..self.waiting.len() {
            let q = self.waiting.remove(0);
            self.queue(cx, q);
        }
    }

    /// Answers a request, or submits it.
    fn begin(&mut self, mut chain: Chain) {
        if chain.writable_len() == 0 {
            let (name, queue) = (&self.shared.service.name, chain.queue());
            guest_warn!("{name}: queue {queue}: a request without room for its status");
            return chain.complete(0);
        }
        match self.shared.step(&mut chain, self.features, &mut self.segments) {
            Step::Answer { status, written } => answer(chain, status, written),
            Step::Submit(op, extent) => {
                let id = self.admit(chain);
                self.submit(id, op, extent);
            }
            Step::Segments(effect) => {
                let id = self.admit(chain);
                if let Some(slot) = self.slots.get_mut(id as usize) {
                    mem::swap(&mut slot.segments, &mut self.segments);
                    slot.segments.retain(|segment| segment.extent.len > 0);
                    slot.segments.reverse();
                    slot.effect = Some(effect);
                }
                self.go_on(id, status::OK);
            }
        }
    }

    /// Gives a request its slot.
    fn admit(&mut self, chain: Chain) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len().saturating_sub(1) as u32
        });
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.chain = Some(chain);
        }
        id
    }

    fn submit(&mut self, id: u32, op: Op, extent: Extent) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        let mut data = mem::take(&mut slot.data);
        slot.written = 0;
        if let Some(chain) = &slot.chain {
            match op {
                Op::Read => {
                    slot.written = data_in(chain);
                    chain.writable_segments(0..slot.written, &mut data);
                }
                Op::Write { .. } => chain.readable_segments(HEADER_LEN..chain.readable_len(), &mut data),
                Op::Flush | Op::Discard | Op::WriteZeroes { .. } | Op::SecureErase => {}
            }
        }
        slot.at = Some((op, extent));
        self.engine.submit(Request {
            id,
            op,
            offset: extent.offset,
            len: extent.len,
            data,
        });
        self.uncommitted = true;
    }

    /// Starts what was submitted and completes what is done. True if anything was.
    fn settle(&mut self) -> bool {
        let mut progress = false;
        loop {
            if mem::take(&mut self.uncommitted) {
                self.engine.commit();
            }
            let mut done = mem::take(&mut self.done);
            self.engine.reap(&mut done);
            let any = !done.is_empty();
            for completion in done.drain(..) {
                self.finish(completion);
            }
            self.done = done;
            progress |= any;
            if !self.uncommitted {
                return progress;
            }
        }
    }

    fn finish(&mut self, completion: Completion) {
        let Some(slot) = self.slots.get_mut(completion.id as usize) else {
            return;
        };
        slot.data = completion.data;
        // The guest's memory may go meanwhile.
        slot.data.clear();
        if let (Err(e), Some((op, Extent { offset, len }))) = (&completion.result, slot.at) {
            let (name, sector) = (&self.shared.service.name, offset / SECTOR);
            guest_warn!("{name}: {op:?} of {len} bytes at sector {sector}: {e}");
        }
        self.go_on(completion.id, status_of(&completion.result));
    }

    /// Submits the next segment of a request, if all went well so far and there is one, or answers it.
    fn go_on(&mut self, id: u32, status: u8) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        if status == status::OK
            && let (Some(effect), Some(segment)) = (slot.effect, slot.segments.pop())
        {
            let op = self.shared.op(effect, segment.unmap, self.features);
            return self.submit(id, op, segment.extent);
        }
        slot.segments.clear();
        slot.effect = None;
        let written = if status == status::OK { slot.written } else { 0 };
        if let Some(chain) = slot.chain.take() {
            answer(chain, status, written);
        }
        self.free.push(id);
    }
}

/// Answers a request of whose data `written` bytes are valid.
fn answer(mut chain: Chain, status: u8, written: usize) {
    let data = data_in(&chain);
    let mut writer = chain.writer();
    writer.skip(data);
    // There is room: a chain without any never comes here.
    let _ = writer.write(&[status]);
    chain.complete(u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1));
}

/// Bytes of data in the device-readable part.
fn data_out(chain: &Chain) -> usize {
    chain.readable_len().saturating_sub(HEADER_LEN)
}

/// Bytes of data in the device-writable part, at whose end the status is.
fn data_in(chain: &Chain) -> usize {
    chain.writable_len().saturating_sub(1)
}

#[cfg(test)]
mod tests;
