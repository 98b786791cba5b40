// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes and messages both ways, and how connections end.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use serde_json::json;
use vu_testkit::control;
use vu_testkit::devices::vsock::{Header, kind, op};

use crate::support::{PAYLOAD, PORT, Rig};

const RECEIVE: u32 = 1;
const SEND: u32 = 2;

fn shutdown(flags: u32) -> Header {
    Header {
        flags,
        ..Header::new(op::SHUTDOWN, PORT, 80)
    }
}

#[test]
fn bytes_reach_the_host_and_credit_comes_back() {
    let mut rig = Rig::with(&["--buffer-size", "8192"]);
    let (response, mut stream) = rig.connect(80);
    assert_eq!((response.buf_alloc, response.fwd_cnt), (8192, 0));
    let mut all = Vec::new();
    for turn in 0..10_u8 {
        let bytes = vec![turn; 4096];
        rig.send(Header::new(op::RW, PORT, 80).with(&bytes));
        let update = rig.expect(op::CREDIT_UPDATE);
        assert_eq!(update.fwd_cnt, (u32::from(turn) + 1) * 4096);
        let mut part = vec![0; 4096];
        stream.read_exact(&mut part).unwrap();
        all.extend(part);
    }
    assert!((0..10).all(|turn| {
        all[turn * 4096..][..4096]
            .iter()
            .all(|byte| usize::from(*byte) == turn)
    }));
}

#[test]
fn bytes_reach_the_guest_within_its_credit() {
    let mut rig = Rig::new();
    let (_, mut stream) = rig.connect(80);
    let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at >> 4) as u8).collect();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        stream.write_all(&sent).unwrap();
        stream
    });
    let got = rig.receive_bytes(bytes.len());
    assert_eq!(got, bytes);
    drop(writer.join().unwrap());
}

/// It may wait for just that, and give no credit before (`SO_RCVLOWAT`).
#[test]
fn a_guest_gets_as_much_as_it_has_room_for() {
    let mut rig = Rig::new();
    let (_, mut stream) = rig.connect(80);
    let writer = std::thread::spawn(move || {
        stream.write_all(&[7; 100_000]).unwrap();
        stream
    });
    let mut got = 0;
    while got < 65536 {
        let (header, payload) = rig.receive();
        got += payload.len();
        if header.op == op::CREDIT_REQUEST {
            rig.send(Header::new(op::CREDIT_UPDATE, PORT, 80).with(b""));
        }
    }
    assert_eq!(got, 65536);
    drop(rig);
    drop(writer.join().unwrap());
}

/// Small writes in a row make the device read less often, which must not lose the last of them, nor the end.
#[test]
fn many_small_writes_arrive_whole_and_the_end_after_them() {
    let mut rig = Rig::new();
    let (_, mut stream) = rig.connect(80);
    let bytes: Vec<u8> = (0..400_000_u32).map(|at| (at >> 3) as u8).collect();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        for part in sent.chunks(64) {
            stream.write_all(part).unwrap();
        }
    });
    let got = rig.receive_bytes(bytes.len());
    writer.join().unwrap();
    assert_eq!(got, bytes);
    while rig.receive().0.flags & RECEIVE == 0 {}
}

#[test]
fn a_credit_request_is_answered() {
    let mut rig = Rig::with(&["--buffer-size", "4096"]);
    let (_, _stream) = rig.connect(80);
    rig.send(Header::new(op::CREDIT_REQUEST, PORT, 80).with(b""));
    let update = rig.expect(op::CREDIT_UPDATE);
    assert_eq!((update.buf_alloc, update.fwd_cnt, update.src_port), (4096, 0, 80));
}

#[test]
fn payload_beyond_the_credit_ends_the_connection_only() {
    let mut rig = Rig::with(&["--buffer-size", "4096"]);
    let (_, mut stream) = rig.connect(80);
    rig.send(Header::new(op::RW, PORT, 80).with(&[1; 4097]));
    rig.expect(op::RST);
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "not a byte of it");
    let (_, _stream) = rig.connect(81);
}

