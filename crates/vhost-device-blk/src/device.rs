// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The block device (virtio 1.3, section 5.2): what its requests mean.
//!
//! How a request ends:
//!
//! | what happens | status |
//! |---|---|
//! | all was done | `OK` |
//! | an unknown type, or one whose feature bit is not offered | `UNSUPP` |
//! | an unknown flag in a segment, or `unmap` where it has no meaning | `UNSUPP` |
//! | the storage cannot do it after all | `UNSUPP` |
//! | a malformed header, a length or position that is not whole blocks within the disk | `IOERR` |
//! | a write of any kind to a read-only disk | `IOERR` |
//! | too many segments, or too long ones | `IOERR` |
//! | the host says no: `EIO`, `ENOSPC`, an image that was cut off | `IOERR` |
//! | no room for a status | none: the chain comes back with length 0 |
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;
use vu_common::{
    About, Chain, Command, CommandRequest, ConfigChange, Device, Migration, Refused, Spec, Start, guest_warn,
};
use vu_storage::{Disk, Op};
use zerocopy::IntoBytes;

use crate::args;
use crate::bucket::{Limiter, Rate};
use crate::config::{Cache, Config};
use crate::request::{self, Bounds, Effect, Extent, Fault, Request, Segment};
use crate::spec::{
    ConfigSpace, ID_LEN, Lifetime, SECTOR, VIRTIO_ID_BLOCK, WRITEBACK_OFFSET, feature, status,
};
use crate::worker::BlkWorker;

/// The daemon, as managers and packages see it.
pub const ABOUT: About = About {
    features: &["read-only", "blk-file"],
    host_devices: &[
        "block-blkext",
        "block-sd",
        "block-loop",
        "block-device-mapper",
        "block-virtblk",
    ],
    address_families: &["AF_INET", "AF_INET6"],
    commands: &[Command {
        name: "resize",
        arguments: "size=BYTES|SIZE",
        help: "Make a raw image larger while the guest runs: size=20G",
    }],
    example: "--memory 64M",
    ..About::new("block")
};

/// Most requests in flight on one thread.
pub(crate) const MAX_DEPTH: usize = 1024;

/// How a disk is served, beside what [`Config`] says.
#[derive(Clone, Debug)]
pub struct Service {
    /// What the log calls it.
    pub name: String,
    /// The device id string.
    pub serial: [u8; ID_LEN],
    /// Threads.
    pub threads: u16,
    /// Processors, to which the threads are bound in turns; none for wherever the host likes.
    pub cpus: Vec<usize>,
    /// Longest time that a thread polls.
    pub poll: Duration,
    /// What the guest may do per second.
    pub rate: Rate,
}

/// A disk, as one guest sees it.
pub struct Blk(Arc<Shared>);

/// What the threads of a disk share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    config: Config,
    bounds: Bounds,
    pub(crate) service: Service,
    pub(crate) limiter: Option<Limiter>,
    /// The field `writeback`. It outlives resets and connections: a front end may go on showing the driver
    /// what was last written.
    writeback: AtomicBool,
    /// Whether the driver has written it.
    writeback_set: AtomicBool,
    /// The capacity that the front end last read, and that it was last told to read; `u64::MAX` for none.
    read: AtomicU64,
    told: AtomicU64,
    session: Mutex<Option<ConfigChange>>,
}

impl Blk {
    /// A device for `disk`.
    pub fn new(disk: Arc<dyn Disk>, config: Config, service: Service) -> Self {
        Self(Arc::new(Shared {
            limiter: Limiter::new(&service.rate),
            writeback: (config.cache != Cache::Writethrough).into(),
            writeback_set: false.into(),
            read: u64::MAX.into(),
            told: u64::MAX.into(),
            bounds: config.bounds(0),
            session: Mutex::default(),
            disk,
            config,
            service,
        }))
    }
}

impl Shared {
    /// Whether a write that is submitted now has to be durable when it completes.
    pub(crate) fn writes_through(&self, features: u64) -> bool {
        self.config
            .writes_through(features, self.writeback.load(Ordering::Relaxed))
    }

