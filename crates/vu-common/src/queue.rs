// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One virtqueue between its front end (set-up), its worker (pop) and whoever completes its chains.
//!
//! [`VringMutex`] holds a ring's base, kick, call and whether it is enabled, [`Layout`] where it lies, and
//! [`Ring`] is the ring that runs. The lock of this file covers all, so a live ring sees set-up messages
//! only between two requests. Only this file writes the used ring: pop -> in-flight mark -> ... -> used
//! element -> used index, once per batch -> one interrupt.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vhost_user_backend::{VringMutex, VringT};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::chain::{Chain, ChainFault, Origin, Parts, Walk};
use crate::dirty::DirtyLog;
use crate::guest_warn;
use crate::inflight::InflightQueue;
use crate::memory::{GuestSlice, Memory};
use crate::ring::{Layout, Ring, RingFault};

/// Chains that one call of a worker may pop, so that no virtqueue starves the others or a stop.
const TURN: u16 = 512;
/// Used elements that stay unpublished at most while a worker goes on popping: enough that publishing costs
/// little per request, and few enough that a driver refills the ring while slow requests are still served.
const BATCH: usize = 16;

type Vring = VringMutex<GuestMemoryAtomic<GuestMemoryMmap>>;

/// A chain that waits to be popped again: given back, or left over by a former process.
struct Returned {
    head: u16,
    position: Option<u16>,
}

/// What one virtqueue has seen; for the log and for people.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: u64,
    pub(crate) bad_chains: u64,
    pub(crate) interrupts: u64,
}

struct State {
    vring: Vring,
    layout: Layout,
    error: Option<File>,
    /// SET_VRING_KICK has come, and no GET_VRING_BASE since.
    started: bool,
    ring: Option<Ring>,
    broken: bool,
    /// Counts stops: a chain of an earlier run is nobody's.
    generation: u64,
    in_flight: usize,
    returned: VecDeque<Returned>,
    inflight: Option<InflightQueue>,
    /// Heads in the used ring that are not published yet.
    batch: Vec<u16>,
    signalled: u16,
    kicks_off: bool,
    in_turn: bool,
    /// Nothing more is popped: a stop is under way.
    stopping: bool,
    budget: u16,
    more: bool,
    spare: Vec<Vec<GuestSlice>>,
    counters: Counters,
}

/// One virtqueue.
pub(crate) struct Queue {
    index: usize,
    log: Arc<DirtyLog>,
    state: Mutex<State>,
    idle: Condvar,
}

