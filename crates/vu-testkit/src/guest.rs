// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest: front end, memory and running virtqueues of one device, made in one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::chains::{Descriptor, Framing, Placement, Request};
use crate::devices::{FILL, Profile};
use crate::driver::{self, Queue, Used, write_indirect};
use crate::event::Event;
use crate::frontend::wire::{feature, protocol};
use crate::frontend::{FrontEnd, Inflight};
use crate::memory::{GuestMemory, RegionSpec};

/// Start of the region that holds the rings.
pub const RINGS: u64 = 0;
/// Size of the region that holds the rings.
pub const RINGS_SIZE: u64 = 4 << 20;
/// Start of a region that adjoins the rings' one in guest addresses, but is another file.
pub const ADJACENT: u64 = RINGS_SIZE;
/// Size of the adjacent region; nothing is mapped behind it.
pub const ADJACENT_SIZE: u64 = 1 << 20;
/// Start of the region that holds the buffers.
pub const BUFFERS: u64 = 1 << 32;
/// Size of the region that holds the buffers.
pub const BUFFERS_SIZE: u64 = 8 << 20;
/// A guest address at which there is no memory.
pub const NOWHERE: u64 = 1 << 40;

/// The protocol features that a guest takes when they are offered.
pub const USUAL_PROTOCOL: u64 = protocol::MQ
    | protocol::REPLY_ACK
    | protocol::CONFIG
    | protocol::RESET_DEVICE
    | protocol::INFLIGHT_SHMFD
    | protocol::LOG_SHMFD
    | protocol::BACKEND_REQ
    | protocol::DEVICE_STATE;

/// How a guest differs from the usual.
#[derive(Debug)]
pub struct Options {
    /// Entries per ring.
    pub size: u16,
    /// Feature bits to take when offered, beside those of the profile.
    pub features: u64,
    /// Feature bits to acknowledge whether or not they are offered.
    pub forced: u64,
    /// Protocol features to take when offered.
    pub protocol: u64,
    /// Calls by socket pair instead of eventfd.
    pub call_by_socket: bool,
    /// Memory layout.
    pub layout: Vec<RegionSpec>,
    /// Enable the rings at the end.
    pub enable: bool,
    /// Ask for an in-flight region and hand it back before the rings start.
    pub inflight: bool,
    /// How long to wait for anything.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            size: 64,
            features: feature::VERSION_1
                | feature::EVENT_IDX
                | feature::INDIRECT_DESC
                | feature::PROTOCOL_FEATURES,
            forced: 0,
            protocol: USUAL_PROTOCOL,
            call_by_socket: false,
            layout: default_layout(),
            enable: true,
            inflight: false,
            deadline: Duration::from_secs(20),
        }
    }
}

/// Rings, an adjacent region in another file, and buffers above 4 GiB at an offset of their file.
#[must_use]
pub fn default_layout() -> Vec<RegionSpec> {
    vec![
        RegionSpec::new(RINGS, RINGS_SIZE),
        RegionSpec {
            guest_addr: ADJACENT,
            size: ADJACENT_SIZE,
            offset: 0x3000,
        },
        RegionSpec {
            guest_addr: BUFFERS,
            size: BUFFERS_SIZE,
            offset: 0x1000,
        },
    ]
}

/// A request that is with the device.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Head of its chain.
    pub head: u16,
    request: Request,
    writable: Vec<(u64, usize)>,
}

/// One virtqueue with the memory for its buffers: what a driver thread owns.
#[derive(Debug)]
pub struct Lane {
    /// The queue.
    pub queue: Queue,
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// How long to wait for the device.
    pub deadline: Duration,
    start: u64,
    size: u64,
    next: u64,
    number: u64,
}

impl Lane {
    /// Takes `len` bytes of buffer memory, aligned to `align`; the memory is used in turns, oldest first.
    pub fn allocate(&mut self, len: u64, align: u64) -> u64 {
        let mut addr = (self.start + self.next).next_multiple_of(align);
        if addr + len > self.start + self.size {
            addr = self.start.next_multiple_of(align);
        }
        assert!(
            addr + len <= self.start + self.size,
            "{len:#x} bytes exceed the buffer memory"
        );
        self.next = addr + len - self.start;
        addr
    }

    /// Uses other memory for buffers from now on.
    pub fn use_buffers(&mut self, start: u64, size: u64) {
        (self.start, self.size, self.next) = (start, size, 0);
    }

