// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who is answered by a reset, and who is not.

use std::io::Read;

use vu_testkit::devices::vsock::{Header, feature, kind, op, vsock};

use crate::support::{PORT, Rig, StreamsOnly};

#[test]
fn a_connection_to_nobody_is_reset() {
    let mut rig = Rig::new();
    rig.send(Header::new(op::REQUEST, PORT, 80).with(b""));
    let header = rig.expect(op::RST);
    assert_eq!((header.src_cid, header.dst_cid), (2, 3));
    assert_eq!(
        (header.src_port, header.dst_port, header.kind),
        (80, PORT, kind::STREAM)
    );
}

#[test]
fn a_reset_is_never_answered_by_a_reset() {
    let mut rig = Rig::new();
    rig.send(Header::new(op::RST, PORT, 80).with(b""));
    rig.quiet();
}

#[test]
fn whatever_speaks_of_a_connection_that_is_not_there_is_reset() {
    let mut rig = Rig::new();
    for op in [
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0,
        8,
        u16::MAX,
    ] {
        rig.send(Header::new(op, PORT, 80).with(b""));
        assert_eq!(rig.expect(op::RST).dst_port, PORT, "operation {op}");
    }
}

#[test]
fn an_unknown_type_is_reset_with_that_type() {
    let mut rig = Rig::new();
    for kind in [0, 3, u16::MAX] {
        let header = Header {
            kind,
            ..Header::new(op::REQUEST, PORT, 80)
        };
        rig.send(header.with(b""));
        assert_eq!(rig.expect(op::RST).kind, kind);
    }
}

#[test]
fn a_packet_of_another_guest_is_not_answered() {
    let mut rig = Rig::new();
    let _listener = rig.listen(80);
    for src_cid in [0, 2, 4, 1 << 32 | 3, u64::MAX] {
        let header = Header {
            src_cid,
            ..Header::new(op::REQUEST, PORT, 80)
        };
        rig.send(header.with(b""));
    }
    rig.quiet();
}

#[test]
fn other_context_ids_than_the_host_are_reset_without_siblings() {
    let mut rig = Rig::new();
    let _listener = rig.listen(80);
    for dst_cid in [0, 1, 3, 4] {
        let header = Header {
            dst_cid,
            ..Header::new(op::REQUEST, PORT, 80)
        };
        rig.send(header.with(b""));
        assert_eq!(rig.expect(op::RST).src_cid, dst_cid);
    }
}

/// Linux repeats it when its `connect` was interrupted, and may have the answer to the first by then.
#[test]
fn a_request_that_is_repeated_changes_nothing() {
    let mut rig = Rig::new();
    let (_, mut stream) = rig.connect(80);
    rig.send(Header::new(op::REQUEST, PORT, 80).with(b""));
    rig.quiet();
    rig.send(Header::new(op::RW, PORT, 80).with(b"here"));
    let mut got = [0; 4];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"here");
}

#[test]
fn a_type_that_was_not_negotiated_is_reset() {
    let mut rig = Rig::bare(&[], &StreamsOnly(vsock()));
    rig.post(4);
    let _listener = rig.listen(80);
    let messages = Header {
        kind: kind::SEQPACKET,
        ..Header::new(op::REQUEST, PORT, 80)
    };
    rig.send(messages.with(b""));
    assert_eq!(rig.expect(op::RST).kind, kind::SEQPACKET);
    rig.send(Header::new(op::REQUEST, PORT, 80).with(b""));
    rig.expect(op::RESPONSE);
    assert_eq!(
        feature::STREAM | feature::SEQPACKET | feature::NO_IMPLIED_STREAM,
        7
    );
}

#[test]
fn a_packet_that_is_cut_short_is_nobodys() {
    let mut rig = Rig::new();
    for len in [0, 1, 43] {
        let mut packet = Header::new(op::RW, PORT, 80).with(b"");
        packet.readable.truncate(len.max(1));
        rig.send(packet);
    }
    rig.quiet();
}
