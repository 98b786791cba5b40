// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon as a whole: its buses and guests, and how it refuses to start.

use std::process::Command;

use vu_testkit::devices::i2c::flag::FAIL_NEXT;
use vu_testkit::devices::i2c::{read, write};
use vu_testkit::spawn::{Process, TempDir};

use crate::support::{DEADLINE, ERR, OK, PROGRAM, ask, daemon, guest, statuses};

/// What the daemon says that does not start with these arguments.
fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s0");
    let mut command = Command::new(PROGRAM);
    command.arg("--socket-path").arg(&socket).args(args);
    let mut process = Process::start(&mut command).unwrap();
    let code = process.wait(DEADLINE).unwrap().code();
    assert!(!socket.exists());
    (code, process.log.tail().join("\n"))
}

#[test]
fn each_guest_has_its_bus_and_its_list() {
    let daemon = daemon(&[
        "--socket-path",
        "{stem}1",
        "--bus",
        "sim:regs@0x20,regs@0x21:0x20",
        "--bus",
        "sim:regs@0x20,regs@0x21:0x21",
    ]);
    let mut first = guest(&daemon.socket());
    let mut second = guest(&daemon.dir().join("s1"));
    let requests = [write(0x20, 0, &[5, 7]), write(0x21, 0, &[5, 8])];
    assert_eq!(statuses(first.lane(), &requests), [OK, ERR]);
    assert_eq!(statuses(second.lane(), &requests), [ERR, OK]);
    let read = |address| [write(address, FAIL_NEXT, &[5]), read(address, 0, 1)];
    assert_eq!(ask(first.lane(), &read(0x20))[1], (OK, vec![7]));
    assert_eq!(ask(second.lane(), &read(0x21))[1], (OK, vec![8]));
}

#[test]
fn a_bus_keeps_what_it_was_told_from_one_connection_to_the_next() {
    let daemon = daemon(&["--bus", "sim:regs@0x20"]);
    assert_eq!(
        statuses(guest(&daemon.socket()).lane(), &[write(0x20, 0, &[5, 7])]),
        [OK]
    );
    let answers = ask(
        guest(&daemon.socket()).lane(),
        &[write(0x20, FAIL_NEXT, &[5]), read(0x20, 0, 1)],
    );
    assert_eq!(answers[1], (OK, vec![7]));
}

#[test]
fn a_wrong_command_line_is_refused_with_the_reason() {
    for (args, code, message) in [
        (&["--bus", "i2c-4711"][..], 1, "i2c-4711: no such adapter"),
        (&["--bus", "no such name"], 1, "no such name: no such adapter"),
        (&["--bus", "i2c-1:0x80"], 2, "\"0x80\" is not an address"),
        (
            &["--bus", "sim:regs@0x20", "--bus", "sim:regs@0x21"],
            1,
            "2 device(s) for 1 socket(s)",
        ),
        (&["--bus", "sim:nothing@0x20"], 1, "no such device: \"nothing\""),
        (&[], 2, "--bus <BUS>"),
        (
            &["--bus", "sim:regs@0x20", "--timeout", "0"],
            2,
            "0 is not in 1..=20000",
        ),
    ] {
        let (exit, log) = refusal(args);
        assert_eq!(exit, Some(code), "{args:?}: {log}");
        assert!(log.contains(message), "{args:?}: {log}");
    }
}