    /// Puts a request into the ring, not yet visible to the device. Pieces never touch one another in memory.
    pub fn place(&mut self, request: Request, framing: Framing, placement: Placement) -> Pending {
        let mut readable = request.readable.as_slice();
        let mut writable = Vec::new();
        let mut descriptors = Vec::new();
        for (len, is_writable) in framing.cut(&request) {
            let addr = self.allocate(len as u64 + 3, 1);
            let size = u32::try_from(len).expect("requests are below 4 GiB");
            if is_writable {
                self.memory.write(addr, &vec![FILL; len]);
                writable.push((addr, len));
                descriptors.push(Descriptor::writable(addr, size));
            } else {
                let (piece, rest) = readable.split_at(len);
                self.memory.write(addr, piece);
                readable = rest;
                descriptors.push(Descriptor::readable(addr, size));
            }
        }
        let head = self.place_descriptors(&descriptors, placement, request.writable as u64);
        Pending {
            head,
            request,
            writable,
        }
    }

    fn place_descriptors(&mut self, descriptors: &[Descriptor], placement: Placement, writable: u64) -> u16 {
        let direct = match placement {
            Placement::Direct => descriptors.len(),
            Placement::Indirect => 0,
            Placement::IndirectTail => 1.min(descriptors.len().saturating_sub(1)),
        };
        let mut chain = descriptors[..direct].to_vec();
        if direct < descriptors.len() {
            let rest = &descriptors[direct..];
            let table = self.allocate(16 * rest.len() as u64, 16);
            chain.push(write_indirect(&self.memory, table, rest));
        }
        self.queue.add(&chain, Some(writable))
    }

    /// The next well-formed request of `size` bytes, placed as the usual driver would.
    pub fn place_next(&mut self, profile: &dyn Profile, size: usize) -> Pending {
        let request = self.next_request(profile, size);
        self.place(request, self.framing(profile), Placement::Direct)
    }

    /// How the usual driver cuts requests, if the ring is long enough for that.
    #[must_use]
    pub fn framing(&self, profile: &dyn Profile) -> Framing {
        if self.queue.size < 4 {
            Framing::Whole
        } else {
            profile.framing()
        }
    }

    /// The next well-formed request of `size` bytes.
    pub fn next_request(&mut self, profile: &dyn Profile, size: usize) -> Request {
        self.number += 1;
        profile.request(self.number, size)
    }

    /// What all device-writable bytes of a request hold now.
    #[must_use]
    pub fn answer(&self, pending: &Pending) -> Vec<u8> {
        let mut answer = vec![0; pending.request.writable];
        let mut done = 0;
        for (addr, len) in &pending.writable {
            self.memory.read(*addr, &mut answer[done..done + len]);
            done += len;
        }
        answer
    }

    /// Checks the answer to a request that came back.
    ///
    /// # Errors
    /// When the head is another one's or the answer is wrong.
    pub fn check(&self, profile: &dyn Profile, pending: &Pending, used: Used) -> anyhow::Result<()> {
        ensure!(
            used.id == u32::from(pending.head),
            "head {} came back instead of {}",
            used.id,
            pending.head
        );
        let answer = self.answer(pending);
        let result = profile.check(&pending.request, used.len, &answer);
        result.map_err(|text| {
            let Request { readable, writable } = &pending.request;
            let (len, first) = (readable.len(), &readable[..readable.len().min(16)]);
            anyhow::anyhow!(
                "wrong answer to {len} readable bytes {first:x?}.. and {writable} writable: {text}"
            )
        })
    }

    /// The end of a wait that starts now.
    #[must_use]
    pub fn end(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// One request by interrupt, checked.
    ///
    /// # Errors
    /// When no right answer comes.
    pub fn round_trip(&mut self, profile: &dyn Profile, size: usize) -> anyhow::Result<()> {
        let request = self.next_request(profile, size);
        self.round_trip_of(profile, request, self.framing(profile), Placement::Direct)
    }

    /// One request in a given shape by interrupt, checked.
    ///
    /// # Errors
    /// When no right answer comes.
    pub fn round_trip_of(
        &mut self,
        profile: &dyn Profile,
        request: Request,
        framing: Framing,
        placement: Placement,
    ) -> anyhow::Result<()> {
        let pending = self.place(request, framing, placement);
        self.queue.submit();
        let used = self.queue.wait(self.end())?;
        self.check(profile, &pending, used)
    }

    /// `count` requests, as many at once as the ring takes, all checked; a device may answer in any order.
    ///
    /// # Errors
    /// When one does not come back right.
    pub fn burst(&mut self, profile: &dyn Profile, count: usize, size: usize) -> anyhow::Result<()> {
        let mut left = count;
        while left > 0 {
            let mut batch = Vec::new();
            while left > 0 && self.queue.free() >= 8.min(usize::from(self.queue.size)) {
                batch.push(self.place_next(profile, size));
                left -= 1;
            }
            self.queue.submit();
            self.settle(profile, batch)?;
        }
        Ok(())
    }

    /// Waits for all of `batch` and checks each.
    ///
    /// # Errors
    /// When one does not come back right.
    pub fn settle(&mut self, profile: &dyn Profile, mut batch: Vec<Pending>) -> anyhow::Result<()> {
        let end = self.end();
        while !batch.is_empty() {
            let used = self.queue.wait(end)?;
            let position = batch
                .iter()
                .position(|pending| u32::from(pending.head) == used.id);
            let Some(position) = position else {
                bail!("head {} is not of this batch", used.id)
            };
            let pending = batch.swap_remove(position);
            self.check(profile, &pending, used)?;
        }
        Ok(())
    }
}

/// A thread that keeps a queue busy with checked requests.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Lane, u64, anyhow::Result<()>)>,
}