    /// Tells the front end to read the capacity anew if it has changed, once.
    pub(crate) fn tell_capacity(&self) {
        let (capacity, told) = (self.disk.capacity(), self.told.load(Ordering::Relaxed));
        if told == capacity || told == u64::MAX {
            return;
        }
        let ours = self
            .told
            .compare_exchange(told, capacity, Ordering::Relaxed, Ordering::Relaxed);
        if ours.is_ok() {
            let sectors = |bytes: u64| bytes / SECTOR;
            log::info!(
                "{}: {} sectors instead of {}",
                self.service.name,
                sectors(capacity),
                sectors(told)
            );
            let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            session.as_ref().inspect(|session| session.notify());
        }
    }

    /// A front end connects: it may remember a capacity of an earlier connection.
    fn connect(&self, session: &ConfigChange) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        let (read, capacity) = (self.read.load(Ordering::Relaxed), self.disk.capacity());
        if read != u64::MAX && read != capacity {
            session.notify();
        }
    }

    fn pin(&self, thread: usize) -> io::Result<()> {
        let cpus = &self.service.cpus;
        let turn = thread.checked_rem(cpus.len()).and_then(|turn| cpus.get(turn));
        let Some(&cpu) = turn else { return Ok(()) };
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot bind thread {thread} to CPU {cpu}: {e}")))
    }
}

impl Device for Blk {
    type Worker = BlkWorker;

    fn spec(&self) -> Spec {
        let Config {
            queues, queue_size, ..
        } = self.0.config;
        Spec {
            max_queue_size: queue_size,
            features: self.0.config.features(),
            config_len: size_of::<ConfigSpace>(),
            config_changes: true,
            threads: self.0.service.threads,
            poll: self.0.service.poll,
            migration: if self.0.disk.can_be_handed_over() {
                Migration::Stateless
            } else {
                Migration::No
            },
            ..Spec::new("blk", VIRTIO_ID_BLOCK, queues)
        }
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) {
        let capacity = self.0.disk.capacity();
        let space = self
            .0
            .config
            .space(capacity, self.0.writeback.load(Ordering::Relaxed));
        let bytes = space.as_bytes().get(offset..).unwrap_or_default();
        for (at, byte) in dst.iter_mut().enumerate() {
            *byte = bytes.get(at).copied().unwrap_or(0);
        }
        if offset == 0 {
            self.0.read.store(capacity, Ordering::Relaxed);
            self.0.told.store(capacity, Ordering::Relaxed);
        }
    }

