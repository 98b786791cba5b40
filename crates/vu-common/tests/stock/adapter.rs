// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The echo device as a `VhostUserBackend`.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use vhost::vhost_user::{Listener, VhostUserProtocolFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::frontend::wire::feature;

use crate::support::DEADLINE;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// Called before a virtqueue is served.
type Hook = Box<dyn FnMut(u16) -> io::Result<()> + Send>;

pub(crate) struct Stock {
    memory: Mutex<Memory>,
    pub(crate) hook: Mutex<Option<Hook>>,
}

/// A daemon that serves one connection.
pub(crate) struct Daemon {
    pub(crate) device: Arc<Stock>,
    pub(crate) daemon: VhostUserDaemon<Arc<Stock>>,
    pub(crate) listener: Listener,
    address: SocketAddr,
}

impl Daemon {
    /// One more connection to the same daemon.
    pub(crate) fn connect(&mut self) -> FrontEnd {
        let stream = UnixStream::connect_addr(&self.address).unwrap();
        self.daemon.start(&mut self.listener).unwrap();
        FrontEnd::from_stream(stream, DEADLINE).unwrap()
    }
}

impl Stock {
    pub(crate) fn serve() -> (FrontEnd, Daemon) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vu-common-stock-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let memory = Memory::new(GuestMemoryMmap::new());
        let device = Arc::new(Self {
            memory: Mutex::new(memory.clone()),
            hook: Mutex::default(),
        });
        let daemon = VhostUserDaemon::new("stock".into(), device.clone(), memory).unwrap();
        let mut daemon = Daemon {
            device,
            daemon,
            listener: listener.into(),
            address,
        };
        (daemon.connect(), daemon)
    }

    /// Serves what is available, and returns whether there was anything.
    fn echo(&self, vring: &VringMutex) -> io::Result<bool> {
        let memory = self.memory.lock().unwrap().memory();
        let mut state = vring.get_mut();
        let mut any = false;
        while let Some(chain) = state.get_queue_mut().pop_descriptor_chain(&*memory) {
            let head = chain.head_index();
            let mut reader = chain.clone().reader(&*memory).map_err(io::Error::other)?;
            let mut writer = chain.writer(&*memory).map_err(io::Error::other)?;
            let mut bytes = vec![0; reader.available_bytes().min(writer.available_bytes())];
            reader.read_exact(&mut bytes)?;
            writer.write_all(&bytes)?;
            let queue = state.get_queue_mut();
            queue
                .add_used(&*memory, head, bytes.len() as u32)
                .map_err(io::Error::other)?;
            any = true;
        }
        if any
            && state
                .get_queue_mut()
                .needs_notification(&*memory)
                .map_err(io::Error::other)?
        {
            state.signal_used_queue()?;
        }
        Ok(any)
    }
}

impl VhostUserBackend for Stock {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        3
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC | feature::PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::INFLIGHT_SHMFD
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock().unwrap() = memory;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        if let Some(hook) = &mut *self.hook.lock().unwrap() {
            hook(event)?;
        }
        let vring = &vrings[usize::from(event)];
        loop {
            vring.disable_notification().map_err(io::Error::other)?;
            self.echo(vring)?;
            if !vring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}
