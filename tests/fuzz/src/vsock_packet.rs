// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parser of headers of socket packets, beside a second opinion on what is a good one.
//!
//! An input is the context id of the guest in four bytes, and then headers of 44 bytes, one after the other.

use vhost_device_vsock::{Address, Flow, Kind, Malformed, Op, Packet, Room};

const LEN: usize = 44;

/// The number of `N` bytes at `at`.
fn field<const N: usize>(header: &[u8; LEN], at: usize) -> u64 {
    header[at..at + N]
        .iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// What the header says (section 5.10.6 of the specification), if the guest `cid` may say it.
fn expected(header: &[u8; LEN], cid: u32) -> Option<Packet> {
    let dst = u32::try_from(field::<8>(header, 8)).ok()?;
    if field::<8>(header, 0) != u64::from(cid) || dst == u32::MAX {
        return None;
    }
    let flags = field::<4>(header, 32);
    let (one, two) = (flags & 1 != 0, flags & 2 != 0);
    let op = match field::<2>(header, 30) {
        1 => Op::Request,
        2 => Op::Response,
        3 => Op::Rst,
        4 => Op::Shutdown {
            receive: one,
            send: two,
        },
        5 => Op::Rw { eom: one, eor: two },
        6 => Op::CreditUpdate,
        7 => Op::CreditRequest,
        _ => return None,
    };
    Some(Packet {
        flow: Flow {
            guest_port: field::<4>(header, 16) as u32,
            peer: Address {
                cid: dst,
                port: field::<4>(header, 20) as u32,
            },
        },
        kind: match field::<2>(header, 28) {
            1 => Kind::Stream,
            2 => Kind::Seqpacket,
            _ => return None,
        },
        op,
        len: field::<4>(header, 24) as u32,
        room: Room {
            buf_alloc: field::<4>(header, 36) as u32,
            fwd_cnt: field::<4>(header, 40) as u32,
        },
    })
}

/// `header` with its ends exchanged, as whoever answers it sees it.
fn turned(header: &[u8; LEN]) -> [u8; LEN] {
    let mut other = *header;
    for (from, to, len) in [(0, 8, 8), (8, 0, 8), (16, 20, 4), (20, 16, 4)] {
        other[to..to + len].copy_from_slice(&header[from..from + len]);
    }
    other
}

/// The target.
///
/// # Panics
/// When the parser lets something else pass than the specification does, or answers the wrong one.
pub(crate) fn run(input: &[u8]) {
    let Some((cid, headers)) = input.split_first_chunk() else {
        return;
    };
    let cid = u32::from_le_bytes(*cid);
    for header in headers.chunks(LEN) {
        let Ok(header) = <&[u8; LEN]>::try_from(header) else {
            return;
        };
        let found = Packet::parse(header, cid);
        let reset = match &found {
            Ok(packet) => {
                // Written again it is the same, but for flags that its operation has not.
                let mut again = turned(&packet.to_bytes(cid));
                again[32..36].copy_from_slice(&header[32..36]);
                assert_eq!(&again, header);
                None
            }
            Err(malformed) => {
                let text = malformed.to_string();
                assert!(!text.is_empty() && text.len() < 100, "{text}");
                let stranger = matches!(malformed, Malformed::Source(_) | Malformed::Destination(_));
                assert_eq!(malformed.reset().is_none(), stranger, "{malformed:?}");
                malformed.reset()
            }
        };
        if let Some(reset) = reset {
            let answer = turned(&reset.to_bytes(cid));
            assert_eq!(answer[..24], header[..24], "the answer goes to another one");
            assert_eq!(
                (answer[28..30].to_vec(), answer[30]),
                (header[28..30].to_vec(), 3)
            );
            assert!(answer[24..28].iter().chain(&answer[32..]).all(|byte| *byte == 0));
        }
        assert_eq!(found.ok(), expected(header, cid), "{header:x?} of {cid}");
    }
}
