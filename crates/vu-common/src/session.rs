// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one front end has set up: memory, virtqueues, threads. The messages that change it are in `handler`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use crate::device::{Device, Migration, Spec, Start};
use crate::dirty::DirtyLog;
use crate::frontend::ConfigChange;
use crate::group::Group;
use crate::inflight::InflightRegion;
use crate::memory::Memory;
use crate::queue::Queue;
use crate::ring::RingFault;
use crate::state::Transfer;
use crate::worker::Thread;

pub(crate) const F_LOG_ALL: u64 = 1 << 26;
pub(crate) const F_INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const F_EVENT_IDX: u64 = 1 << 29;
pub(crate) const F_PROTOCOL_FEATURES: u64 = 1 << 30;
const F_VERSION_1: u64 = 1 << 32;
/// Bits that QEMU sets unasked (NOTIFY_ON_EMPTY, ANY_LAYOUT, RING_RESET); ignoring them is right.
const TOLERATED: u64 = 1 << 24 | 1 << 27 | 1 << 40;

/// How long a stop waits for a device that holds chains, before it goes on without them.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection's view of a device.
pub(crate) struct Session<D: Device> {
    pub(crate) device: Arc<D>,
    pub(crate) spec: Spec,
    pub(crate) features: u64,
    pub(crate) protocol: Protocol,
    pub(crate) memory: Arc<Memory>,
    pub(crate) queues: Vec<Arc<Queue>>,
    pub(crate) inflight: Option<Arc<InflightRegion>>,
    pub(crate) log: Arc<DirtyLog>,
    pub(crate) config_change: ConfigChange,
    pub(crate) transfer: Option<Transfer>,
    threads: Vec<Option<Thread>>,
}

impl<D: Device> Session<D> {
    pub(crate) fn new(device: Arc<D>) -> io::Result<Self> {
        let spec = device.spec();
        let log = Arc::new(DirtyLog::default());
        let (count, queues) = (usize::from(spec.threads.max(1)), usize::from(spec.queues));
        let group = |thread| Group::new(thread, count, queues, spec.max_queue_size, log.clone());
        let groups: Vec<_> = (0..count)
            .map(|thread| group(thread).map(Arc::new))
            .collect::<io::Result<_>>()?;
        let queue = |(index, group): (_, &Arc<Group>)| Arc::new(Queue::new(index, group.clone()));
        let queues = (0..queues).zip(groups.iter().cycle()).map(queue).collect();
        let threads = (0..count).map(|_| None).collect();
        Ok(Self {
            device,
            spec,
            features: 0,
            protocol: Protocol::empty(),
            memory: Arc::default(),
            queues,
            inflight: None,
            log,
            config_change: ConfigChange::default(),
            transfer: None,
            threads,
        })
    }

    /// Feature bits that the driver may use.
    pub(crate) fn offered(&self) -> u64 {
        let log = if self.spec.migration == Migration::No {
            0
        } else {
            F_LOG_ALL
        };
        self.spec.features | F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_PROTOCOL_FEATURES | log
    }

    /// Feature bits that a front end may set: the others would change the rings in ways we do not follow.
    pub(crate) fn accepted(&self) -> u64 {
        self.offered() | TOLERATED | self.spec.tolerated_features
    }

    /// Protocol features, derived from the device's [`Spec`].
    pub(crate) fn offered_protocol(&self) -> Protocol {
        let mut bits = Protocol::MQ
            | Protocol::REPLY_ACK
            | Protocol::CONFIGURE_MEM_SLOTS
            | Protocol::RESET_DEVICE
            | Protocol::INFLIGHT_SHMFD;
        bits.set(Protocol::CONFIG, self.spec.config_len > 0);
        bits.set(Protocol::BACKEND_REQ, self.spec.config_changes);
        bits.set(Protocol::LOG_SHMFD, self.spec.migration != Migration::No);
        bits.set(Protocol::DEVICE_STATE, self.spec.migration == Migration::Stateful);
        bits
    }

    pub(crate) fn any_running(&self) -> bool {
        self.queues.iter().any(|queue| queue.is_running())
    }

    /// A new memory table; rings that run look their areas up again.
    pub(crate) fn set_memory(&mut self, memory: Memory) {
        self.memory = Arc::new(memory);
        for queue in &self.queues {
            queue.remap(&self.memory);
        }
    }