#[test]
fn a_length_beyond_the_packet_ends_the_connection() {
    let mut rig = Rig::new();
    let (_, _stream) = rig.connect(80);
    let mut packet = Header::new(op::RW, PORT, 80).with(b"four");
    packet.readable.truncate(46);
    rig.send(packet);
    rig.expect(op::RST);
}

#[test]
fn bytes_behind_the_length_are_not_sent() {
    let mut rig = Rig::new();
    let (_, mut stream) = rig.connect(80);
    let mut packet = Header::new(op::RW, PORT, 80).with(b"four");
    packet.readable.extend(b"more");
    rig.send(packet);
    rig.send(shutdown(SEND).with(b""));
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert_eq!(got, "four");
}

#[test]
fn each_side_may_stop_sending_and_go_on_receiving() {
    let mut rig = Rig::new();
    let (_, mut stream) = rig.connect(80);
    rig.send(Header::new(op::RW, PORT, 80).with(b"question"));
    rig.send(shutdown(SEND).with(b""));
    let mut question = String::new();
    stream.read_to_string(&mut question).unwrap();
    stream.write_all(b"answer").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(question, "question");
    let (header, payload) = rig.receive();
    assert_eq!((header.op, &payload[..]), (op::RW, &b"answer"[..]));
    assert_ne!(rig.expect(op::SHUTDOWN).flags & SEND, 0);
    rig.send(shutdown(RECEIVE | SEND).with(b""));
    // That the host reads no more either may come before it.
    while rig.receive().0.op != op::RST {}
}

#[test]
fn payload_after_the_end_of_sending_is_refused() {
    let mut rig = Rig::new();
    let (_, _stream) = rig.connect(80);
    rig.send(shutdown(SEND).with(b""));
    rig.send(Header::new(op::RW, PORT, 80).with(b"more"));
    rig.expect(op::RST);
}

/// A guest that has sent more than the kernel keeps for a process that does not read.
fn full() -> (Rig, UnixStream, Vec<u8>) {
    let mut rig = Rig::with(&["--buffer-size", "1048576"]);
    let (_, stream) = rig.connect(80);
    let bytes: Vec<u8> = (0..900_000_u32).map(|at| (at >> 5) as u8).collect();
    for part in bytes.chunks(PAYLOAD) {
        rig.send(Header::new(op::RW, PORT, 80).with(part));
    }
    (rig, stream, bytes)
}

#[test]
fn a_clean_end_is_answered_once_the_host_has_all() {
    let (mut rig, mut stream, bytes) = full();
    rig.send(shutdown(RECEIVE | SEND).with(b""));
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, bytes);
    while rig.receive().0.op != op::RST {}
    rig.quiet();
}

#[test]
fn a_guest_that_does_not_wait_for_its_end_loses_nothing() {
    let (mut rig, mut stream, bytes) = full();
    rig.send(shutdown(RECEIVE | SEND).with(b""));
    rig.send(Header::new(op::RST, PORT, 80).with(b""));
    // Its port is free, and another connection on it is another connection.
    rig.send(Header::new(op::RW, PORT, 80).with(b"more"));
    while rig.receive().0.op != op::RST {}
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, bytes);
    rig.quiet();
}

#[test]
fn connections_are_listed_at_the_control_socket() {
    let mut rig = Rig::with(&control::OPTION);
    let connections = json!({"command": "connections"});
    let list = |rig: &Rig| control::result(&rig.daemon, &connections).unwrap();
    assert_eq!(list(&rig), json!([]));
    let (_, _stream) = rig.connect(80);
    let one = json!({"guest_port": PORT, "peer": "2:80", "type": "stream", "state": "established", "waiting_for_host": 0});
    assert_eq!(list(&rig), json!([one]));
}