impl Load {
    /// Starts the load.
    #[must_use]
    pub fn start(mut lane: Lane, profile: Arc<dyn Profile>, size: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            let mut result = Ok(());
            while result.is_ok() && !flag.load(Ordering::SeqCst) {
                result = lane.burst(&*profile, 16, size);
                count += 16;
            }
            (lane, count, result)
        });
        Self { stop, thread }
    }

    /// Stops the load; gives the queue and the number of requests served.
    ///
    /// # Errors
    /// The first thing that went wrong under load.
    pub fn stop(self) -> anyhow::Result<(Lane, u64)> {
        self.stop.store(true, Ordering::SeqCst);
        let (lane, count, result) = self.thread.join().map_err(|panic| {
            anyhow::anyhow!("the load thread panicked: {:?}", panic.downcast_ref::<String>())
        })?;
        result.context("under load")?;
        Ok((lane, count))
    }

    /// Whether the load has ended by itself, which means that it failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.thread.is_finished()
    }
}

/// A connected guest.
#[derive(Debug)]
pub struct Guest {
    /// The connection.
    pub front: FrontEnd,
    /// The memory.
    pub memory: Arc<GuestMemory>,
    /// One lane per virtqueue.
    pub lanes: Vec<Lane>,
    /// Feature bits that the back end offers.
    pub offered: u64,
    /// Protocol features that the back end offers.
    pub offered_protocol: u64,
    /// Feature bits that were acknowledged.
    pub features: u64,
    /// The in-flight region, if one was asked for.
    pub inflight: Option<Inflight>,
    request_queue: usize,
}

impl Guest {
    /// Negotiates, shares the memory and starts all rings, in the order of QEMU.
    ///
    /// # Errors
    /// When the back end refuses anything on the way.
    pub fn boot(mut front: FrontEnd, profile: &dyn Profile, options: &Options) -> anyhow::Result<Self> {
        let offered = front.get_features()?;
        let mut offered_protocol = 0;
        if offered & options.features & feature::PROTOCOL_FEATURES != 0 {
            offered_protocol = front.get_protocol_features()?;
            front.set_protocol_features(offered_protocol & options.protocol)?;
        }
        front.set_owner()?;
        let memory = Arc::new(GuestMemory::new(&options.layout)?);
        let features = offered & (options.features | profile.features()) | options.forced;
        let lanes = lanes(&memory, profile, options, features)?;
        for lane in &lanes {
            front.set_vring_call(lane.queue.index, Some(lane.queue.call.fd()))?;
            front.set_vring_err(lane.queue.index, Some(lane.queue.err.fd()))?;
        }
        front.set_features(features)?;
        let mut guest = Self {
            front,
            memory,
            lanes,
            offered,
            offered_protocol,
            features,
            inflight: None,
            request_queue: 0,
        };
        guest.request_queue = usize::from(profile.request_queue());
        guest.share_memory()?;
        if options.inflight {
            let region = guest.front.get_inflight_fd(profile.queues(), options.size)?;
            guest.front.set_inflight_fd(&region)?;
            guest.inflight = Some(region);
        }
        for index in 0..guest.lanes.len() {
            guest.start_ring(index, 0)?;
            if options.enable {
                guest.enable(index, true)?;
            }
        }
        Ok(guest)
    }

    fn share_memory(&self) -> anyhow::Result<()> {
        if !self.front.has(protocol::CONFIGURE_MEM_SLOTS) {
            return Ok(self.front.set_mem_table(&self.memory)?);
        }
        for region in self.memory.regions() {
            self.front.add_mem_reg(&region)?;
        }
        Ok(())
    }

