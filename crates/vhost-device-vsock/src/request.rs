// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets: bytes to checked packets and back. Pure.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use zerocopy::{FromBytes, IntoBytes};

use crate::spec::{HEADER_LEN, Header, kind, op, seq, shutdown};

/// The type of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes in order.
    Stream,
    /// Messages in order.
    Seqpacket,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Context id.
    pub cid: u32,
    /// Port.
    pub port: u32,
}

/// What the guest's driver and its peers call one connection: the guest's port, and who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The port in the guest.
    pub guest_port: u32,
    /// The other end.
    pub peer: Address,
}

/// The room that the sender of a packet has for this connection (section 5.10.6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All of it, in bytes.
    pub buf_alloc: u32,
    /// How many bytes have left it so far, modulo 2^32.
    pub fwd_cnt: u32,
}

/// What a packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// To connect.
    Request,
    /// The connection is accepted.
    Response,
    /// The connection is refused, or ends now.
    Rst,
    /// The sender receives no more, sends no more, or neither.
    Shutdown {
        /// No more receiving.
        receive: bool,
        /// No more sending.
        send: bool,
    },
    /// Payload.
    Rw {
        /// It ends a message.
        eom: bool,
        /// It ends a record.
        eor: bool,
    },
    /// Nothing but the room of the sender.
    CreditUpdate,
    /// A credit update is asked for.
    CreditRequest,
}

/// A packet without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its connection.
    pub flow: Flow,
    /// The type of the sockets.
    pub kind: Kind,
    /// What it wants.
    pub op: Op,
    /// Bytes of payload.
    pub len: u32,
    /// The room of its sender.
    pub room: Room,
}

/// A packet of the guest that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It claims to come from somebody else, and must not be answered: the answer would go to the wrong one.
    #[error("a packet with the source context id {0}, which is not the guest's")]
    Source(u64),
    /// There are no such context ids.
    #[error("a packet to the context id {0:#x}")]
    Destination(u64),
    /// Neither of the types that we know; to be answered by a reset.
    #[error("a packet of the unknown type {0}")]
    Type(u16, Box<Reset>),
    /// None of the operations; to be answered by a reset.
    #[error("a packet with the unknown operation {0}")]
    Op(u16, Box<Reset>),
}

/// What a reset needs to know of the packet that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The connection.
    pub flow: Flow,
    /// The type as it came, known or not.
    pub kind: u16,
}

impl Malformed {
    /// The reset that answers it, if one shall.
    pub fn reset(&self) -> Option<Reset> {
        match self {
            Self::Source(_) | Self::Destination(_) => None,
            Self::Type(_, reset) | Self::Op(_, reset) => Some(**reset),
        }
    }
}

impl Kind {
    fn parse(value: u16) -> Option<Self> {
        match value {
            kind::STREAM => Some(Self::Stream),
            kind::SEQPACKET => Some(Self::Seqpacket),
            _ => None,
        }
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> u16 {
        match self {
            Self::Stream => kind::STREAM,
            Self::Seqpacket => kind::SEQPACKET,
        }
    }
}

impl Packet {
    /// Checks the header of a packet that the guest `guest_cid` sent.
    ///
    /// # Errors
    /// What is wrong with it, and how to answer.
    pub fn parse(bytes: &[u8; HEADER_LEN], guest_cid: u32) -> Result<Self, Malformed> {
        // All bit patterns are headers, and the length is right.
        let header = Header::read_from_bytes(bytes).unwrap_or_default();
        let src = header.src_cid.get();
        if src != u64::from(guest_cid) {
            return Err(Malformed::Source(src));
        }
        let dst = header.dst_cid.get();
        let cid = u32::try_from(dst).ok().filter(|cid| *cid != u32::MAX);
        let Some(cid) = cid else {
            return Err(Malformed::Destination(dst));
        };
        let port = header.dst_port.get();
        let flow = Flow {
            guest_port: header.src_port.get(),
            peer: Address { cid, port },
        };
        let raw = header.kind.get();
        let reset = Reset { flow, kind: raw };
        let kind = Kind::parse(raw).ok_or_else(|| Malformed::Type(raw, Box::new(reset)))?;
        Ok(Self {
            flow,
            kind,
            op: parse_op(&header).ok_or_else(|| Malformed::Op(header.op.get(), Box::new(reset)))?,
            len: header.len.get(),
            room: Room {
                buf_alloc: header.buf_alloc.get(),
                fwd_cnt: header.fwd_cnt.get(),
            },
        })
    }

