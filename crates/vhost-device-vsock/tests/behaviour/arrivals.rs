// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes of the host that want to speak to the guest.

use std::fs;
use std::io::{Read, Write};

use vu_testkit::devices::vsock::{Header, op, vsock};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options};
use vu_testkit::spawn::{Daemon, Launch, TempDir};

use crate::support::{DEADLINE, PORT, PROGRAM, Rig, line, wait_until};

#[test]
fn bytes_behind_the_first_line_are_the_beginning_of_the_stream() {
    let mut rig = Rig::new();
    let mut process = rig.process();
    process
        .write_all(format!("CONNECT {PORT}\nand more").as_bytes())
        .unwrap();
    let request = rig.expect(op::REQUEST);
    rig.send(Header::new(op::RESPONSE, PORT, request.src_port).with(b""));
    assert_eq!(line(&process), format!("OK {}\n", request.src_port));
    assert_eq!(rig.receive().1, b"and more");
}

#[test]
fn a_line_may_come_byte_by_byte() {
    let mut rig = Rig::new();
    let mut process = rig.process();
    for byte in format!("CONNECT {PORT}").bytes() {
        process.write_all(&[byte]).unwrap();
        rig.quiet();
    }
    process.write_all(b"\n").unwrap();
    rig.expect(op::REQUEST);
}

#[test]
fn a_guest_that_refuses_closes_the_socket() {
    let mut rig = Rig::new();
    let mut process = rig.process();
    process.write_all(b"CONNECT 7\n").unwrap();
    let request = rig.expect(op::REQUEST);
    rig.send(Header::new(op::RST, 7, request.src_port).with(b""));
    assert_eq!(process.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn nonsense_closes_the_socket_and_nothing_else() {
    let mut rig = Rig::new();
    let (_, mut other) = rig.called();
    for said in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT 99999999999\n",
        &[b'x'; 4096],
    ] {
        let mut process = rig.process();
        process.write_all(said).unwrap();
        // What it said may be unread when the socket is closed, which is an error here.
        assert_eq!(process.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    other.write_all(b"still here").unwrap();
    assert_eq!(rig.receive().1, b"still here");
}

#[test]
fn a_process_that_goes_before_the_guest_accepts_does_no_harm() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        let mut process = rig.process();
        process.write_all(format!("CONNECT {PORT}\n").as_bytes()).unwrap();
        let request = rig.expect(op::REQUEST);
        drop(process);
        rig.send(Header::new(op::RESPONSE, PORT, request.src_port).with(b""));
        // One direction may end before the other.
        let mut ends = 0;
        while ends != 3 {
            let ended = rig.receive().0;
            assert!([op::SHUTDOWN, op::RST].contains(&ended.op), "{ended:?}");
            ends |= if ended.op == op::RST { 3 } else { ended.flags };
        }
        rig.send(Header::new(op::RST, PORT, request.src_port).with(b""));
    }
    let (_, _stream) = rig.called();
}

#[test]
fn two_processes_are_two_connections_to_one_port() {
    let mut rig = Rig::new();
    let (first, mut a) = rig.called();
    let (second, mut b) = rig.called();
    assert_ne!(first, second);
    rig.send(Header::new(op::RW, PORT, second).with(b"b"));
    rig.send(Header::new(op::RW, PORT, first).with(b"a"));
    for (stream, expected) in [(&mut a, b'a'), (&mut b, b'b')] {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [expected]);
    }
}

#[test]
fn what_is_not_a_stale_socket_is_not_removed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("v");
    fs::write(&path, "precious").unwrap();
    let launch = Launch::ours(PROGRAM, &["--uds-path", path.to_str().unwrap()]);
    let output = launch.command(&dir.path().join("s0")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(path.to_str().unwrap()),
        "{said}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn the_sockets_go_with_the_daemon() {
    let rig = Rig::new();
    let paths = ["v", "v_seqpacket"].map(|name| rig.dir.path().join(name));
    assert!(paths.iter().all(|path| path.exists()));
    let Rig {
        mut daemon,
        dir: _dir,
        ..
    } = rig;
    daemon.process().terminate();
    wait_until("no socket", || paths.iter().all(|path| !path.exists()));
}

#[test]
fn a_guest_may_bring_its_socket() {
    let line = format!("{PROGRAM} --vm guest-cid=3,socket={{socket}},uds-path={{unique}}");
    let daemon = Daemon::spawn(&Launch::parse(&line).unwrap()).unwrap();
    let front = FrontEnd::connect(&daemon.socket(), DEADLINE).unwrap();
    Guest::boot(front, &vsock(), &Options::default()).unwrap();
}