    /// Some front ends write only the byte `writeback`, others all of the space: the other bytes are read-only.
    fn write_config(&self, offset: usize, src: &[u8]) -> Result<(), Refused> {
        let byte = WRITEBACK_OFFSET.checked_sub(offset).and_then(|at| src.get(at));
        let writeback = match byte {
            Some(0) => false,
            Some(1) => true,
            _ => return Err(Refused),
        };
        if !self.0.config.flushes() {
            return Err(Refused);
        }
        self.0.writeback.store(writeback, Ordering::Relaxed);
        self.0.writeback_set.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn start(&self, start: &Start<'_>) -> io::Result<BlkWorker> {
        let shared = &self.0;
        shared.pin(start.thread)?;
        let wce_alone = start.features & (feature::FLUSH | feature::CONFIG_WCE) == feature::CONFIG_WCE;
        if wce_alone && !shared.writeback_set.load(Ordering::Relaxed) {
            // Section 5.2.5.2; only now are the features known.
            shared.writeback.store(false, Ordering::Relaxed);
        }
        shared.connect(start.config_change);
        let Config {
            queues, queue_size, ..
        } = shared.config;
        let sizes = usize::from(queues).saturating_mul(queue_size.into());
        BlkWorker::new(shared.clone(), start.features, sizes.clamp(1, MAX_DEPTH))
    }

    fn command(&self, name: &str, request: CommandRequest<'_>) -> anyhow::Result<Value> {
        match name {
            "resize" => {
                let text = request.text("size")?;
                let size = args::size(&text).map_err(|what| anyhow::anyhow!("{text}: {what}"))?;
                self.0.disk.grow(size)?;
                self.0.disk.refresh()?;
                self.0.tell_capacity();
                Ok(Value::Null)
            }
            other => anyhow::bail!("{other}: not a command of this device"),
        }
    }

    fn hang_up(&self) {
        if let Err(e) = self.0.disk.refresh() {
            log::warn!("{}: cannot look at its size: {e}", self.0.service.name);
        }
        self.0.tell_capacity();
    }
}

/// How a request goes on.
pub(crate) enum Step {
    /// It is answered now.
    Answer {
        status: u8,
        /// Bytes of data in the device-writable part.
        written: usize,
    },
    /// The engine does it.
    Submit(Op, Extent),
    /// The engine does this to each segment.
    Segments(Effect),
}

impl Shared {
    /// Reads the request in `chain`; its segments replace what is in `segments`.
    pub(crate) fn step(&self, chain: &mut Chain, features: u64, segments: &mut Vec<Segment>) -> Step {
        let bounds = Bounds {
            capacity: self.disk.capacity(),
            ..self.bounds
        };
        let (readable, writable) = (chain.readable_len(), chain.writable_len());
        match request::parse(&mut chain.reader(), readable, writable, &bounds, segments) {
            Err(fault) => {
                guest_warn!("{}: queue {}: {fault}", self.service.name, chain.queue());
                done(status_of_fault(&fault))
            }
            Ok(Request::Read(extent) | Request::Write(extent)) if extent.len == 0 => done(status::OK),
            Ok(Request::Read(extent)) => Step::Submit(Op::Read, extent),
            Ok(Request::Write(extent)) => {
                let durable = self.writes_through(features);
                Step::Submit(Op::Write { durable }, extent)
            }
            Ok(Request::Flush) if self.config.limits.read_only || !self.config.flushes() => done(status::OK),
            Ok(Request::Flush) => Step::Submit(Op::Flush, Extent { offset: 0, len: 0 }),
            Ok(Request::Segments(effect)) => Step::Segments(effect),
            Ok(Request::GetId) => give(chain, &self.service.serial),
            Ok(Request::GetLifetime) => match self.disk.lifetime() {
                Some(lifetime) => give(chain, lifetime_on_the_wire(&lifetime).as_bytes()),
                None => done(status::IOERR),
            },
        }
    }

    /// What the engine does to a segment.
    pub(crate) fn op(&self, effect: Effect, unmap: bool, features: u64) -> Op {
        match effect {
            Effect::Discard => Op::Discard,
            Effect::WriteZeroes => Op::WriteZeroes {
                unmap: unmap && self.bounds.discard.is_some(),
                durable: self.writes_through(features),
            },
            Effect::SecureErase => Op::SecureErase,
        }
    }
}

fn done(status: u8) -> Step {
    Step::Answer { status, written: 0 }
}

/// Puts an answer into the data of a request, as much as there is room for beside the status.
fn give(chain: &mut Chain, answer: &[u8]) -> Step {
    let room = chain.writable_len().saturating_sub(1).min(answer.len());
    let answer = answer.get(..room).unwrap_or_default();
    Step::Answer {
        status: status::OK,
        written: chain.writer().write(answer).unwrap_or(0),
    }
}

fn lifetime_on_the_wire(lifetime: &vu_storage::Lifetime) -> Lifetime {
    Lifetime {
        pre_eol_info: lifetime.pre_eol_info.into(),
        device_lifetime_est_typ_a: lifetime.device_lifetime_est_typ_a.into(),
        device_lifetime_est_typ_b: lifetime.device_lifetime_est_typ_b.into(),
    }
}

/// The status of a request that is malformed.
fn status_of_fault(fault: &Fault) -> u8 {
    match fault {
        Fault::Kind(_) | Fault::Flags { .. } => status::UNSUPP,
        Fault::Header(_)
        | Fault::ReadOnly(_)
        | Fault::Length { .. }
        | Fault::Extent { .. }
        | Fault::Segment(_) => status::IOERR,
    }
}

/// The status of a request that the storage carried out, or did not.
pub(crate) fn status_of(result: &io::Result<()>) -> u8 {
    match result {
        Ok(()) => status::OK,
        Err(e) if e.kind() == ErrorKind::Unsupported => status::UNSUPP,
        Err(_) => status::IOERR,
    }
}