    /// The header of a packet to the guest `guest_cid`.
    pub fn to_bytes(&self, guest_cid: u32) -> [u8; HEADER_LEN] {
        let (op, flags) = match self.op {
            Op::Request => (op::REQUEST, 0),
            Op::Response => (op::RESPONSE, 0),
            Op::Rst => (op::RST, 0),
            Op::Shutdown { receive, send } => (
                op::SHUTDOWN,
                bit(receive, shutdown::F_RECEIVE) | bit(send, shutdown::F_SEND),
            ),
            Op::Rw { eom, eor } => (op::RW, bit(eom, seq::EOM) | bit(eor, seq::EOR)),
            Op::CreditUpdate => (op::CREDIT_UPDATE, 0),
            Op::CreditRequest => (op::CREDIT_REQUEST, 0),
        };
        header(self.flow, self.kind.to_wire(), op, guest_cid, |header| {
            header.len = self.len.into();
            header.flags = flags.into();
            header.buf_alloc = self.room.buf_alloc.into();
            header.fwd_cnt = self.room.fwd_cnt.into();
        })
    }
}

impl Reset {
    /// The header of the reset, to the guest `guest_cid`.
    pub fn to_bytes(&self, guest_cid: u32) -> [u8; HEADER_LEN] {
        header(self.flow, self.kind, op::RST, guest_cid, |_| ())
    }
}

fn header(
    flow: Flow,
    kind: u16,
    op: u16,
    guest_cid: u32,
    rest: impl FnOnce(&mut Header),
) -> [u8; HEADER_LEN] {
    let mut header = Header {
        src_cid: u64::from(flow.peer.cid).into(),
        dst_cid: u64::from(guest_cid).into(),
        src_port: flow.peer.port.into(),
        dst_port: flow.guest_port.into(),
        kind: kind.into(),
        op: op.into(),
        ..Header::default()
    };
    rest(&mut header);
    let mut bytes = [0; HEADER_LEN];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}

fn parse_op(header: &Header) -> Option<Op> {
    let flags = header.flags.get();
    Some(match header.op.get() {
        op::REQUEST => Op::Request,
        op::RESPONSE => Op::Response,
        op::RST => Op::Rst,
        op::SHUTDOWN => Op::Shutdown {
            receive: flags & shutdown::F_RECEIVE != 0,
            send: flags & shutdown::F_SEND != 0,
        },
        op::RW => Op::Rw {
            eom: flags & seq::EOM != 0,
            eor: flags & seq::EOR != 0,
        },
        op::CREDIT_UPDATE => Op::CreditUpdate,
        op::CREDIT_REQUEST => Op::CreditRequest,
        _ => return None,
    })
}

fn bit(set: bool, mask: u32) -> u32 {
    if set { mask } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{Address, Flow, Kind, Malformed, Op, Packet, Room};
    use crate::spec::HEADER_LEN;

    fn flow() -> Flow {
        Flow {
            guest_port: 1234,
            peer: Address { cid: 2, port: 80 },
        }
    }

    /// The header as a guest with the context id 3 sends it.
    fn sent(kind: u16, op: u16, flags: u32) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::new();
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(1234_u32.to_le_bytes());
        bytes.extend(80_u32.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(op.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(4096_u32.to_le_bytes());
        bytes.extend(11_u32.to_le_bytes());
        bytes.try_into().unwrap()
    }

    #[test]
    fn every_operation_is_told_from_its_number() {
        for (number, flags, op) in [
            (1, 0, Op::Request),
            (2, 0, Op::Response),
            (3, 0, Op::Rst),
            (
                4,
                1,
                Op::Shutdown {
                    receive: true,
                    send: false,
                },
            ),
            (
                4,
                2,
                Op::Shutdown {
                    receive: false,
                    send: true,
                },
            ),
            (
                5,
                1,
                Op::Rw {
                    eom: true,
                    eor: false,
                },
            ),
            (5, 3, Op::Rw { eom: true, eor: true }),
            (6, 0, Op::CreditUpdate),
            (7, 0, Op::CreditRequest),
        ] {
            let expected = Packet {
                flow: flow(),
                kind: Kind::Stream,
                op,
                len: 7,
                room: Room {
                    buf_alloc: 4096,
                    fwd_cnt: 11,
                },
            };
            assert_eq!(Packet::parse(&sent(1, number, flags), 3), Ok(expected));
        }
    }

    #[test]
    fn an_unknown_type_or_operation_is_answered_by_a_reset_of_its_flow() {
        for (kind, op) in [(0, 1), (3, 1), (1, 0), (1, 8), (2, 0xffff)] {
            let error = Packet::parse(&sent(kind, op, 0), 3).unwrap_err();
            let reset = error.reset().unwrap();
            assert_eq!((reset.flow, reset.kind), (flow(), kind));
            let bytes = reset.to_bytes(3);
            assert_eq!(bytes[0..8], 2_u64.to_le_bytes());
            assert_eq!(bytes[28..32], [kind as u8, 0, 3, 0]);
        }
    }

    #[test]
    fn a_false_sender_is_not_answered() {
        let error = Packet::parse(&sent(1, 1, 0), 4).unwrap_err();
        assert_eq!(error, Malformed::Source(3));
        assert_eq!(error.reset(), None);
    }

    #[test]
    fn context_ids_of_more_than_32_bits_name_nobody() {
        for cid in [u64::from(u32::MAX), 1 << 32, u64::MAX, (1 << 32) | 2] {
            let mut bytes = sent(1, 1, 0);
            bytes[8..16].copy_from_slice(&cid.to_le_bytes());
            assert_eq!(Packet::parse(&bytes, 3), Err(Malformed::Destination(cid)));
        }
    }

    #[test]
    fn what_we_send_comes_from_the_peer() {
        let packet = Packet {
            flow: flow(),
            kind: Kind::Seqpacket,
            op: Op::Rw {
                eom: true,
                eor: false,
            },
            len: 9,
            room: Room {
                buf_alloc: 1,
                fwd_cnt: 2,
            },
        };
        let bytes = packet.to_bytes(3);
        let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((field(0), field(8), field(16), field(20)), (2, 3, 80, 1234));
        assert_eq!((field(24), field(28), field(32)), (9, 0x0005_0002, 1));
        assert_eq!((field(36), field(40)), (1, 2));
    }
}
