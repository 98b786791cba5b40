// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The front end: one connection to a back end, every message well formed or not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::memory::{GuestMemory, Region};

pub mod wire;

use wire::{Message, NEED_REPLY, NO_FD, REPLY, VERSION, protocol, request, u32s, u64s};

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The back end closed the connection.
    #[error("the back end closed the connection at {0}")]
    Closed(&'static str),
    /// No reply came within the deadline.
    #[error("no reply to {0} within the deadline")]
    Timeout(&'static str),
    /// The back end acknowledged with a code other than zero.
    #[error("the back end refused {0} (code {1})")]
    Refused(&'static str, u64),
    /// The reply is not what the specification asks for.
    #[error("bad reply to {0}: {1}")]
    BadReply(&'static str, String),
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// The in-flight region as the front end keeps it (vhost-user, "Inflight description").
#[derive(Debug)]
pub struct Inflight {
    /// The shared file.
    pub file: OwnedFd,
    /// Bytes of the area.
    pub mmap_size: u64,
    /// Where the area starts in the file.
    pub mmap_offset: u64,
    /// Number of virtqueues.
    pub queues: u16,
    /// Entries per virtqueue.
    pub queue_size: u16,
}

/// The addresses of a ring, as guest physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct RingAddress {
    /// Descriptor table.
    pub descriptor: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// One connection to a back end.
#[derive(Debug)]
pub struct FrontEnd {
    stream: UnixStream,
    protocol: u64,
}

impl FrontEnd {
    /// Connects to `path`. Each wait for a reply ends after `deadline`.
    ///
    /// # Errors
    /// What `connect` reports.
    pub fn connect(path: &Path, deadline: Duration) -> io::Result<Self> {
        Self::from_stream(UnixStream::connect(path)?, deadline)
    }

    /// Uses a connected socket.
    ///
    /// # Errors
    /// When the socket takes no timeout.
    pub fn from_stream(stream: UnixStream, deadline: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        Ok(Self { stream, protocol: 0 })
    }

    /// The socket itself, for tests that break the protocol.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The process on the other end (`SO_PEERCRED`).
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.stream).ok()?;
        u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
    }

    /// Whether a protocol feature was negotiated by [`Self::set_protocol_features`].
    #[must_use]
    pub fn has(&self, protocol_feature: u64) -> bool {
        self.protocol & protocol_feature != 0
    }

    /// Sends raw bytes with descriptors.
    ///
    /// # Errors
    /// [`Error::Closed`] when the back end hung up.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        match wire::send(&self.stream, bytes, fds) {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Err(Error::Closed("send"))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Timeout("send")),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends one message with the given header flags (the version is not added).
    ///
    /// # Errors
    /// [`Error::Closed`] when the back end hung up.
    pub fn send(&self, id: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let size = u32::try_from(payload.len()).expect("payloads are far below 4 GiB");
        let mut bytes = wire::header(id, flags, size).to_vec();
        bytes.extend_from_slice(payload);
        self.send_bytes(&bytes, fds)
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Timeout`].
    pub fn receive(&self, what: &'static str) -> Result<Message> {
        match wire::receive(&self.stream) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Error::Closed(what)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Timeout(what)),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request that owes a reply, and checks the reply's id and flags.
    ///
    /// # Errors
    /// Whatever goes wrong on the way.
    pub fn request(
        &self,
        what: &'static str,
        id: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Message> {
        self.send(id, VERSION, payload, fds)?;
        let reply = self.receive(what)?;
        if reply.request != id || reply.flags & 0b111 != VERSION | REPLY {
            let text = format!("id {} with flags {:#x}", reply.request, reply.flags);
            return Err(Error::BadReply(what, text));
        }
        Ok(reply)
    }

    /// Sends a request that owes no reply, and waits until it is done: by an acknowledgement when REPLY_ACK was
    /// negotiated, else by a GET_FEATURES behind it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the acknowledgement is not zero.
    pub fn command(&self, what: &'static str, id: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if !self.has(protocol::REPLY_ACK) {
            self.send(id, VERSION, payload, fds)?;
            return self.get_features().map(drop);
        }
        self.send(id, VERSION | NEED_REPLY, payload, fds)?;
        let reply = self.receive(what)?;
        if reply.request != id || reply.flags & 0b111 != VERSION | REPLY {
            let text = format!(
                "id {} with flags {:#x} instead of an acknowledgement",
                reply.request, reply.flags
            );
            return Err(Error::BadReply(what, text));
        }
        match reply_u64(what, &reply)? {
            0 => Ok(()),
            code => Err(Error::Refused(what, code)),
        }
    }

    fn query(&self, what: &'static str, id: u32) -> Result<u64> {
        reply_u64(what, &self.request(what, id, &[], &[])?)
    }

    /// GET_FEATURES; also serves as "is everything before this done?".
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get_features(&self) -> Result<u64> {
        self.query("GET_FEATURES", request::GET_FEATURES)
    }

    /// SET_FEATURES.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_features(&self, features: u64) -> Result<()> {
        self.command("SET_FEATURES", request::SET_FEATURES, &u64s(&[features]), &[])
    }

    /// SET_OWNER.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_owner(&self) -> Result<()> {
        self.command("SET_OWNER", request::SET_OWNER, &[], &[])
    }

    /// RESET_OWNER (deprecated; a back end ignores it or disables all rings).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn reset_owner(&self) -> Result<()> {
        self.command("RESET_OWNER", request::RESET_OWNER, &[], &[])
    }

    /// RESET_DEVICE.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn reset_device(&self) -> Result<()> {
        self.command("RESET_DEVICE", request::RESET_DEVICE, &[], &[])
    }

    /// GET_PROTOCOL_FEATURES.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get_protocol_features(&self) -> Result<u64> {
        self.query("GET_PROTOCOL_FEATURES", request::GET_PROTOCOL_FEATURES)
    }

    /// SET_PROTOCOL_FEATURES; what follows is sent as these features allow.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.send(request::SET_PROTOCOL_FEATURES, VERSION, &u64s(&[features]), &[])?;
        self.protocol = features;
        self.get_features().map(drop)
    }

    /// GET_QUEUE_NUM.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get_queue_num(&self) -> Result<u64> {
        self.query("GET_QUEUE_NUM", request::GET_QUEUE_NUM)
    }

    /// GET_MAX_MEM_SLOTS.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get_max_mem_slots(&self) -> Result<u64> {
        self.query("GET_MAX_MEM_SLOTS", request::GET_MAX_MEM_SLOTS)
    }

    /// SET_MEM_TABLE with all regions of `memory`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_mem_table(&self, memory: &GuestMemory) -> Result<()> {
        let regions = memory.regions();
        let count = u32::try_from(regions.len()).expect("a handful of regions");
        let mut payload = u32s(&[count, 0]);
        for region in &regions {
            payload.extend(region_fields(region));
        }
        let fds: Vec<_> = regions.iter().map(|region| region.file()).collect();
        self.command("SET_MEM_TABLE", request::SET_MEM_TABLE, &payload, &fds)
    }

    /// ADD_MEM_REG.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn add_mem_reg(&self, region: &Region) -> Result<()> {
        let payload = single_region(region);
        self.command("ADD_MEM_REG", request::ADD_MEM_REG, &payload, &[region.file()])
    }

    /// REM_MEM_REG.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn rem_mem_reg(&self, region: &Region) -> Result<()> {
        self.command("REM_MEM_REG", request::REM_MEM_REG, &single_region(region), &[])
    }

    /// SET_VRING_NUM.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_vring_num(&self, queue: u32, size: u32) -> Result<()> {
        self.command(
            "SET_VRING_NUM",
            request::SET_VRING_NUM,
            &u32s(&[queue, size]),
            &[],
        )
    }

    /// SET_VRING_BASE.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_vring_base(&self, queue: u32, base: u32) -> Result<()> {
        self.command(
            "SET_VRING_BASE",
            request::SET_VRING_BASE,
            &u32s(&[queue, base]),
            &[],
        )
    }

    /// SET_VRING_ADDR, translated to user addresses; `log` is the guest address at which used ring writes are logged.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::BadReply`] when `memory` does not hold the ring.
    pub fn set_vring_addr(
        &self,
        queue: u32,
        memory: &GuestMemory,
        ring: RingAddress,
        log: Option<u64>,
    ) -> Result<()> {
        let user = |addr: u64| {
            let missing = || Error::BadReply("SET_VRING_ADDR", format!("no guest memory at {addr:#x}"));
            memory.user_addr(addr).ok_or_else(missing)
        };
        let addresses = [
            user(ring.descriptor)?,
            user(ring.used)?,
            user(ring.available)?,
            log.unwrap_or(0),
        ];
        self.set_vring_addr_raw(queue, u32::from(log.is_some()), addresses)
    }

    /// SET_VRING_ADDR with the fields as given: user addresses of descriptor table, used ring, available ring, and log.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_vring_addr_raw(&self, queue: u32, flags: u32, addresses: [u64; 4]) -> Result<()> {
        let mut payload = u32s(&[queue, flags]);
        payload.extend(u64s(&addresses));
        self.command("SET_VRING_ADDR", request::SET_VRING_ADDR, &payload, &[])
    }

    /// GET_VRING_BASE: stops the ring and gives the index at which it is to be restarted.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get_vring_base(&self, queue: u32) -> Result<u32> {
        let what = "GET_VRING_BASE";
        let reply = self.request(what, request::GET_VRING_BASE, &u32s(&[queue, 0]), &[])?;
        let fields = reply_u64(what, &reply)?.to_ne_bytes();
        let half =
            |at: usize| u32::from_ne_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]]);
        match half(0) {
            index if index == queue => Ok(half(4)),
            index => Err(Error::BadReply(what, format!("queue {index} instead of {queue}"))),
        }
    }

    /// SET_VRING_KICK.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_vring_kick(&self, queue: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.vring_fd("SET_VRING_KICK", request::SET_VRING_KICK, queue, fd)
    }

    /// SET_VRING_CALL.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_vring_call(&self, queue: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.vring_fd("SET_VRING_CALL", request::SET_VRING_CALL, queue, fd)
    }

    /// SET_VRING_ERR.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_vring_err(&self, queue: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.vring_fd("SET_VRING_ERR", request::SET_VRING_ERR, queue, fd)
    }

    fn vring_fd(&self, what: &'static str, id: u32, queue: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let flag = if fd.is_some() { 0 } else { NO_FD };
        let payload = u64s(&[u64::from(queue) | flag]);
        self.command(what, id, &payload, &fd.into_iter().collect::<Vec<_>>())
    }

    /// SET_VRING_ENABLE.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_vring_enable(&self, queue: u32, enable: bool) -> Result<()> {
        let payload = u32s(&[queue, u32::from(enable)]);
        self.command("SET_VRING_ENABLE", request::SET_VRING_ENABLE, &payload, &[])
    }

    /// GET_CONFIG: `size` bytes from `offset`. An empty answer is the back end's way to say that it refuses.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Refused`] for an empty answer to a request that was not empty.
    pub fn get_config(&self, offset: u32, size: u32) -> Result<Vec<u8>> {
        let what = "GET_CONFIG";
        let mut payload = u32s(&[offset, size, 0]);
        payload.resize(payload.len() + size as usize, 0);
        let reply = self.request(what, request::GET_CONFIG, &payload, &[])?;
        if reply.payload.len() == payload.len() {
            return Ok(reply.payload[12..].to_vec());
        }
        match reply.payload.len() {
            0 | 12 => Err(Error::Refused(what, 0)),
            length => Err(Error::BadReply(
                what,
                format!("payload of {length} bytes for {size}"),
            )),
        }
    }

    /// SET_CONFIG with flags 0 (a write by the driver).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<()> {
        let mut payload = u32s(&[offset, u32::try_from(bytes.len()).expect("a few bytes"), 0]);
        payload.extend_from_slice(bytes);
        self.command("SET_CONFIG", request::SET_CONFIG, &payload, &[])
    }

    /// SET_BACKEND_REQ_FD; gives our end of the channel.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_backend_channel(&self, deadline: Duration) -> Result<FrontEnd> {
        let (ours, theirs) = UnixStream::pair()?;
        self.command(
            "SET_BACKEND_REQ_FD",
            request::SET_BACKEND_REQ_FD,
            &[],
            &[theirs.as_fd()],
        )?;
        Ok(Self::from_stream(ours, deadline)?)
    }

    /// GET_INFLIGHT_FD.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get_inflight_fd(&self, queues: u16, queue_size: u16) -> Result<Inflight> {
        let what = "GET_INFLIGHT_FD";
        let mut reply = self.request(
            what,
            request::GET_INFLIGHT_FD,
            &inflight_fields(0, 0, queues, queue_size),
            &[],
        )?;
        let file = reply
            .fds
            .pop()
            .ok_or_else(|| Error::BadReply(what, "no descriptor attached".into()))?;
        let (Some(size), Some(offset)) = (field_u64(&reply.payload, 0), field_u64(&reply.payload, 8)) else {
            return Err(Error::BadReply(
                what,
                format!("payload of {} bytes", reply.payload.len()),
            ));
        };
        Ok(Inflight {
            file,
            mmap_size: size,
            mmap_offset: offset,
            queues,
            queue_size,
        })
    }

    /// SET_INFLIGHT_FD.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_inflight_fd(&self, inflight: &Inflight) -> Result<()> {
        let Inflight {
            mmap_size,
            mmap_offset,
            queues,
            queue_size,
            ..
        } = *inflight;
        let payload = inflight_fields(mmap_size, mmap_offset, queues, queue_size);
        self.command(
            "SET_INFLIGHT_FD",
            request::SET_INFLIGHT_FD,
            &payload,
            &[inflight.file.as_fd()],
        )
    }

    /// SET_LOG_BASE with a shared log of `size` bytes at `offset` of `file`; waits for the reply.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_log_base(&self, file: BorrowedFd<'_>, size: u64, offset: u64) -> Result<()> {
        self.request(
            "SET_LOG_BASE",
            request::SET_LOG_BASE,
            &u64s(&[size, offset]),
            &[file],
        )
        .map(drop)
    }

    /// SET_DEVICE_STATE_FD: `load` is the direction, `fd` our pipe's other end.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_device_state_fd(&self, load: bool, fd: BorrowedFd<'_>) -> Result<()> {
        let what = "SET_DEVICE_STATE_FD";
        let reply = self.request(
            what,
            request::SET_DEVICE_STATE_FD,
            &u32s(&[u32::from(load), 0]),
            &[fd],
        )?;
        match reply_u64(what, &reply)? {
            value if value & 0xff == 0 => Ok(()),
            value => Err(Error::Refused(what, value)),
        }
    }

    /// CHECK_DEVICE_STATE.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check_device_state(&self) -> Result<()> {
        let what = "CHECK_DEVICE_STATE";
        match self.query(what, request::CHECK_DEVICE_STATE)? {
            0 => Ok(()),
            code => Err(Error::Refused(what, code)),
        }
    }
}

fn field_u64(payload: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(payload.get(at..at + 8)?.try_into().ok()?))
}

fn reply_u64(what: &'static str, reply: &Message) -> Result<u64> {
    match field_u64(&reply.payload, 0) {
        Some(value) if reply.payload.len() == 8 => Ok(value),
        _ => Err(Error::BadReply(
            what,
            format!("payload of {} bytes instead of 8", reply.payload.len()),
        )),
    }
}

fn region_fields(region: &Region) -> Vec<u8> {
    u64s(&[
        region.spec.guest_addr,
        region.spec.size,
        region.user_addr(),
        region.spec.offset,
    ])
}

fn single_region(region: &Region) -> Vec<u8> {
    let mut payload = u64s(&[0]);
    payload.extend(region_fields(region));
    payload
}

fn inflight_fields(size: u64, offset: u64, queues: u16, queue_size: u16) -> Vec<u8> {
    let mut payload = u64s(&[size, offset]);
    payload.extend(queues.to_ne_bytes());
    payload.extend(queue_size.to_ne_bytes());
    payload.extend([0; 4]); // the C struct's tail padding is on the wire
    payload
}