    /// Tells the back end everything about ring `index`, which then may run from available index `base`.
    ///
    /// # Errors
    /// When the back end refuses.
    pub fn start_ring(&self, index: usize, base: u16) -> anyhow::Result<()> {
        let queue = &self.lanes[index].queue;
        self.front.set_vring_num(queue.index, u32::from(queue.size))?;
        self.front.set_vring_base(queue.index, u32::from(base))?;
        self.front
            .set_vring_addr(queue.index, &self.memory, queue.address, None)?;
        self.front.set_vring_kick(queue.index, Some(queue.kick.fd()))?;
        self.front.set_vring_call(queue.index, Some(queue.call.fd()))?;
        Ok(())
    }

    /// Enables or disables ring `index`, where that message exists.
    ///
    /// # Errors
    /// When the back end refuses.
    pub fn enable(&self, index: usize, on: bool) -> anyhow::Result<()> {
        if self.features & feature::PROTOCOL_FEATURES != 0 {
            self.front.set_vring_enable(self.lanes[index].queue.index, on)?;
        }
        Ok(())
    }

    /// The lane that takes requests.
    pub fn lane(&mut self) -> &mut Lane {
        &mut self.lanes[self.request_queue]
    }

    /// Index of the lane that takes requests.
    #[must_use]
    pub fn request_index(&self) -> usize {
        self.request_queue
    }

    /// Does something with several lanes at once, each in a thread of its own; gives the first error.
    ///
    /// # Errors
    /// What went wrong in a thread.
    pub fn in_parallel(
        &mut self,
        lanes: std::ops::Range<u16>,
        act: impl Fn(&mut Lane) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        let lanes = &mut self.lanes[usize::from(lanes.start)..usize::from(lanes.end)];
        let act = &act;
        std::thread::scope(|scope| {
            let threads: Vec<_> = lanes
                .iter_mut()
                .map(|lane| scope.spawn(move || act(lane)))
                .collect();
            let results = threads.into_iter().enumerate();
            let mut results = results.map(|(index, thread)| match thread.join() {
                Ok(result) => result.with_context(|| format!("queue {index} of those at work")),
                Err(panic) => bail!("a thread panicked: {:?}", panic.downcast_ref::<String>()),
            });
            results.find(Result::is_err).unwrap_or(Ok(()))
        })
    }

    /// Takes the lane that takes requests out of the guest, for a thread.
    #[must_use]
    pub fn take_lane(&mut self) -> Lane {
        self.lanes.remove(self.request_queue)
    }

    /// Puts the lane back.
    pub fn return_lane(&mut self, lane: Lane) {
        self.lanes.insert(self.request_queue, lane);
    }

    /// Moves the guest to a new connection, as after a crash of the back end: the same memory and rings.
    ///
    /// # Errors
    /// When the back end refuses anything on the way.
    pub fn reconnect(&mut self, mut front: FrontEnd) -> anyhow::Result<()> {
        let protocol = front.get_features().and_then(|_| front.get_protocol_features())?;
        front.set_protocol_features(protocol & USUAL_PROTOCOL)?;
        front.set_owner()?;
        front.set_features(self.features)?;
        self.front = front;
        self.share_memory()?;
        if let Some(region) = &self.inflight {
            self.front.set_inflight_fd(region)?;
        }
        for index in 0..self.lanes.len() {
            let queue = &self.lanes[index].queue;
            self.front.set_vring_err(queue.index, Some(queue.err.fd()))?;
            self.start_ring(index, queue.used_index())?;
            self.enable(index, true)?;
        }
        Ok(())
    }
}

fn lanes(
    memory: &Arc<GuestMemory>,
    profile: &dyn Profile,
    options: &Options,
    features: u64,
) -> anyhow::Result<Vec<Lane>> {
    let mut start = RINGS + 0x1000;
    let count = u64::from(profile.queues());
    let share = BUFFERS_SIZE / count;
    let mut lanes = Vec::new();
    for index in 0..profile.queues() {
        let mut queue = Queue::new(memory, u32::from(index), start, options.size, 0)?;
        queue.set_event_idx(features & feature::EVENT_IDX != 0);
        if options.call_by_socket {
            queue.call = Event::socket_pair()?;
        }
        start += driver::ring_layout(0, options.size).1;
        lanes.push(Lane {
            queue,
            memory: memory.clone(),
            deadline: options.deadline,
            start: BUFFERS + share * u64::from(index),
            size: share,
            next: 0,
            number: 0,
        });
    }
    Ok(lanes)
}
