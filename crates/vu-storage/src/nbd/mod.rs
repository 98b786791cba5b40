// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Disks on the network, by the NBD protocol: nbdkit, `qemu-nbd`, `qemu-storage-daemon`, `nbd-server` and all
//! that stands behind them.
//!
//! Each engine has a connection of its own, if the server says that several connections see the same data
//! (`NBD_FLAG_CAN_MULTI_CONN`) and as long as there are no more than [`Options::connections`]; otherwise
//! engines share one. Commands of a batch go out in one call, data goes straight from and to guest memory.
//!
//! **When the server goes away,** requests wait, and everything unanswered is sent again to the next one that
//! answers under the same address. Reads, writes and flushes may be carried out twice by that, which is the
//! same as once. Two things are the server's, as with every client that reconnects:
//!
//! - Writes that were answered but not flushed are as safe as the server's host keeps them: a server that was
//!   killed loses nothing, one whose host lost power may lose what a later flush, answered by the next server,
//!   seems to cover.
//! - A write that an old server received and has not carried out yet may overtake later ones of the next
//!   server. Do not let two servers use the same storage.
//!
//! The export may have changed its size in between, which changes the capacity. A server that has become
//! read-only, has larger blocks, or does not allow several connections any more is not taken.
//!
//! **What a server sends is not trusted**: what breaks the protocol ends the connection, and nothing is
//! written but the bytes that a read asked for, each of them once.
//!
//! Without TLS: use it within a network that is trusted, or through a tunnel. Block status
//! (`NBD_CMD_BLOCK_STATUS`) and extended headers are not asked for, since no request of a disk needs them.

mod commands;
mod connect;
mod engine;
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod link;
mod reply;
mod spec;
mod sys;
mod uri;
mod wire;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::connect::{Server, disconnect, open_export};
use self::engine::NbdEngine;
use self::handshake::Export;
use self::link::{Link, PATIENCE, Target};
use self::spec::{
    FLAG_CAN_MULTI_CONN, FLAG_READ_ONLY, FLAG_ROTATIONAL, FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES,
};
use crate::{Disk, Engine, Limits, Range};

pub use self::handshake::HandshakeError;
pub use self::uri::{Address, Uri, UriError};

/// Longest attempt to get what can be done without: another connection, the size now.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// Longest discard or zeroing of one request, about 1 GiB.
const MAX_RANGE: u64 = 1 << 30;
/// Largest logical block size.
const MAX_BLOCK: u32 = 64 << 10;

/// How an export is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// The export.
    pub uri: Uri,
    /// Most connections, if the server allows several; at least 1.
    pub connections: usize,
    /// Writes nothing, even if the server would allow it.
    pub read_only: bool,
    /// After how long without a server requests fail, until there is one again; `None` is never.
    pub reconnect: Option<Duration>,
    /// Logical block size in bytes; `None` is the server's minimum, and at least 512.
    pub block_size: Option<u32>,
}

impl Options {
    /// Those for `uri` that suit most.
    pub fn new(uri: Uri) -> Self {
        Self {
            uri,
            connections: 4,
            read_only: false,
            reconnect: None,
            block_size: None,
        }
    }
}

/// Why an export cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no server, or no agreement with it.
    #[error("{uri}: {reason}")]
    Server {
        /// The export.
        uri: Uri,
        /// What went wrong.
        reason: HandshakeError,
    },
    /// A block size that is no power of two, or too small or too large for the export.
    #[error("{uri}: block size {size}: must be a power of two from {least} to {MAX_BLOCK}")]
    BlockSize {
        /// The export.
        uri: Uri,
        /// What was asked for.
        size: u32,
        /// Smallest that can be had.
        least: u32,
    },
}

