// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The socket device (virtio 1.3, section 5.10): what there is for one guest.
//!
//! How the packets of the driver are answered:
//!
//! | what comes | what the driver gets |
//! |---|---|
//! | a request to somebody who listens | `RESPONSE` once it is connected |
//! | a request to nobody, of a type that was not negotiated, or beyond the bounds | `RST` |
//! | payload, a shutdown, a response, an unknown operation or type without a connection | `RST` |
//! | payload beyond the credit, before the connection stands, or after its end | `RST`, the connection ends |
//! | a request for the connection that it has made, again | nothing, beside the answer to the first |
//! | a shutdown of both directions | `RST`, once the host has taken what came before |
//! | a credit request | `CREDIT_UPDATE` |
//! | `RST` for nothing | nothing |
//! | a packet of another context id, or to one that cannot be | nothing |
//! | less than a header | nothing |
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use vu_common::{About, Command, CommandRequest, Device, Migration, Spec, Start};

use crate::backend::Host;
use crate::network::Network;
use crate::spec::{CONFIG_LEN, VIRTIO_ID_VSOCK, feature};
use crate::worker::{Bounds, Census, Legacy, Setup, VsockWorker};

/// The largest virtqueue that there is (section 2.7).
const MAX_QUEUE_SIZE: u16 = 32768;
/// Longest time to poll: the host's answer to the guest, or the guest's to the host, often comes sooner.
const POLL: Duration = Duration::from_micros(50);

/// The daemon, as managers and packages see it.
pub const ABOUT: About = About {
    address_families: &["AF_VSOCK"],
    example: "--guest-cid 3 --uds-path /run/vhost-device/vsock",
    commands: &[Command {
        name: "connections",
        arguments: "",
        help: "The connections of the guest",
    }],
    ..About::new("vsock")
};

/// What outlives a worker: the host's side of a device while no worker has it, and what guests left.
#[derive(Clone)]
pub(crate) struct Home {
    host: Arc<Mutex<Option<Box<dyn Host>>>>,
    pub(crate) legacy: Legacy,
    pub(crate) census: Census,
}

impl Home {
    pub(crate) fn take(&self) -> io::Result<Box<dyn Host>> {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner).take();
        host.ok_or_else(|| io::Error::other("another guest has the sockets"))
    }

    pub(crate) fn give_back(&self, host: Box<dyn Host>) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
    }
}

/// A socket device, as one guest sees it.
pub struct Vsock {
    cid: u32,
    groups: Vec<String>,
    bounds: Bounds,
    queue_size: u16,
    home: Home,
    network: Arc<Network>,
}

impl Vsock {
    /// A device for the guest with the context id `cid`: `host` is behind context id 2, and those of `network` with a
    /// common group behind theirs.
    pub fn new(
        cid: u32,
        host: Box<dyn Host>,
        network: &Arc<Network>,
        groups: Vec<String>,
        bounds: Bounds,
    ) -> Self {
        Self {
            cid,
            groups,
            bounds,
            queue_size: MAX_QUEUE_SIZE,
            home: Home {
                host: Arc::new(Mutex::new(Some(host))),
                legacy: Legacy::default(),
                census: Census::default(),
            },
            network: network.clone(),
        }
    }

    /// With virtqueues of at most `size` entries, a power of two.
    #[must_use]
    pub fn with_queue_size(mut self, size: u16) -> Self {
        self.queue_size = size;
        self
    }
}

impl Device for Vsock {
    type Worker = VsockWorker;

    fn spec(&self) -> Spec {
        Spec {
            features: feature::STREAM | feature::SEQPACKET | feature::NO_IMPLIED_STREAM,
            max_queue_size: self.queue_size,
            config_len: CONFIG_LEN,
            poll: POLL,
            // The connections are of this host.
            migration: Migration::No,
            ..Spec::new("vsock", VIRTIO_ID_VSOCK, 3)
        }
    }

    fn command(&self, name: &str, _request: CommandRequest<'_>) -> Result<Value> {
        match name {
            "connections" => self.home.census.take().context("the device does not answer"),
            other => bail!("{other}: not a command of this device"),
        }
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) {
        let config = u64::from(self.cid).to_le_bytes();
        let rest = config.get(offset..).unwrap_or_default();
        for (to, from) in dst.iter_mut().zip(rest.iter().chain(std::iter::repeat(&0))) {
            *to = *from;
        }
    }

    fn start(&self, start: &Start<'_>) -> io::Result<VsockWorker> {
        VsockWorker::new(Setup {
            cid: self.cid,
            groups: &self.groups,
            bounds: self.bounds,
            features: start.features,
            home: self.home.clone(),
            network: self.network.clone(),
        })
    }
}
