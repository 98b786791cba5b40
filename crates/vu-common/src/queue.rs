// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One virtqueue as its front end sets it up, starts and stops it.
//!
//! [`VringMutex`] holds a ring's base, kick and call, [`Layout`] where it lies, and [`Flow`] the ring that
//! runs. The virtqueues of a thread lie in one `Group`: the session comes in between two turns of the worker.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vhost_user_backend::{VringMutex, VringT};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::counters::Counters;
use crate::flow::{Flow, Head, Run};
use crate::group::Group;
use crate::inflight::InflightQueue;
use crate::memory::Memory;
use crate::ring::{Layout, Ring, RingFault};

type Vring = VringMutex<GuestMemoryAtomic<GuestMemoryMmap>>;

/// One virtqueue, behind the lock of its group.
pub(crate) struct State {
    index: usize,
    vring: Vring,
    layout: Layout,
    error: Option<File>,
    enabled: bool,
    /// SET_VRING_KICK has come, and no GET_VRING_BASE since.
    started: bool,
    /// The front end wants it polled.
    kickless: bool,
    broken: bool,
    /// Nothing more is popped: a stop is under way.
    stopping: bool,
    flow: Option<Flow>,
    pub(crate) counters: Counters,
    /// The request that is timed now, by its head, and when it was popped.
    timed: Option<(u16, Instant)>,
}

