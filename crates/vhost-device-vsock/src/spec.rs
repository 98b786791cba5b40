// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The wire of the socket device (virtio 1.3, section 5.10), by the names of the specification without their
//! `VIRTIO_VSOCK_` prefix.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Virtio device id (section 5.10.1).
pub(crate) const VIRTIO_ID_VSOCK: u32 = 19;

/// Virtqueues (section 5.10.2): packets to the driver.
pub(crate) const RX: usize = 0;
/// Packets from the driver.
pub(crate) const TX: usize = 1;
/// Events. QEMU keeps it to itself.
pub(crate) const EVENT: usize = 2;

/// Feature bits as masks (section 5.10.3).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub(crate) mod feature {
    pub(crate) const STREAM: u64 = 1 << 0;
    pub(crate) const SEQPACKET: u64 = 1 << 1;
    pub(crate) const NO_IMPLIED_STREAM: u64 = 1 << 2;
}

/// Values of [`Header::kind`] (section 5.10.6.2).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub(crate) mod kind {
    pub(crate) const STREAM: u16 = 1;
    pub(crate) const SEQPACKET: u16 = 2;
}

/// Values of [`Header::op`] (section 5.10.6).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub(crate) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a [`op::SHUTDOWN`] (section 5.10.6.5).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub(crate) mod shutdown {
    pub(crate) const F_RECEIVE: u32 = 1 << 0;
    pub(crate) const F_SEND: u32 = 1 << 1;
}

/// Flags of a [`op::RW`] of a seqpacket socket (section 5.10.6.6.1).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub(crate) mod seq {
    pub(crate) const EOM: u32 = 1 << 0;
    pub(crate) const EOR: u32 = 1 << 1;
}

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
pub(crate) const EVENT_TRANSPORT_RESET: u32 = 0;

/// The context id of the host.
pub(crate) const HOST_CID: u32 = 2;

/// Bytes of a [`Header`].
pub(crate) const HEADER_LEN: usize = size_of::<Header>();
/// Bytes of the configuration space: `guest_cid`.
pub(crate) const CONFIG_LEN: usize = 8;

/// `struct virtio_vsock_hdr`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Header {
    /// Context id of the sender.
    pub(crate) src_cid: U64,
    /// Context id of the receiver.
    pub(crate) dst_cid: U64,
    /// Port of the sender.
    pub(crate) src_port: U32,
    /// Port of the receiver.
    pub(crate) dst_port: U32,
    /// Bytes of payload behind the header.
    pub(crate) len: U32,
    /// One of [`kind`].
    pub(crate) kind: U16,
    /// One of [`op`].
    pub(crate) op: U16,
    /// Of [`shutdown`] or [`seq`].
    pub(crate) flags: U32,
    /// How many bytes the sender has room for on this connection, in all.
    pub(crate) buf_alloc: U32,
    /// How many bytes the sender has taken out of that room since the connection began, modulo 2^32.
    pub(crate) fwd_cnt: U32,
}
