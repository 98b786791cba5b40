// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vhost-user wire format: ids, feature bits, header, and how bytes and descriptors cross the socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Ids of the requests of a front end.
pub mod request {
    /// Asks for the feature bits that the back end offers.
    pub const GET_FEATURES: u32 = 1;
    /// Acknowledges feature bits.
    pub const SET_FEATURES: u32 = 2;
    /// Begins the session.
    pub const SET_OWNER: u32 = 3;
    /// Deprecated: ignored, or disables all rings.
    pub const RESET_OWNER: u32 = 4;
    /// Shares the guest memory as a whole.
    pub const SET_MEM_TABLE: u32 = 5;
    /// Shares the dirty log.
    pub const SET_LOG_BASE: u32 = 6;
    /// Passes an event for changes of the dirty log.
    pub const SET_LOG_FD: u32 = 7;
    /// Sets the number of entries of a ring.
    pub const SET_VRING_NUM: u32 = 8;
    /// Sets the addresses of the parts of a ring.
    pub const SET_VRING_ADDR: u32 = 9;
    /// Sets the available index at which a ring starts.
    pub const SET_VRING_BASE: u32 = 10;
    /// Stops a ring and asks for its available index.
    pub const GET_VRING_BASE: u32 = 11;
    /// Passes the event that tells of available buffers.
    pub const SET_VRING_KICK: u32 = 12;
    /// Passes the event that tells of used buffers.
    pub const SET_VRING_CALL: u32 = 13;
    /// Passes the event that tells of a broken ring.
    pub const SET_VRING_ERR: u32 = 14;
    /// Asks for the protocol features that the back end offers.
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    /// Acknowledges protocol features.
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    /// Asks for the number of queues (MQ).
    pub const GET_QUEUE_NUM: u32 = 17;
    /// Enables or disables a ring.
    pub const SET_VRING_ENABLE: u32 = 18;
    /// Passes the socket for requests of the back end (BACKEND_REQ).
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    /// Reads the configuration space (CONFIG).
    pub const GET_CONFIG: u32 = 24;
    /// Writes the configuration space (CONFIG).
    pub const SET_CONFIG: u32 = 25;
    /// Asks for a new in-flight region (INFLIGHT_SHMFD).
    pub const GET_INFLIGHT_FD: u32 = 31;
    /// Hands the in-flight region back (INFLIGHT_SHMFD).
    pub const SET_INFLIGHT_FD: u32 = 32;
    /// Resets the device (RESET_DEVICE).
    pub const RESET_DEVICE: u32 = 34;
    /// Asks for the number of memory slots (CONFIGURE_MEM_SLOTS).
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    /// Adds one memory region (CONFIGURE_MEM_SLOTS).
    pub const ADD_MEM_REG: u32 = 37;
    /// Removes one memory region (CONFIGURE_MEM_SLOTS).
    pub const REM_MEM_REG: u32 = 38;
    /// Passes the pipe for the state of the device (DEVICE_STATE).
    pub const SET_DEVICE_STATE_FD: u32 = 42;
    /// Asks whether the state went over well (DEVICE_STATE).
    pub const CHECK_DEVICE_STATE: u32 = 43;
}

/// Id of the back end's request "the configuration space changed".
pub const BACKEND_CONFIG_CHANGE_MSG: u32 = 2;

/// Feature bits, as masks.
pub mod feature {
    #![allow(
        missing_docs,
        reason = "the names are those of the virtio and vhost-user specifications"
    )]
    /// Legacy: interrupt when the available ring runs empty.
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// Writes to guest memory are logged (vhost).
    pub const LOG_ALL: u64 = 1 << 26;
    /// Legacy: no assumptions on framing.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Indirect descriptor tables.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notification suppression by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Protocol features can be negotiated (vhost-user).
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Complies with virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// Addresses are translated by an IOMMU.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Packed virtqueues.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Kicks carry data.
    pub const NOTIFICATION_DATA: u64 = 1 << 38;
    /// Single queues can be reset.
    pub const RING_RESET: u64 = 1 << 40;
}