impl State {
    pub(crate) fn new(index: usize, max_size: u16) -> Result<Self, virtio_queue::Error> {
        let layout = Layout {
            size: 0,
            desc: 0,
            avail: 0,
            used: 0,
            event_idx: false,
            indirect: false,
        };
        Ok(Self {
            index,
            vring: Vring::new(GuestMemoryAtomic::new(GuestMemoryMmap::new()), max_size)?,
            layout,
            error: None,
            enabled: false,
            started: false,
            kickless: false,
            broken: false,
            stopping: false,
            flow: None,
            counters: Counters::default(),
            timed: None,
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether it runs without a kick descriptor.
    pub(crate) fn is_polled(&self) -> bool {
        self.kickless && self.flow.is_some() && !self.broken
    }

    /// The running ring, unless it is broken.
    pub(crate) fn flow(&mut self) -> Option<&mut Flow> {
        self.flow.as_mut().filter(|_| !self.broken)
    }

    /// The running ring, if requests may be popped now.
    fn open(&mut self) -> Option<&mut Flow> {
        let open = self.enabled && !self.stopping;
        self.flow().filter(|_| open)
    }

    /// The next head. `None` if there is none now.
    pub(crate) fn take(&mut self) -> Option<Head> {
        let taken = self.open()?.take();
        taken.unwrap_or_else(|fault| {
            self.retire(fault);
            None
        })
    }

    /// The worker has found it empty.
    pub(crate) fn rest(&mut self) {
        if let Some(flow) = self.open() {
            flow.rest();
        }
    }

    /// Ends a turn, and says whether it came to anything and whether the worker is to be called again.
    /// With `arm` the driver is asked to kick from now on if the ring is empty.
    pub(crate) fn end_turn(&mut self, arm: bool) -> (bool, bool) {
        self.publish();
        if self.flow().is_some_and(|flow| flow.ring().memory().truncated()) {
            self.retire(RingFault::Truncated);
        }
        let worked = self.flow.as_mut().is_some_and(Flow::end_turn);
        let wakes = self.open().map_or(Ok(false), |flow| flow.wakes(arm));
        let wakes = wakes.unwrap_or_else(|fault| {
            self.retire(fault);
            false
        });
        (worked, wakes)
    }

    /// A request goes to the device.
    pub(crate) fn popped(&mut self, head: u16, readable: u32) {
        if self.counters.request(readable) && self.timed.is_none() {
            self.timed = Some((head, Instant::now()));
        }
    }

    /// It comes back, to be popped again.
    pub(crate) fn unpopped(&mut self, head: u16, readable: u32) {
        self.counters.unrequest(readable);
        self.timed = self.timed.filter(|(timed, _)| *timed != head);
    }

    /// It is answered.
    pub(crate) fn served(&mut self, head: u16, written: u32) {
        self.counters.bytes_written = self.counters.bytes_written.wrapping_add(written.into());
        if let Some((timed, since)) = self.timed
            && timed == head
        {
            self.counters.took(since.elapsed());
            self.timed = None;
        }
    }

    /// Puts a head into the used ring.
    pub(crate) fn answer(&mut self, head: u16, written: u32) {
        match &mut self.flow {
            Some(flow) if self.broken => flow.forget(),
            Some(flow) => flow.answer(head, written),
            None => {}
        }
    }

    /// Puts a head back, to be popped again.
    pub(crate) fn give_back(&mut self, head: Head) {
        if let Some(flow) = &mut self.flow {
            flow.give_back(head);
        }
    }

    /// Shows the driver what has been answered, and interrupts it if it wants that.
    pub(crate) fn publish(&mut self) {
        if self.flow().is_some_and(Flow::publish) {
            self.interrupt();
        }
    }

    fn interrupt(&mut self) {
        self.counters.interrupts = self.counters.interrupts.wrapping_add(1);
        if let Err(e) = self.vring.signal_used_queue() {
            // A full eventfd has an interrupt pending already; a closed one belongs to a front end that goes.
            log::debug!("queue {}: cannot interrupt the driver: {e}", self.index);
        }
    }

    fn retire(&mut self, fault: RingFault) {
        if std::mem::replace(&mut self.broken, true) {
            return;
        }
        if let Some(flow) = &mut self.flow {
            flow.abandon();
        }
        log::error!(
            "queue {}: {fault}: the queue stops until it is set up anew",
            self.index
        );
        if let Some(error) = &self.error
            && let Err(e) = rustix::io::write(error, &1_u64.to_ne_bytes())
        {
            log::debug!("queue {}: cannot signal the error: {e}", self.index);
        }
    }

    /// Ends the run and returns the index of the next available head.
    fn stop(&mut self, settle: bool) -> u16 {
        if settle {
            let broken = self.broken;
            if let Some(flow) = &mut self.flow {
                flow.unpop(broken);
            }
            self.publish();
        }
        if let Some(flow) = self.flow.take() {
            self.vring.set_queue_next_avail(flow.ring().next_avail);
        }
        self.vring.set_kick(None);
        self.timed = None;
        (self.started, self.broken, self.stopping) = (false, false, false);
        self.vring.queue_next_avail()
    }
}

/// The session's hold on one virtqueue.
pub(crate) struct Queue {
    index: usize,
    group: Arc<Group>,
    /// Counts stops: a chain of an earlier run is nobody's.
    generation: AtomicU64,
}

impl Queue {
    /// Virtqueue `index`, which must be one of `group`.
    pub(crate) fn new(index: usize, group: Arc<Group>) -> Self {
        Self {
            index,
            group,
            generation: AtomicU64::new(0),
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn visit<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        what(self.group.visit().state(self.index))
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut counters = self.visit(|s| s.counters);
        counters.kicks = self.group.kicks(self.index);
        counters
    }

    /// Chains that are with the device.
    pub(crate) fn in_flight(&self) -> usize {
        self.visit(|s| s.flow.as_ref().map_or(0, Flow::held))
    }

    // Set-up.

    /// Entries of the ring, as the front end set them.
    pub(crate) fn size(&self) -> u16 {
        self.visit(|s| s.layout.size)
    }

    /// False on a running ring, whose size and base must not change.
    pub(crate) fn set_size(&self, size: u16) -> bool {
        self.visit(|s| {
            if s.flow.is_none() {
                s.layout.size = size;
            }
            s.flow.is_none()
        })
    }

    /// False on a running ring.
    pub(crate) fn set_base(&self, base: u16) -> bool {
        self.visit(|s| {
            if s.flow.is_none() {
                s.vring.set_queue_next_avail(base);
            }
            s.flow.is_none()
        })
    }

    /// Guest addresses of the three areas. A running ring may be told its own addresses again (QEMU does
    /// so when migration logging toggles), and nothing happens; false for any others.
    pub(crate) fn set_addr(&self, desc: u64, avail: u64, used: u64) -> bool {
        self.visit(|s| {
            let same = (s.layout.desc, s.layout.avail, s.layout.used) == (desc, avail, used);
            if s.flow.is_none() {
                (s.layout.desc, s.layout.avail, s.layout.used) = (desc, avail, used);
            }
            s.flow.is_none() || same
        })
    }

    pub(crate) fn set_features(&self, event_idx: bool, indirect: bool) {
        self.visit(|s| (s.layout.event_idx, s.layout.indirect) = (event_idx, indirect));
    }

    pub(crate) fn set_kick(&self, kick: Option<File>) {
        self.visit(|s| {
            s.kickless = kick.is_none();
            s.vring.set_kick(kick);
            s.started = true;
        });
    }

    /// The kick to wait for; `None` if the front end wants the ring polled.
    pub(crate) fn kick(&self) -> Option<RawFd> {
        self.visit(|s| s.vring.get_ref().get_kick().as_ref().map(AsRawFd::as_raw_fd))
    }

    /// The new call is pulsed at once: an interrupt may have gone to the old one, or to none.
    pub(crate) fn set_call(&self, call: Option<File>) {
        if let Some(call) = &call {
            never_block(call);
        }
        self.visit(|s| {
            s.vring.set_call(call);
            if s.flow.is_some() {
                s.interrupt();
            }
        });
    }

    pub(crate) fn set_error(&self, error: Option<File>) {
        if let Some(error) = &error {
            never_block(error);
        }
        self.visit(|s| s.error = error);
    }

    pub(crate) fn set_enabled(&self, enabled: bool) {
        self.visit(|s| s.enabled = enabled);
    }

    /// Whether it should run: a kick was given, it is enabled, and it is not broken.
    pub(crate) fn wanted(&self) -> bool {
        self.visit(|s| s.started && !s.broken && s.enabled)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.visit(|s| s.flow().is_some())
    }

    // Life of the ring.

    /// Starts the ring, and takes over what the in-flight region says was popped before.
    pub(crate) fn start(
        self: &Arc<Self>,
        memory: Arc<Memory>,
        inflight: Option<InflightQueue>,
    ) -> Result<(), RingFault> {
        self.visit(|s| {
            let ring = Ring::new(s.layout, memory.clone(), s.vring.queue_next_avail())?;
            let run = Arc::new(Run {
                queue: self.clone(),
                generation: self.generation(),
                memory,
            });
            let ran_before = ring.next_used != 0;
            s.flow = Some(Flow::new(ring, run, inflight, self.group.log().clone()));
            // Who ran it may have died between the used index and the interrupt, for which the driver still waits.
            if ran_before {
                s.interrupt();
            }
            Ok(())
        })
    }

    /// The memory table changed: the areas are looked up again.
    pub(crate) fn remap(&self, memory: &Arc<Memory>) {
        self.visit(|s| {
            if let Some(Err(fault)) = s.flow.as_mut().map(|flow| flow.remap(memory)) {
                s.retire(fault);
            }
        });
    }

    /// Ends the ring for good, until the front end sets it up anew.
    pub(crate) fn retire(&self, fault: RingFault) {
        self.visit(|s| s.retire(fault));
    }

    /// Nothing is popped from here on; the worker may now be told to let go.
    pub(crate) fn begin_stop(&self) {
        self.visit(|s| s.stopping = true);
    }

    /// Waits until every chain is completed or given back, at most for `patience`.
    pub(crate) fn drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut visit = self.group.visit();
        loop {
            let held = visit.state(self.index).flow.as_ref().map_or(0, Flow::held);
            if held == 0 {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::error!(
                    "queue {}: the device still holds {held} chains and is stopped without them",
                    self.index
                );
                return;
            }
            visit = visit.wait(left);
        }
    }

    /// Ends this run of the ring and returns the index of the next available head.
    ///
    /// With `settle` the driver goes on from that index, so chains that were given back are un-popped or
    /// answered. Without, the front end has gone, and what is not answered will be found unanswered.
    pub(crate) fn stop(&self, settle: bool) -> u16 {
        self.visit(|s| {
            self.group.disown(|| {
                self.generation.fetch_add(1, Ordering::AcqRel);
            });
            s.stop(settle)
        })
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