impl Queue {
    pub(crate) fn new(index: usize, max_size: u16, log: Arc<DirtyLog>) -> Result<Self, virtio_queue::Error> {
        let vring = Vring::new(GuestMemoryAtomic::new(GuestMemoryMmap::new()), max_size)?;
        let layout = Layout {
            size: 0,
            desc: 0,
            avail: 0,
            used: 0,
            event_idx: false,
            indirect: false,
        };
        let state = State {
            vring,
            layout,
            error: None,
            started: false,
            ring: None,
            broken: false,
            generation: 0,
            in_flight: 0,
            returned: VecDeque::new(),
            inflight: None,
            batch: Vec::new(),
            signalled: 0,
            kicks_off: false,
            in_turn: false,
            stopping: false,
            budget: TURN,
            more: false,
            spare: Vec::new(),
            counters: Counters::default(),
        };
        Ok(Self {
            index,
            log,
            state: Mutex::new(state),
            idle: Condvar::new(),
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    // Set-up, by the session.

    /// Entries of the ring, as the front end set them.
    pub(crate) fn size(&self) -> u16 {
        self.lock().layout.size
    }

    /// False on a running ring, whose size and base must not change.
    pub(crate) fn set_size(&self, size: u16) -> bool {
        let mut s = self.lock();
        if s.ring.is_none() {
            s.layout.size = size;
        }
        s.ring.is_none()
    }

    /// False on a running ring.
    pub(crate) fn set_base(&self, base: u16) -> bool {
        let s = self.lock();
        if s.ring.is_none() {
            s.vring.set_queue_next_avail(base);
        }
        s.ring.is_none()
    }

    /// Guest addresses of the three areas. A running ring may be told its own addresses again (QEMU does
    /// so when migration logging toggles), and nothing happens; false for any others.
    pub(crate) fn set_addr(&self, desc: u64, avail: u64, used: u64) -> bool {
        let mut s = self.lock();
        let same = (s.layout.desc, s.layout.avail, s.layout.used) == (desc, avail, used);
        if s.ring.is_none() {
            (s.layout.desc, s.layout.avail, s.layout.used) = (desc, avail, used);
        }
        s.ring.is_none() || same
    }

    pub(crate) fn set_features(&self, event_idx: bool, indirect: bool) {
        let mut s = self.lock();
        (s.layout.event_idx, s.layout.indirect) = (event_idx, indirect);
    }

    pub(crate) fn set_kick(&self, kick: Option<File>) {
        let mut s = self.lock();
        s.vring.set_kick(kick);
        s.started = true;
    }

    /// The kick to wait for; `None` if the front end wants the ring polled.
    pub(crate) fn kick(&self) -> Option<RawFd> {
        let s = self.lock();
        s.vring.get_ref().get_kick().as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether it runs without a kick descriptor.
    pub(crate) fn is_polled(&self) -> bool {
        let s = self.lock();
        s.ring.is_some() && !s.broken && s.vring.get_ref().get_kick().is_none()
    }

    /// The new call is pulsed at once: an interrupt may have gone to the old one, or to none.
    pub(crate) fn set_call(&self, call: Option<File>) {
        let mut s = self.lock();
        if let Some(call) = &call {
            never_block(call);
        }
        s.vring.set_call(call);
        if s.ring.is_some() {
            s.interrupt(self.index);
        }
    }

    pub(crate) fn set_error(&self, error: Option<File>) {
        if let Some(error) = &error {
            never_block(error);
        }
        self.lock().error = error;
    }

    pub(crate) fn set_enabled(&self, enabled: bool) {
        self.lock().vring.set_enabled(enabled);
    }

    /// Whether it should run: a kick was given, it is enabled, and it is not broken.
    pub(crate) fn wanted(&self) -> bool {
        let s = self.lock();
        s.started && !s.broken && s.vring.get_ref().is_enabled()
    }

    pub(crate) fn is_running(&self) -> bool {
        let s = self.lock();
        s.ring.is_some() && !s.broken
    }

    // Life of the ring, by the session.

    /// Starts the ring, and takes over what the in-flight region says was popped before.
    pub(crate) fn start(
        &self,
        memory: Arc<Memory>,
        inflight: Option<InflightQueue>,
    ) -> Result<(), RingFault> {
        let mut s = self.lock();
        let next_avail = s.vring.queue_next_avail();
        let mut ring = Ring::new(s.layout, memory, next_avail)?;
        s.inflight = inflight;
        if let Some(inflight) = &mut s.inflight {
            let heads = inflight.recover(ring.next_used);
            s.in_flight = heads.len();
            if !heads.is_empty() {
                ring.next_avail = ring.next_used.wrapping_add(heads.len() as u16);
                log::info!(
                    "queue {}: {} requests of a former process are served again",
                    self.index,
                    heads.len()
                );
            }
            s.returned = heads
                .into_iter()
                .map(|head| Returned { head, position: None })
                .collect();
        }
        s.signalled = ring.next_used;
        ring.want_kick(true, &self.log);
        s.kicks_off = false;
        s.ring = Some(ring);
        Ok(())
    }

    /// The memory table changed: the areas are looked up again.
    pub(crate) fn remap(&self, memory: &Arc<Memory>) {
        let mut s = self.lock();
        let Some(old) = &s.ring else { return };
        match Ring::new(*old.layout(), memory.clone(), old.next_avail) {
            Ok(mut ring) => {
                ring.next_used = old.next_used;
                s.ring = Some(ring);
            }
            Err(fault) => s.retire(self.index, fault),
        }
    }

    /// Ends the ring for good, until the front end sets it up anew.
    pub(crate) fn retire(&self, fault: RingFault) {
        self.lock().retire(self.index, fault);
    }

    /// Nothing is popped from here on; the worker may now be told to let go.
    pub(crate) fn begin_stop(&self) {
        self.lock().stopping = true;
    }

    /// Waits until every chain is completed or given back, at most for `patience`.
    pub(crate) fn drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut s = self.lock();
        while s.ring.is_some() && s.in_flight > s.returned.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let held = s.in_flight.saturating_sub(s.returned.len());
                log::error!(
                    "queue {}: the device still holds {held} chains and is stopped without them",
                    self.index
                );
                break;
            }
            (s, _) = self
                .idle
                .wait_timeout(s, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends this run of the ring and returns the index of the next available head.
    ///
    /// With `settle` the driver goes on from that index, so chains that were given back are un-popped or
    /// answered. Without, the front end has gone, and what is not answered will be found unanswered.
    pub(crate) fn stop(&self, settle: bool) -> u16 {
        let mut s = self.lock();
        if settle {
            s.unpop(&self.log);
            s.flush(self.index, &self.log);
        }
        if let Some(ring) = s.ring.take() {
            s.vring.set_queue_next_avail(ring.next_avail);
        }
        s.vring.set_kick(None);
        (s.started, s.broken, s.stopping) = (false, false, false);
        s.generation = s.generation.wrapping_add(1);
        s.in_flight = 0;
        s.returned.clear();
        s.batch.clear();
        s.inflight = None;
        s.vring.queue_next_avail()
    }

    // The data path, by the worker.

    /// From here to `end_turn` used elements are collected and published together.
    pub(crate) fn begin_turn(&self) {
        let mut s = self.lock();
        s.in_turn = true;
        s.budget = TURN;
        s.more = false;
    }

    /// Publishes the batch. True if the worker should be called again at once.
    pub(crate) fn end_turn(&self) -> bool {
        let mut s = self.lock();
        s.in_turn = false;
        s.flush(self.index, &self.log);
        if s.ring.as_ref().is_some_and(|ring| ring.memory().truncated()) {
            s.retire(self.index, RingFault::Truncated);
        }
        s.more
    }

    /// The next request, those that were given back first.
    pub(crate) fn pop(self: &Arc<Self>) -> Option<Chain> {
        loop {
            let mut s = self.lock();
            let (head, position) = s.next_head(self.index, &self.log)?;
            let slices = s.spare.pop().unwrap_or_default();
            let ring = s.ring.as_ref()?;
            match Walk::run(ring, head, slices) {
                Ok(walk) => {
                    let parts = walk.finish(ring.memory().clone());
                    s.counters.requests = s.counters.requests.wrapping_add(1);
                    let generation = s.generation;
                    drop(s);
                    let origin = Origin {
                        queue: self.clone(),
                        generation,
                        head,
                        position,
                    };
                    return Some(Chain::new(origin, parts));
                }
                Err((fault, slices)) => self.refuse(s, head, fault, slices),
            }
        }
    }

    /// Answers a malformed chain: its head comes back with length 0, and the queue goes on.
    fn refuse(&self, mut s: MutexGuard<'_, State>, head: u16, fault: ChainFault, slices: Vec<GuestSlice>) {
        s.counters.bad_chains = s.counters.bad_chains.wrapping_add(1);
        s.recycle(slices);
        s.add_used(head, 0, self.index, &self.log);
        let count = s.counters.bad_chains;
        drop(s);
        guest_warn!(
            "queue {}: bad descriptor chain at {head}: {fault} (the {count}. so far)",
            self.index
        );
    }

    /// Puts a chain back, to be popped again before all others.
    pub(crate) fn give_back(&self, chain: Chain) {
        let Some((origin, slices)) = chain.into_origin() else {
            return;
        };
        let mut s = self.lock();
        s.recycle(slices);
        if s.generation == origin.generation {
            s.returned.push_front(Returned {
                head: origin.head,
                position: origin.position,
            });
            self.idle.notify_all();
        }
    }

    /// Answers a chain; one of an earlier run of the ring is dropped in silence.
    pub(crate) fn complete(&self, origin: &Origin, parts: &mut Parts, written: u32) {
        let mut s = self.lock();
        if s.generation == origin.generation {
            if self.log.is_on() {
                for slice in parts.buffers.part(true) {
                    self.log.mark(slice.guest_addr(), slice.len() as u64);
                }
            }
            s.add_used(
                origin.head,
                written.min(parts.writable_len),
                self.index,
                &self.log,
            );
            self.idle.notify_all();
        }
        s.recycle(std::mem::take(&mut parts.buffers.slices));
    }

    pub(crate) fn is_current(&self, origin: &Origin) -> bool {
        let s = self.lock();
        s.generation == origin.generation && s.ring.is_some()
    }
}

impl State {
    /// The head to serve next. `None` if there is none now, or the turn is over.
    fn next_head(&mut self, index: usize, log: &DirtyLog) -> Option<(u16, Option<u16>)> {
        if self.broken || self.stopping || !self.vring.get_ref().is_enabled() {
            return None;
        }
        if self.budget == 0 {
            self.more = true;
            return None;
        }
        if self.batch.len() >= BATCH {
            self.flush(index, log);
        }
        if let Some(Returned { head, position }) = self.returned.pop_front() {
            return Some((head, position));
        }
        match self.take_head(index, log) {
            Ok(found) => found,
            Err(fault) => {
                self.retire(index, fault);
                None
            }
        }
    }

    fn take_head(&mut self, index: usize, log: &DirtyLog) -> Result<Option<(u16, Option<u16>)>, RingFault> {
        let Some(ring) = &self.ring else { return Ok(None) };
        let mut available = ring.available()?;
        if available == 0 {
            ring.want_kick(true, log);
            self.kicks_off = false;
            self.flush(index, log);
            let Some(ring) = &self.ring else { return Ok(None) };
            available = ring.available()?;
        }
        let Some(ring) = &mut self.ring else {
            return Ok(None);
        };
        if available == 0 {
            return Ok(None);
        }
        if !self.kicks_off {
            ring.want_kick(false, log);
            self.kicks_off = true;
        }
        if self.in_flight >= usize::from(ring.size()) {
            return Err(RingFault::TooManyInFlight);
        }
        let position = ring.next_avail;
        let head = ring.take_head()?;
        self.in_flight = self.in_flight.saturating_add(1);
        self.budget = self.budget.saturating_sub(1);
        if let Some(inflight) = &mut self.inflight {
            inflight.begin(head);
        }
        Ok(Some((head, Some(position))))
    }

    fn add_used(&mut self, head: u16, written: u32, index: usize, log: &DirtyLog) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(ring) = self.ring.as_mut().filter(|_| !self.broken) else {
            return;
        };
        if let Some(inflight) = &self.inflight {
            inflight.link(head);
        }
        ring.write_used(head, written, log);
        self.batch.push(head);
        if !self.in_turn {
            self.flush(index, log);
        }
    }

    /// Publishes the batch, and interrupts the driver if it wants that.
    fn flush(&mut self, index: usize, log: &DirtyLog) {
        if self.batch.is_empty() {
            return;
        }
        if let Some(ring) = &self.ring {
            let wanted = ring.publish(self.signalled, log);
            self.signalled = ring.next_used;
            if let Some(inflight) = &self.inflight {
                inflight.settle(&self.batch, ring.next_used);
            }
            if wanted {
                self.interrupt(index);
            }
        }
        self.batch.clear();
    }

    fn interrupt(&mut self, index: usize) {
        self.counters.interrupts = self.counters.interrupts.wrapping_add(1);
        if let Err(e) = self.vring.signal_used_queue() {
            // A full eventfd has an interrupt pending already; a closed one belongs to a front end that goes.
            log::debug!("queue {index}: cannot interrupt the driver: {e}");
        }
    }

    /// Un-pops the chains that were given back, as far as they are the last ones popped; the others cannot
    /// be offered again, so they are completed empty, or left to the in-flight region.
    fn unpop(&mut self, log: &DirtyLog) {
        let Some(ring) = &mut self.ring else { return };
        loop {
            let last = ring.next_avail.wrapping_sub(1);
            let Some(at) = self.returned.iter().position(|r| r.position == Some(last)) else {
                break;
            };
            ring.next_avail = last;
            if let (Some(inflight), Some(returned)) = (&self.inflight, self.returned.remove(at)) {
                inflight.forget(returned.head);
            }
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if self.inflight.is_none() && !self.broken {
            for returned in self.returned.drain(..) {
                ring.write_used(returned.head, 0, log);
                self.batch.push(returned.head);
            }
        }
    }

    fn retire(&mut self, index: usize, fault: RingFault) {
        if self.broken {
            return;
        }
        self.broken = true;
        self.batch.clear();
        log::error!("queue {index}: {fault}: the queue stops until it is set up anew");
        if let Some(error) = &self.error
            && let Err(e) = rustix::io::write(error, &1_u64.to_ne_bytes())
        {
            log::debug!("queue {index}: cannot signal the error: {e}");
        }
    }

    fn recycle(&mut self, mut slices: Vec<GuestSlice>) {
        const KEPT: usize = 1024;
        if self.spare.len() < 256 && slices.capacity() > 0 && slices.capacity() <= KEPT {
            slices.clear();
            self.spare.push(slices);
        }
    }
}

/// A front end may fill its own eventfd or never read its socket: a write must not block on that.
fn never_block(file: &File) {
    let set = rustix::fs::fcntl_getfl(file.as_fd())
        .and_then(|flags| rustix::fs::fcntl_setfl(file.as_fd(), flags | rustix::fs::OFlags::NONBLOCK));
    if let Err(e) = set {
        log::warn!("cannot make a call or error descriptor non-blocking: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::memory::Memory;
    use crate::memory::tests::{guest, put};
    use std::sync::Arc;
    use std::time::Duration;

    const AVAIL: u64 = 0x100;
    const USED: u64 = 0x200;

    /// A running ring of 8 entries whose heads 0 to 5, of one byte each, are available.
    fn running() -> (Arc<Queue>, Arc<Memory>) {
        let memory = guest(&[(0, 0x1000)]);
        for head in 0..8_u16 {
            let desc = [0x800_u64.to_le_bytes(), 0x2_0000_0001_u64.to_le_bytes()].concat();
            put(&memory, 16 * u64::from(head), &desc);
            put(&memory, AVAIL + 4 + 2 * u64::from(head), &head.to_le_bytes());
        }
        put(&memory, AVAIL + 2, &6_u16.to_le_bytes());
        let queue = Arc::new(Queue::new(0, 8, Arc::default()).expect("a queue"));
        assert!(queue.set_size(8) && queue.set_addr(0, AVAIL, USED));
        queue.set_enabled(true);
        queue.begin_turn();
        queue.start(memory.clone(), None).expect("it starts");
        (queue, memory)
    }

    /// The used ring: its index, and the heads up to there.
    fn used(memory: &Memory) -> Vec<u8> {
        let mut ring = [0; 4 + 8 * 8];
        memory
            .slice(USED, ring.len() as u32)
            .expect("it is mapped")
            .read(0, &mut ring);
        (0..usize::from(ring[2])).map(|at| ring[4 + 8 * at]).collect()
    }

    #[test]
    fn what_is_answered_in_a_turn_is_published_at_its_end() {
        let (queue, memory) = running();
        for _ in 0..3 {
            queue.pop().expect("a chain").complete(1);
        }
        assert_eq!(used(&memory), []);
        assert!(!queue.end_turn());
        assert_eq!(used(&memory), [0, 1, 2]);
        queue.pop().expect("a chain").complete(1);
        assert_eq!(used(&memory), [0, 1, 2, 3], "outside of a turn at once");
    }

    #[test]
    fn what_is_given_back_is_popped_next() {
        let (queue, memory) = running();
        let first = queue.pop().expect("a chain");
        let second = queue.pop().expect("a chain");
        queue.give_back(second);
        queue.give_back(first);
        while let Some(chain) = queue.pop() {
            chain.complete(1);
        }
        assert_eq!(used(&memory), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_chain_that_is_still_held_after_a_stop_belongs_to_nobody() {
        let (queue, memory) = running();
        let [answered, given, dropped] = [(); 3].map(|()| queue.pop().expect("a chain"));
        queue.end_turn();
        queue.begin_stop();
        assert!(queue.pop().is_none());
        queue.drain(Duration::ZERO);
        assert_eq!(queue.stop(true), 3);
        queue.set_enabled(true);
        queue.start(memory.clone(), None).expect("it starts again");
        answered.complete(1);
        queue.give_back(given);
        drop(dropped);
        assert_eq!(used(&memory), []);
        queue.pop().expect("the next one").complete(1);
        assert_eq!(used(&memory), [3]);
    }

    #[test]
    fn a_broken_ring_gives_and_takes_nothing_until_it_is_set_up_anew() {
        let (queue, memory) = running();
        let held = queue.pop().expect("a chain");
        put(&memory, AVAIL + 2, &9_u16.to_le_bytes());
        // The indices differ by 8, as many as it has entries: still possible.
        queue.pop().expect("a chain").complete(1);
        put(&memory, AVAIL + 2, &99_u16.to_le_bytes());
        assert!(queue.pop().is_none() && !queue.is_running());
        held.complete(1);
        queue.end_turn();
        assert_eq!(used(&memory), []);
        queue.stop(true);
        put(&memory, AVAIL + 2, &6_u16.to_le_bytes());
        queue.set_enabled(true);
        queue.start(memory.clone(), None).expect("it starts again");
        assert!(queue.is_running());
    }
}
