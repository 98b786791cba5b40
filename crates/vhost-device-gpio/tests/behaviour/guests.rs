// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests that come and go, and several at a time.

use std::process::Command;

use vu_testkit::devices::gpio::{direction, gpio, irq, kind, status};
use vu_testkit::process::open_fds;
use vu_testkit::spawn::{Daemon, Launch, Process, TempDir};

use crate::support::{DEADLINE, PAIR, PROGRAM, Rig, ask, guest, guest_of, threads, wait_until};

#[test]
fn lines_are_free_again_after_a_disconnect() {
    let mut rig = Rig::new(PAIR);
    let mut control = rig.control();
    rig.value(0);
    control.tell("set 2 0");
    let before = (threads(&rig.daemon), open_fds(rig.daemon.pid()).unwrap());
    for _ in 0..10 {
        rig.tell(kind::SET_VALUE, 0, 1);
        rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
        rig.arm(3, irq::EDGE_BOTH);
        rig.unmask(3);
        rig.leave();
        wait_until("the release of the lines", || {
            control.lines().iter().all(|line| line.ends_with(" - unused 0"))
        });
        rig.next_guest();
    }
    rig.value(0);
    wait_until("the end of the former connections", || {
        (threads(&rig.daemon), open_fds(rig.daemon.pid()).unwrap()) == before
    });
}

#[test]
fn lines_that_are_kept_stay_as_they_are_until_the_guest_is_back() {
    let mut rig = Rig::with(PAIR, &["--on-disconnect", "keep"]);
    let mut control = rig.control();
    rig.tell(kind::SET_VALUE, 0, 1);
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.arm(3, irq::EDGE_RISING);
    for _ in 0..3 {
        rig.next_guest();
        assert_eq!(control.ask("get 0"), "1");
        assert_eq!(
            rig.ask(kind::GET_DIRECTION, 0, 0),
            (status::OK, direction::OUT as u8)
        );
        rig.leave();
        // An edge while nobody is there.
        control.tell("set 3 0");
        control.tell("set 3 1");
        rig.next_guest();
        let pending = rig.unmask(3);
        rig.interrupted(&pending);
    }
}

#[test]
fn a_reset_releases_lines_that_are_kept_otherwise() {
    let mut rig = Rig::with(PAIR, &["--on-disconnect", "keep"]);
    rig.tell(kind::SET_VALUE, 0, 1);
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.guest.front.reset_device().unwrap();
    assert_eq!(rig.control().lines()[0], "0 - unused 0");
}

#[test]
fn each_socket_has_a_chip_of_its_own() {
    let args = ["--chip=sim:2", "--socket-path={stem}1", "--chip=sim:3"];
    let daemon = Daemon::spawn(&Launch::ours(PROGRAM, &args)).unwrap();
    let mut first = guest(&daemon.socket());
    let mut second = guest(&daemon.dir().join("s1"));
    assert_eq!(first.front.get_config(0, 2).unwrap(), [2, 0]);
    assert_eq!(second.front.get_config(0, 2).unwrap(), [3, 0]);
    for (guest, line, level) in [(&mut first, 0, 1), (&mut second, 0, 0)] {
        assert_eq!(ask(guest.lane(), kind::SET_VALUE, line, level), (status::OK, 0));
        assert_eq!(
            ask(guest.lane(), kind::SET_DIRECTION, line, direction::OUT),
            (status::OK, 0)
        );
    }
    assert_eq!(ask(first.lane(), kind::GET_VALUE, 0, 0), (status::OK, 1));
    drop(second);
    assert_eq!(ask(first.lane(), kind::GET_VALUE, 0, 0), (status::OK, 1));
}

#[test]
fn a_second_guest_at_one_socket_waits_until_the_first_has_left() {
    let mut rig = Rig::new(PAIR);
    rig.tell(kind::SET_VALUE, 0, 1);
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    let socket = rig.daemon.socket();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| guest_of(&socket, &gpio()));
        assert_eq!(rig.value(0), 1);
        rig.leave();
        let mut second = second.join().unwrap();
        assert_eq!(ask(second.lane(), kind::GET_VALUE, 0, 0), (status::OK, 0));
    });
}

#[test]
fn what_cannot_be_served_ends_the_daemon_before_it_listens() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s0");
    for (args, message) in [
        (
            &["--chip=sim:1", "--chip=sim:1"][..],
            "error: 2 --chip for 1 socket(s): each needs one of the other",
        ),
        (
            &["--chip=/nonexistent/gpiochip9"],
            "error: /nonexistent/gpiochip9: no such device (",
        ),
        (
            &["--chip=no such label:0-3"],
            "error: no such label: no such device (",
        ),
        (
            &["--chip=/dev/null"],
            "error: /dev/null: is not a GPIO character device",
        ),
        (&["--chip=sim:0"], "error: a simulated chip has 1 to 1024 lines"),
        (
            &["--chip=sim:/nonexistent"],
            "error: /nonexistent: No such file or directory",
        ),
    ] {
        let mut command = Command::new(PROGRAM);
        command.arg("--socket-path").arg(&socket).args(args);
        let mut process = Process::start(&mut command).unwrap();
        assert_eq!(process.wait(DEADLINE).unwrap().code(), Some(1));
        let log = process.log.tail().join("\n");
        assert!(log.starts_with(message), "{log}");
        assert!(!socket.exists());
    }
}
