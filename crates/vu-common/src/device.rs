// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device author writes: [`Device`] (shared, immutable) and [`Worker`] (the data path of one thread).

use std::io;
use std::time::Duration;

use crate::control::CommandRequest;
use crate::cx::{Cx, Ready, Token};

/// The fixed facts of a device, from which the session derives what it offers to the front end.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Short name, as in the binary's name: `rng`.
    pub name: &'static str,
    /// Virtio device id (virtio 1.3, section 5).
    pub virtio_id: u32,
    /// Number of virtqueues.
    pub queues: u16,
    /// Largest ring that a front end may ask for, a power of two, at most 32768.
    pub max_queue_size: u16,
    /// Device-specific feature bits (0 to 23 and 50 to 63). The ring features are added by the session.
    pub features: u64,
    /// Feature bits that a front end may set although they are not offered (QEMU forces some); they are ignored.
    pub tolerated_features: u64,
    /// Length of the configuration space in bytes; 0 means that there is none. At most 4096.
    pub config_len: usize,
    /// Whether the device calls [`Cx::config_changed`] or [`ConfigChange::notify`](crate::ConfigChange::notify).
    pub config_changes: bool,
    /// Number of threads; virtqueue `q` is served by thread `q % threads`.
    pub threads: u16,
    /// Longest time that a thread looks for requests and completions without sleeping; zero for never.
    ///
    /// It adapts below this bound: to nothing when the guest is idle or others want the CPU.
    pub poll: Duration,
    /// What a live migration has to carry.
    pub migration: Migration,
}

impl Spec {
    /// A device with `queues` virtqueues, one thread, no features and no configuration space.
    pub const fn new(name: &'static str, virtio_id: u32, queues: u16) -> Self {
        Self {
            name,
            virtio_id,
            queues,
            max_queue_size: 32768,
            features: 0,
            tolerated_features: 0,
            config_len: 0,
            config_changes: false,
            threads: 1,
            poll: Duration::ZERO,
            migration: Migration::Stateless,
        }
    }
}

/// What a live migration of the device has to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Cannot be migrated: neither dirty log nor state is offered.
    No,
    /// The rings are all there is: the dirty log is offered.
    Stateless,
    /// [`Device::save`] and [`Device::load`] carry a state beside the rings.
    Stateful,
}

/// A write to the configuration space that the device does not take. It is logged and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration space does not take this write")]
pub struct Refused;

/// What is known when the data path of one thread starts.
#[derive(Debug)]
pub struct Start<'a> {
    /// Negotiated feature bits; final until the next reset.
    pub features: u64,
    /// Index of the thread, below [`Spec::threads`].
    pub thread: usize,
    /// Tells the front end that the configuration space changed; may be cloned and kept.
    pub config_change: &'a crate::ConfigChange,
}

/// One virtio device as one guest sees it. Shared by all threads; holds no ring, and no lock on the data path.
///
/// A connection serves one guest at a time. The device outlives connections: a front end that
/// disconnects may come back, and then [`Device::start`] is called anew.
pub trait Device: Send + Sync + 'static {
    /// The data path of one thread.
    type Worker: Worker;

    /// The fixed facts; asked for once per connection.
    fn spec(&self) -> Spec;

    /// Fills `dst` with the configuration space from byte `offset` on.
    ///
    /// The session has cut the access to [`Spec::config_len`]; what lies beyond reads as zero.
    fn read_config(&self, _offset: usize, dst: &mut [u8]) {
        dst.fill(0);
    }

    /// Writes `src` to the configuration space at byte `offset`; never past [`Spec::config_len`].
    ///
    /// # Errors
    /// [`Refused`] if the field cannot be written; the connection stays up.
    fn write_config(&self, _offset: usize, _src: &[u8]) -> Result<(), Refused> {
        Err(Refused)
    }

    /// Starts the data path of one thread, on that thread, when the first of its virtqueues starts.
    ///
    /// What belongs to a thread can be set up here: its CPU, or an `io_uring` with a single issuer. The
    /// session waits for the outcome.
    ///
    /// # Errors
    /// What the host refused; the virtqueues of this thread are then retired.
    fn start(&self, start: &Start<'_>) -> io::Result<Self::Worker>;

    /// The driver reset the device; every worker has been dropped before.
    fn reset(&self) {}

    /// `SIGHUP`: look at the host's side again, as the size of an image. Called on the daemon's main thread,
    /// whether or not a front end is connected, while the workers go on; it may block shortly.
    fn hang_up(&self) {}

    /// Carries out one of the device's own commands ([`About::commands`](crate::About::commands)) for somebody at the control
    /// socket. Called on a thread of its own, whether or not a
    /// front end is connected, while the workers go on; it may block shortly. The result is null, or what is to be shown: an
    /// object, or an array of them, of which each becomes a line.
    ///
    /// # Errors
    /// What is wrong with the request, or what the host refused, for people.
    fn command(&self, name: &str, _request: CommandRequest<'_>) -> anyhow::Result<serde_json::Value> {
        anyhow::bail!("{name}: not a command of this device")
    }

    /// The state beside the rings, for live migration; all virtqueues are stopped.
    ///
    /// # Errors
    /// Any error fails the migration.
    fn save(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Takes over a state that [`Device::save`] gave, before the virtqueues start.
    ///
    /// # Errors
    /// Any error fails the migration; the bytes come from another machine and may be anything.
    fn load(&self, _state: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// The data path of one thread. Made, used and dropped there, so it needs no lock and need not be [`Send`];
/// it must never block.
pub trait Worker: 'static {
    /// Virtqueue `q` was kicked, started, re-enabled or recovered: pop until it is empty, or give back and wait.
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize);

    /// A watched file descriptor is ready or a timer ran out.
    fn event(&mut self, _cx: &mut Cx<'_>, _token: Token, _ready: Ready) {}

    /// The thread polls ([`Spec::poll`]): look for what it waits for beside the virtqueues, which costs no system call
    /// or a single cheap one. What is watched comes by `event` too, but some microseconds later. Called over and over,
    /// between `queue` and `event`; what completes its chains here makes the polling go on.
    fn poll(&mut self, _cx: &mut Cx<'_>) {}

    /// Virtqueue `q` stops: complete or give back every chain of it. The session waits until none is left.
    fn stop(&mut self, _cx: &mut Cx<'_>, _q: usize) {}
}