    /// Starts virtqueue `q` if all is there for it, or has its worker look at it if it runs already.
    pub(crate) fn refresh(&mut self, q: usize) {
        let Some(queue) = self.queues.get(q).cloned() else {
            return;
        };
        if !queue.wanted() {
            return;
        }
        if !queue.is_running()
            && let Err(fault) = self.activate(q, &queue)
        {
            return queue.retire(fault);
        }
        if let Some(thread) = self.thread(q) {
            thread.run(q);
        }
    }

    fn activate(&mut self, q: usize, queue: &Arc<Queue>) -> Result<(), RingFault> {
        let inflight = self
            .inflight
            .as_ref()
            .and_then(|region| region.queue(q, queue.size()));
        queue.start(self.memory.clone(), inflight)?;
        self.ensure_thread(queue)?;
        self.watch_kick(q)
    }

    /// Has the worker wait for the kick of virtqueue `q`, if there is one.
    pub(crate) fn watch_kick(&self, q: usize) -> Result<(), RingFault> {
        let kick = self.queues.get(q).and_then(|queue| queue.kick());
        if let (Some(kick), Some(thread)) = (kick, self.thread(q)) {
            thread.poller().add_kick(kick, q).map_err(|e| {
                log::error!("queue {q}: cannot wait for its kick: {e}");
                RingFault::Device
            })?;
        }
        Ok(())
    }

    /// The kick of virtqueue `q` is about to be replaced or closed.
    pub(crate) fn unwatch_kick(&self, q: usize) {
        let kick = self.queues.get(q).and_then(|queue| queue.kick());
        if let (Some(kick), Some(thread)) = (kick, self.thread(q)) {
            thread.poller().remove(kick);
        }
    }

    fn thread_index(&self, q: usize) -> usize {
        q.checked_rem(self.threads.len()).unwrap_or(0)
    }

    fn thread(&self, q: usize) -> Option<&Thread> {
        self.threads.get(self.thread_index(q))?.as_ref()
    }

    fn ensure_thread(&mut self, queue: &Queue) -> Result<(), RingFault> {
        let index = self.thread_index(queue.index());
        if self.thread(queue.index()).is_some() {
            return Ok(());
        }
        let (device, config_change) = (self.device.clone(), self.config_change.clone());
        let features = self.features & self.offered();
        let start = move || {
            device.start(&Start {
                features,
                thread: index,
                config_change: &config_change,
            })
        };
        let name = format!("{}-{index}", self.spec.name);
        let group = queue.group().clone();
        let thread =
            Thread::spawn(name, self.spec.poll, group, self.config_change.clone(), start).map_err(|e| {
                log::error!("{}: cannot start: {e}", self.spec.name);
                RingFault::Device
            })?;
        if let Some(slot) = self.threads.get_mut(index) {
            *slot = Some(thread);
        }
        Ok(())
    }

    /// Stops virtqueue `q` as GET_VRING_BASE wants it: drained, and the next available index returned.
    pub(crate) fn stop_queue(&mut self, q: usize) -> Option<u16> {
        self.quiesce(q, PATIENCE);
        self.queues.get(q).map(|queue| queue.stop(true))
    }

    fn quiesce(&self, q: usize, patience: Duration) {
        self.unwatch_kick(q);
        if let Some(queue) = self.queues.get(q) {
            queue.begin_stop();
            if let Some(thread) = self.thread(q) {
                thread.stop(q);
            }
            queue.drain(patience);
        }
    }

    /// Stops all virtqueues and ends the threads.
    pub(crate) fn reset(&mut self) {
        for q in 0..self.queues.len() {
            self.stop_queue(q);
        }
        self.drop_threads();
        // A chain that was given back and could not be made available again would be served on a new ring.
        if let Some(inflight) = &self.inflight {
            inflight.clear();
        }
        for queue in &self.queues {
            queue.set_enabled(false);
        }
    }

    /// Ends the threads: the next start of a virtqueue calls [`Device::start`] again.
    pub(crate) fn drop_threads(&mut self) {
        self.threads.iter_mut().for_each(|slot| *slot = None);
    }

    /// The front end has gone, or the daemon must go: what is not completed within `patience` stays in the
    /// in-flight region.
    pub(crate) fn end(&mut self, patience: Option<Duration>) {
        for q in 0..self.queues.len() {
            self.quiesce(q, patience.unwrap_or(PATIENCE));
            if let Some(queue) = self.queues.get(q) {
                queue.stop(false);
            }
        }
        self.drop_threads();
        self.config_change.connect(None);
        for queue in &self.queues {
            let c = queue.counters();
            log::debug!(
                "queue {}: {} requests, {} interrupts, {} bad chains",
                queue.index(),
                c.requests,
                c.interrupts,
                c.bad_chains()
            );
        }
    }
}