/// Protocol feature bits, as masks.
pub mod protocol {
    /// GET_QUEUE_NUM is known.
    pub const MQ: u64 = 1 << 0;
    /// The dirty log is shared memory.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// Every request can be acknowledged.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The back end may send requests.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// Postcopy migration.
    pub const PAGEFAULT: u64 = 1 << 8;
    /// The configuration space is with the back end.
    pub const CONFIG: u64 = 1 << 9;
    /// Requests in flight are tracked in shared memory.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// RESET_DEVICE is known.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Kicks and calls are messages.
    pub const INBAND_NOTIFICATIONS: u64 = 1 << 14;
    /// Memory regions come and go one by one.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// The device status is passed on.
    pub const STATUS: u64 = 1 << 16;
    /// Memory is mapped by Xen grants.
    pub const XEN_MMAP: u64 = 1 << 17;
    /// The state of the device can be saved and loaded.
    pub const DEVICE_STATE: u64 = 1 << 19;
}

/// The version in the lowest two bits of the header's flags.
pub const VERSION: u32 = 1;
/// Header flag of a reply.
pub const REPLY: u32 = 1 << 2;
/// Header flag that asks for an acknowledgement (REPLY_ACK).
pub const NEED_REPLY: u32 = 1 << 3;
/// Bit 8 of the payload of SET_VRING_KICK, CALL and ERR: no descriptor is attached.
pub const NO_FD: u64 = 1 << 8;
/// Length of the header in bytes.
pub const HEADER: usize = 12;
/// The most descriptors that this front end attaches to or takes from one message.
pub const MAX_FDS: usize = 64;

/// One received message.
#[derive(Debug)]
pub struct Message {
    /// The id.
    pub request: u32,
    /// The header's flags.
    pub flags: u32,
    /// The payload.
    pub payload: Vec<u8>,
    /// The attached descriptors.
    pub fds: Vec<OwnedFd>,
}

/// The twelve bytes of a header.
#[must_use]
pub fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&request.to_ne_bytes());
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// A payload of consecutive 32-bit fields.
#[must_use]
pub fn u32s(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|field| field.to_ne_bytes()).collect()
}

/// A payload of consecutive 64-bit fields.
#[must_use]
pub fn u64s(fields: &[u64]) -> Vec<u8> {
    fields.iter().flat_map(|field| field.to_ne_bytes()).collect()
}

/// Sends all `bytes`, with `fds` attached to the first.
///
/// # Errors
/// What `sendmsg` reports.
pub fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(
            control.push(SendAncillaryMessage::ScmRights(fds)),
            "at most {MAX_FDS} descriptors per message"
        );
    }
    let mut sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    while sent < bytes.len() {
        let rest = [IoSlice::new(&bytes[sent..])];
        sent += sendmsg(
            stream,
            &rest,
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        )?;
    }
    Ok(())
}

/// Receives one message; `Ok(None)` when the peer has closed the connection.
///
/// # Errors
/// What `recvmsg` reports; `WouldBlock` when the socket's timeout passed.
pub fn receive(stream: &UnixStream) -> io::Result<Option<Message>> {
    let mut fds = Vec::new();
    let mut head = [0; HEADER];
    if !fill(stream, &mut head, &mut fds)? {
        return Ok(None);
    }
    let field = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let size = field(8);
    if size > 0x10000 {
        return Err(io::Error::other(format!("a reply announces {size} bytes")));
    }
    let mut payload = vec![0; size as usize];
    if !payload.is_empty() && !fill(stream, &mut payload, &mut fds)? {
        return Ok(None);
    }
    Ok(Some(Message {
        request: field(0),
        flags: field(4),
        payload,
        fds,
    }))
}

fn fill(stream: &UnixStream, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut done = 0;
    while done < buffer.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut target = [IoSliceMut::new(&mut buffer[done..])];
        let received = match recvmsg(stream, &mut target, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::CONNRESET) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received == 0 {
            return Ok(false);
        }
        done += received;
    }
    Ok(true)
}