#[test]
fn what_a_guest_sent_arrives_after_it_has_gone() {
    let (rig, mut stream, bytes) = full();
    let Rig {
        guest, daemon, dir, ..
    } = rig;
    drop(guest);
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), bytes.len());
    assert_eq!(got, bytes);
    drop((daemon, dir));
}

#[test]
fn a_process_that_goes_is_a_shutdown_of_both_directions() {
    let mut rig = Rig::new();
    let (_, mut stream) = rig.connect(80);
    stream.write_all(b"bye").unwrap();
    drop(stream);
    let (header, payload) = rig.receive();
    assert_eq!((header.op, &payload[..]), (op::RW, &b"bye"[..]));
    let mut flags = 0;
    while flags != RECEIVE | SEND {
        flags |= rig.expect(op::SHUTDOWN).flags;
    }
    rig.send(Header::new(op::RST, PORT, 80).with(b""));
    rig.quiet();
}

#[test]
fn a_process_that_takes_no_more_ends_one_connection_only() {
    let mut rig = Rig::new();
    let (_, stream) = rig.connect(80);
    stream.shutdown(Shutdown::Read).unwrap();
    for _ in 0..3 {
        rig.send(Header::new(op::RW, PORT, 80).with(b"x"));
    }
    assert_eq!(rig.expect(op::SHUTDOWN).flags, RECEIVE);
    (&stream).write_all(b"still here").unwrap();
    assert_eq!(rig.receive().1, b"still here");
}

/// Listens for messages at `port`.
fn listen_for_messages(rig: &Rig, port: u32) -> OwnedFd {
    let listener = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    net::bind(&listener, &SocketAddrUnix::new(rig.path(port)).unwrap()).unwrap();
    net::listen(&listener, 4).unwrap();
    listener
}

#[test]
fn messages_keep_their_bounds_in_both_directions() {
    let mut rig = Rig::new();
    let listener = listen_for_messages(&rig, 80);
    let messages = |op, flags| Header {
        kind: kind::SEQPACKET,
        flags,
        ..Header::new(op, PORT, 80)
    };
    rig.send(messages(op::REQUEST, 0).with(b""));
    let socket = net::accept(&listener).unwrap();
    assert_eq!(rig.expect(op::RESPONSE).kind, kind::SEQPACKET);
    for (flags, part) in [(1, "one"), (0, "t"), (0, "w"), (3, "o"), (1, "three")] {
        rig.send(messages(op::RW, flags).with(part.as_bytes()));
    }
    for expected in ["one", "two", "three"] {
        let mut got = [0; 16];
        let (len, _) = net::recv(&socket, &mut got[..], RecvFlags::empty()).unwrap();
        assert_eq!(&got[..len], expected.as_bytes());
    }
    // One that takes two packets, and one that takes one.
    for len in [PAYLOAD + 1, 5] {
        net::send(&socket, &vec![7; len], SendFlags::empty()).unwrap();
    }
    for (len, eom) in [(PAYLOAD, 0), (1, 1), (5, 1)] {
        let (header, payload) = rig.receive();
        assert_eq!((header.op, payload.len(), header.flags & 1), (op::RW, len, eom));
    }
}

#[test]
fn a_message_that_the_guest_has_no_room_for_ends_the_connection() {
    let mut rig = Rig::new();
    let listener = listen_for_messages(&rig, 80);
    let request = Header {
        kind: kind::SEQPACKET,
        buf_alloc: 1000,
        ..Header::new(op::REQUEST, PORT, 80)
    };
    rig.send(request.with(b""));
    let socket = net::accept(&listener).unwrap();
    rig.expect(op::RESPONSE);
    net::send(&socket, &[0; 1001], SendFlags::empty()).unwrap();
    rig.expect(op::RST);
    let mut got = [0; 1];
    let gone = net::recv(&socket, &mut got[..], RecvFlags::empty());
    assert!(
        gone.is_ok_and(|(len, _)| len == 0) || gone.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
    );
}
