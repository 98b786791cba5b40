// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The requests of a running ring on their way: popped, marked in flight, answered, in the used ring, published.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::dirty::DirtyLog;
use crate::inflight::InflightQueue;
use crate::memory::Memory;
use crate::queue::Queue;
use crate::ring::{Ring, RingFault};

/// Chains that one turn may pop, so that no virtqueue starves the others or a stop.
const BUDGET: u16 = 512;

/// What the chains of a ring share: the virtqueue, which run of it, and the memory that they lie in.
pub(crate) struct Run {
    pub(crate) queue: Arc<Queue>,
    pub(crate) generation: u64,
    pub(crate) memory: Arc<Memory>,
}

impl Run {
    /// Whether the ring that a chain came from still runs; a chain of an earlier run is nobody's.
    pub(crate) fn is_current(&self) -> bool {
        self.queue.generation() == self.generation
    }
}

/// A head off the available ring, and its place there; `None` if a former process had popped it.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) index: u16,
    pub(crate) position: Option<u16>,
}

/// The state of a ring from its start to its stop.
pub(crate) struct Flow {
    ring: Ring,
    run: Arc<Run>,
    log: Arc<DirtyLog>,
    inflight: Option<InflightQueue>,
    in_flight: usize,
    /// Chains that wait to be popped again: given back, or left over by a former process.
    returned: VecDeque<Head>,
    /// Heads in the used ring that are not published yet.
    batch: Vec<u16>,
    /// The used index that the driver has been told of.
    signalled: u16,
    /// The driver kicks at the next head.
    armed: bool,
    /// The worker has found it empty, and has not been called for it since.
    resting: bool,
    /// Heads that were popped in this turn.
    taken: u16,
    /// The turn ended before the ring was empty.
    more: bool,
    /// Something was popped or answered in this turn.
    worked: bool,
}

impl Flow {
    /// Starts it, and takes over what the in-flight region says was popped before.
    pub(crate) fn new(
        mut ring: Ring,
        run: Arc<Run>,
        mut inflight: Option<InflightQueue>,
        log: Arc<DirtyLog>,
    ) -> Self {
        let heads = inflight
            .as_mut()
            .map_or_else(Vec::new, |inflight| inflight.recover(ring.next_used));
        if !heads.is_empty() {
            ring.rewind(ring.next_used.wrapping_add(heads.len() as u16));
            log::info!(
                "queue {}: {} requests of a former process are served again",
                run.queue.index(),
                heads.len()
            );
        }
        ring.want_kick(true, &log);
        let returned = |index| Head {
            index,
            position: None,
        };
        Self {
            signalled: ring.next_used,
            ring,
            run,
            log,
            inflight,
            in_flight: heads.len(),
            returned: heads.into_iter().map(returned).collect(),
            batch: Vec::new(),
            armed: true,
            resting: false,
            taken: 0,
            more: false,
            worked: false,
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The memory table changed: the areas are looked up again. Chains that are out keep the old table.
    pub(crate) fn remap(&mut self, memory: &Arc<Memory>) -> Result<(), RingFault> {
        let mut ring = Ring::new(*self.ring.layout(), memory.clone(), self.ring.next_avail)?;
        ring.next_used = self.ring.next_used;
        self.ring = ring;
        self.run = Arc::new(Run {
            queue: self.run.queue.clone(),
            generation: self.run.generation,
            memory: memory.clone(),
        });
        Ok(())
    }

    /// Chains that are with the device.
    pub(crate) fn held(&self) -> usize {
        self.in_flight.saturating_sub(self.returned.len())
    }

    /// The next head, those that were given back first. `None` if there is none now, or the turn is over.
    pub(crate) fn take(&mut self) -> Result<Option<Head>, RingFault> {
        if self.taken >= BUDGET {
            self.more = true;
            return Ok(None);
        }
        if let Some(head) = self.returned.pop_front() {
            return Ok(Some(head));
        }
        if self.ring.available()? == 0 {
            return Ok(None);
        }
        if std::mem::take(&mut self.armed) {
            self.ring.want_kick(false, &self.log);
        }
        if self.in_flight >= usize::from(self.ring.size()) {
            return Err(RingFault::TooManyInFlight);
        }
        let position = Some(self.ring.next_avail);
        let index = self.ring.take_head()?;
        self.in_flight = self.in_flight.saturating_add(1);
        self.taken = self.taken.saturating_add(1);
        (self.resting, self.worked) = (false, true);
        if let Some(inflight) = &mut self.inflight {
            inflight.begin(index);
        }
        Ok(Some(Head { index, position }))
    }

    /// The worker has found it empty.
    pub(crate) fn rest(&mut self) {
        self.resting = !self.more;
    }

    /// Ends a turn. True if something was popped or answered in it.
    pub(crate) fn end_turn(&mut self) -> bool {
        self.taken = 0;
        std::mem::take(&mut self.worked)
    }

    /// Whether the worker is to be called again: it was interrupted, or there is something new in a ring that
    /// it found empty, which it is told once. With `arm` the driver is asked to kick from now on.
    pub(crate) fn wakes(&mut self, arm: bool) -> Result<bool, RingFault> {
        if std::mem::take(&mut self.more) {
            return Ok(true);
        }
        if !self.resting || (arm && self.armed) {
            return Ok(false);
        }
        if arm {
            self.ring.want_kick(true, &self.log);
            self.armed = true;
        }
        let wakes = self.ring.available()? > 0;
        self.resting = !wakes;
        Ok(wakes)
    }

    /// Puts a head back, to be taken again before all others.
    pub(crate) fn give_back(&mut self, head: Head) {
        self.returned.push_front(head);
    }

    /// Puts a head into the used ring, not yet visible to the driver.
    pub(crate) fn answer(&mut self, head: u16, written: u32) {
        self.forget();
        self.worked = true;
        if let Some(inflight) = &self.inflight {
            inflight.link(head);
        }
        self.ring.write_used(head, written, &self.log);
        self.batch.push(head);
    }

    /// One chain less is out, without a word to the driver.
    pub(crate) fn forget(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Used elements that the driver cannot see yet.
    pub(crate) fn unpublished(&self) -> usize {
        self.batch.len()
    }

    /// Makes the batch visible. True if the driver wants an interrupt for it.
    pub(crate) fn publish(&mut self) -> bool {
        if self.batch.is_empty() {
            return false;
        }
        let wanted = self.ring.publish(self.signalled, &self.log);
        self.signalled = self.ring.next_used;
        if let Some(inflight) = &self.inflight {
            inflight.settle(&self.batch, self.ring.next_used);
        }
        self.batch.clear();
        wanted
    }

    /// The ring is broken: what the driver has not seen stays unseen.
    pub(crate) fn abandon(&mut self) {
        self.batch.clear();
    }

    /// Un-pops the chains that were given back, as far as they are the last ones popped; the others cannot
    /// be offered again, so they are completed empty, or left to the in-flight region.
    pub(crate) fn unpop(&mut self, broken: bool) {
        loop {
            let last = self.ring.next_avail.wrapping_sub(1);
            let Some(at) = self.returned.iter().position(|r| r.position == Some(last)) else {
                break;
            };
            self.ring.rewind(last);
            if let (Some(inflight), Some(returned)) = (&self.inflight, self.returned.remove(at)) {
                inflight.forget(returned.index);
            }
            self.forget();
        }
        if self.inflight.is_none() && !broken {
            while let Some(returned) = self.returned.pop_front() {
                self.answer(returned.index, 0);
            }
        }
    }
}
