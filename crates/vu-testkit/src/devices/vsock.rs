// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The socket device (virtio, "Socket Device"): packets that mean nothing as requests, buffers for packets that wait, and
//! the names of its wire format for tests of its own.

use super::{Parking, Profile};
use crate::chains::Request;

/// Number of the queue of packets to the driver.
pub const RX: u16 = 0;
/// Number of the queue of packets from the driver.
pub const TX: u16 = 1;
/// Number of the queue of events.
pub const EVENT: u16 = 2;
/// Bytes of a header.
pub const HEADER: usize = 44;
/// The context id of the guest.
pub const GUEST: u64 = 3;
/// The context id of the host.
pub const HOST: u64 = 2;

/// The features that there are, as masks.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod feature {
    pub const STREAM: u64 = 1;
    pub const SEQPACKET: u64 = 2;
    pub const NO_IMPLIED_STREAM: u64 = 4;
}

/// Types of sockets.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod kind {
    pub const STREAM: u16 = 1;
    pub const SEQPACKET: u16 = 2;
}

/// Operations.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// How our own daemon is started for the table.
pub const ARGS: &[&str] = &["--guest-cid", "3", "--uds-path", "{unique}"];

/// The header of a packet, by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Header {
    /// A packet of a stream from port `from` of the guest to port `to` of the host, with room for 64 KiB.
    #[must_use]
    pub fn new(op: u16, from: u32, to: u32) -> Self {
        Self {
            src_cid: GUEST,
            dst_cid: HOST,
            src_port: from,
            dst_port: to,
            len: 0,
            kind: kind::STREAM,
            op,
            flags: 0,
            buf_alloc: 65536,
            fwd_cnt: 0,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if there is one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let eight = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let four = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let two = |at: usize| bytes[at..at + 2].try_into().map(u16::from_le_bytes).ok();
        Some(Self {
            src_cid: eight(0)?,
            dst_cid: eight(8)?,
            src_port: four(16)?,
            dst_port: four(20)?,
            len: four(24)?,
            kind: two(28)?,
            op: two(30)?,
            flags: four(32)?,
            buf_alloc: four(36)?,
            fwd_cnt: four(40)?,
        })
    }

    /// The packet with `payload`, as a request.
    #[must_use]
    pub fn with(mut self, payload: &[u8]) -> Request {
        self.len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut readable = self.to_bytes();
        readable.extend(payload);
        Request {
            readable,
            writable: 0,
        }
    }
}

/// A buffer for a packet with up to `len` bytes of payload.
#[must_use]
pub fn buffer(len: usize) -> Request {
    Request {
        readable: Vec::new(),
        writable: HEADER + len,
    }
}

/// The profile of the socket device.
#[derive(Debug)]
pub struct Vsock(());

/// The profile of the socket device.
#[must_use]
pub fn vsock() -> Vsock {
    Vsock(())
}

impl Profile for Vsock {
    fn name(&self) -> &'static str {
        "vsock"
    }

    fn virtio_id(&self) -> u32 {
        19
    }

    fn queues(&self) -> u16 {
        3
    }

    fn request_queue(&self) -> u16 {
        TX
    }

    fn parking(&self) -> Option<Parking> {
        let buffers = vec![buffer(64); 4];
        Some(Parking {
            queue: RX,
            prepare: Vec::new(),
            // Payload without a connection is answered by a reset.
            release: (0..4)
                .map(|port| Header::new(op::RW, port, 1).with(b"x"))
                .collect(),
            buffers,
        })
    }

    fn features(&self) -> u64 {
        feature::STREAM | feature::SEQPACKET | feature::NO_IMPLIED_STREAM
    }

    fn config_len(&self) -> u32 {
        8
    }

    /// A reset of no connection, which is not answered.
    fn request(&self, number: u64, size: usize) -> Request {
        let port = u32::try_from(number % 1000).unwrap_or(0);
        Header::new(op::RST, port, 1).with(&vec![0x5a; size])
    }

    fn check(&self, _request: &Request, used: u32, _answer: &[u8]) -> Result<(), String> {
        match used {
            0 => Ok(()),
            used => Err(format!("used length {used} of a packet without writable bytes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Header, op};

    #[test]
    fn a_header_comes_back_from_its_bytes() {
        let header = Header {
            flags: 3,
            fwd_cnt: 4,
            ..Header::new(op::RW, 1, 2)
        };
        let bytes = header.to_bytes();
        assert_eq!((bytes.len(), bytes[30]), (HEADER, 5));
        assert_eq!(Header::parse(&bytes), Some(header));
        assert_eq!(Header::parse(&bytes[1..]), None);
    }
}