/// Connects to a server and opens an export as a disk. Waits at most 10 s.
///
/// # Errors
/// See [`OpenError`]; each names the URI.
pub fn open(options: &Options) -> Result<Arc<dyn Disk>, OpenError> {
    let uri = options.uri.clone();
    let failed = |reason| OpenError::Server {
        uri: uri.clone(),
        reason,
    };
    let server = Server::find(&uri.address).map_err(|error| failed(error.into()))?;
    let connected = open_export(&server, &uri.export, Instant::now() + PATIENCE);
    let (socket, export) = connected.map_err(failed)?;
    let least = export.minimum.max(512);
    let logical_block = options.block_size.unwrap_or(least);
    if !logical_block.is_power_of_two() || !(least..=MAX_BLOCK).contains(&logical_block) {
        disconnect(&socket);
        return Err(OpenError::BlockSize {
            uri,
            size: logical_block,
            least,
        });
    }
    let read_only = options.read_only || export.has(FLAG_READ_ONLY);
    let multi = options.connections > 1 && export.has(FLAG_CAN_MULTI_CONN);
    let capacity = export.size - export.size % u64::from(logical_block);
    log::info!(
        "{uri}: {capacity} bytes{}, {}",
        if read_only { ", read-only" } else { "" },
        if multi {
            "several connections"
        } else {
            "one connection"
        }
    );
    let target = Arc::new(Target {
        uri: uri.clone(),
        server,
        read_only,
        give_up: options.reconnect,
        logical_block,
        multi,
        capacity: AtomicU64::new(capacity),
    });
    target.server.needs().declare();
    let limits = limits(&export, read_only, logical_block);
    let link = Link::new(target.clone(), socket, export).map_err(|error| failed(error.into()))?;
    Ok(Arc::new(NbdDisk {
        target,
        limits,
        links: Mutex::new(vec![Arc::new(link)]),
        connections: if multi { options.connections } else { 1 },
    }))
}

fn limits(export: &Export, read_only: bool, logical_block: u32) -> Limits {
    let preferred = export.preferred.unwrap_or(0);
    let physical_block = preferred.clamp(logical_block, MAX_BLOCK);
    let range = |flag| {
        let range = Range {
            max_len: MAX_RANGE,
            alignment: physical_block,
        };
        (!read_only && export.has(flag)).then_some(range)
    };
    Limits {
        read_only,
        logical_block,
        physical_block,
        minimum_io: preferred,
        optimal_io: 0,
        rotational: export.has(FLAG_ROTATIONAL).then_some(true),
        discard: range(FLAG_SEND_TRIM),
        write_zeroes: range(FLAG_SEND_WRITE_ZEROES),
        secure_erase: None,
    }
}

struct NbdDisk {
    target: Arc<Target>,
    limits: Limits,
    links: Mutex<Vec<Arc<Link>>>,
    /// Most links.
    connections: usize,
}

impl NbdDisk {
    /// The link for one more engine.
    fn link(&self) -> io::Result<Arc<Link>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let least = links.iter().min_by_key(|link| link.users()).cloned();
        let least = least.ok_or(io::ErrorKind::NotConnected)?;
        if least.users() == 0 || links.len() >= self.connections {
            return Ok(least);
        }
        match self.target.connect(Instant::now() + SHORT_PATIENCE) {
            Ok((socket, export)) => {
                let link = Arc::new(Link::new(self.target.clone(), socket, export)?);
                links.push(link.clone());
                Ok(link)
            }
            Err(error) => {
                log::info!("{}: no further connection, sharing one: {error}", self.target.uri);
                Ok(least)
            }
        }
    }
}

impl Disk for NbdDisk {
    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn capacity(&self) -> u64 {
        self.target.capacity.load(Ordering::Relaxed)
    }

    /// Asks by a connection of its own, and connects anew if the size has changed. A server that takes one
    /// client at a time cannot be asked: there, the size changes when the connection is lost.
    fn refresh(&self) -> io::Result<u64> {
        match self.target.connect(Instant::now() + SHORT_PATIENCE) {
            Ok((socket, export)) => {
                disconnect(&socket);
                let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                for link in links.iter() {
                    link.resize(export.size);
                }
            }
            Err(error) if self.target.multi => return Err(io::Error::other(error)),
            Err(error) => log::debug!("{}: its size is not known anew: {error}", self.target.uri),
        }
        Ok(self.capacity())
    }

    fn engine(&self, depth: usize) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(NbdEngine::new(self.link()?, depth)?))
    }
}
