// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What neither side can exceed.

use std::io::Write;
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use vu_testkit::devices::vsock::{Header, RX, TX, op, vsock};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options};
use vu_testkit::process::{cpu_ticks, open_fds};
use vu_testkit::spawn::{Daemon, Launch, TempDir};

use crate::support::{DEADLINE, PORT, PROGRAM, Rig};

fn fds(rig: &Rig) -> usize {
    open_fds(rig.daemon.pid()).unwrap()
}

#[test]
fn connections_are_bounded_and_may_be_used_anew() {
    let mut rig = Rig::with(&["--connections", "2"]);
    let _listener = rig.listen(80);
    for port in 0..2 {
        rig.send(Header::new(op::REQUEST, port, 80).with(b""));
        rig.expect(op::RESPONSE);
    }
    rig.send(Header::new(op::REQUEST, 2, 80).with(b""));
    assert_eq!(rig.expect(op::RST).dst_port, 2);
    rig.send(Header::new(op::RST, 0, 80).with(b""));
    rig.send(Header::new(op::REQUEST, 2, 80).with(b""));
    rig.expect(op::RESPONSE);
}

#[test]
fn memory_is_shared_out_and_then_refused() {
    let mut rig = Rig::with(&["--buffer-size", "65536", "--memory", "262144"]);
    let _listener = rig.listen(80);
    let mut rooms = Vec::new();
    for port in 0.. {
        rig.send(Header::new(op::REQUEST, port, 80).with(b""));
        let answer = rig.receive().0;
        if answer.op == op::RST {
            break;
        }
        rooms.push(answer.buf_alloc);
    }
    assert!(
        rooms.len() > 16 && rooms.iter().sum::<u32>() <= 262_144,
        "{rooms:?}"
    );
}

#[test]
fn packets_are_taken_while_the_guest_has_no_buffer_for_answers() {
    let mut rig = Rig::bare(&[], &vsock());
    for port in 0..200 {
        rig.send(Header::new(op::RW, port, 80).with(b"x"));
    }
    rig.post(16);
    for port in 0..200 {
        assert_eq!(rig.expect(op::RST).dst_port, port, "in order");
    }
}

#[test]
fn a_guest_that_never_takes_answers_is_not_served_for_ever() {
    let mut rig = Rig::bare(&[], &vsock());
    let mut pushed = 0;
    while rig.guest.lanes[usize::from(TX)].queue.free() > 0 && pushed < 2000 {
        rig.push(Header::new(op::RW, pushed, 80).with(b""));
        pushed += 1;
        while rig.guest.lanes[usize::from(TX)].queue.pop().unwrap().is_some() {}
        if pushed > 300 {
            // Time for the device to take more than it should.
            std::thread::yield_now();
        }
    }
    assert!(pushed < 2000, "{pushed} answers are waiting");
    rig.post(32);
    for port in 0..pushed {
        assert_eq!(rig.expect(op::RST).dst_port, port);
    }
}

#[test]
fn a_connection_that_is_never_served_does_not_hold_up_others() {
    let mut rig = Rig::new();
    let (_, mut starved) = rig.connect(80);
    rig.send(
        Header {
            buf_alloc: 0,
            ..Header::new(op::CREDIT_UPDATE, PORT, 80)
        }
        .with(b""),
    );
    starved.write_all(b"no room for this").unwrap();
    rig.expect(op::CREDIT_REQUEST);
    let (_, mut served) = rig.called();
    served.write_all(b"hello").unwrap();
    let (header, payload) = rig.receive();
    assert_eq!((header.op, &payload[..]), (op::RW, &b"hello"[..]));
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let mut rig = Rig::bare(&[], &vsock());
    let listener = rig.listen(80);
    listener.set_nonblocking(true).unwrap();
    let before = fds(&rig);
    for _ in 0..500 {
        rig.send(Header::new(op::REQUEST, PORT, 80).with(b""));
        rig.send(Header::new(op::RST, PORT, 80).with(b""));
        while listener.accept().is_ok() {}
    }
    assert!(
        fds(&rig) <= before,
        "{before} descriptors before, {} now",
        fds(&rig)
    );
    rig.post(4);
    rig.quiet();
    assert_eq!(rig.guest.lanes[usize::from(RX)].queue.pop().unwrap(), None);
}

#[test]
fn a_full_backlog_is_a_reset_and_no_more() {
    let mut rig = Rig::new();
    let listener = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    net::bind(&listener, &SocketAddrUnix::new(rig.path(80)).unwrap()).unwrap();
    net::listen(&listener, 1).unwrap();
    let mut answers = Vec::new();
    for port in 0..8 {
        rig.send(Header::new(op::REQUEST, port, 80).with(b""));
        answers.push(rig.receive().0.op);
    }
    let accepted = answers.iter().filter(|answer| **answer == op::RESPONSE).count();
    assert!(accepted > 0 && accepted < 8, "{answers:?}");
    assert!(
        answers[accepted..].iter().all(|answer| *answer == op::RST),
        "{answers:?}"
    );
    let _first = net::accept(&listener).unwrap();
    rig.send(Header::new(op::REQUEST, 8, 80).with(b""));
    rig.expect(op::RESPONSE);
}

#[test]
fn no_more_descriptors_is_a_reset_and_an_idle_daemon() {
    let mut rig = Rig::new();
    let listener = rig.listen(80);
    let (_, mut stream) = rig.connect(81);
    let pid = Pid::from_raw(rig.daemon.pid().cast_signed());
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(3),
        ..before
    };
    prlimit(pid, Resource::Nofile, none).unwrap();
    rig.send(Header::new(op::REQUEST, PORT, 80).with(b""));
    rig.expect(op::RST);
    // Nobody can be accepted; the one who waits must not keep the daemon busy.
    let mut waits = rig.process();
    waits.write_all(format!("CONNECT {PORT}\n").as_bytes()).unwrap();
    stream.write_all(b"still here").unwrap();
    assert_eq!(rig.receive().1, b"still here");
    let busy = cpu_ticks(rig.daemon.pid()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let busy = cpu_ticks(rig.daemon.pid()).unwrap() - busy;
    assert!(busy < 10, "{busy} ticks of CPU time in half a second");
    prlimit(pid, Resource::Nofile, before).unwrap();
    assert_eq!(rig.expect(op::REQUEST).dst_port, PORT);
    drop(listener);
}

#[test]
fn a_larger_virtqueue_than_allowed_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("v");
    let args = ["--queue-size", "64", "--uds-path", path.to_str().unwrap()];
    let daemon = Daemon::spawn(&Launch::ours(PROGRAM, &args)).unwrap();
    for (size, allowed) in [(128, false), (64, true)] {
        let front = FrontEnd::connect(&daemon.socket(), DEADLINE).unwrap();
        let options = Options {
            size,
            ..Options::default()
        };
        assert_eq!(Guest::boot(front, &vsock(), &options).is_ok(), allowed, "{size}");
    }
}
