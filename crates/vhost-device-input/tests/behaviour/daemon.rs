// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon as a whole: its devices and guests, and how it refuses to start.

use std::process::Command;

use vu_testkit::spawn::{Daemon, Launch, Process, TempDir};

use crate::support::{Client, DEADLINE, PROGRAM, REPORT, Reader, connect, options};

#[test]
fn each_guest_has_its_device() {
    let args = [
        "--socket-path",
        "{stem}1",
        "--sim=keyboard",
        "--sim=mouse",
        "--sim-socket={stem}a",
        "--sim-socket={stem}b",
    ];
    let daemon = Daemon::spawn(&Launch::ours(PROGRAM, &args)).unwrap();
    let mut keyboard = Reader::boot(connect(&daemon.socket()), &options(4));
    let mut mouse = Reader::boot(connect(&daemon.dir().join("s1")), &options(4));
    let client = |name| {
        let mut client = Client::at(&daemon.dir().join(name));
        client.act("wait");
        client
    };
    let (mut first, mut second) = (client("sa"), client("sb"));
    first.act("down A");
    second.act("move 3 4");
    keyboard.fill();
    mouse.fill();
    assert_eq!(keyboard.events(2), [(1, 30, 1), REPORT]);
    assert_eq!(mouse.events(3), [(2, 0, 3), (2, 1, 4), REPORT]);
}

#[test]
fn a_device_goes_from_one_connection_to_the_next() {
    let daemon = crate::support::daemon("keyboard");
    let mut client = Client::of(&daemon);
    client.act("watch");
    for _ in 0..3 {
        let mut reader = Reader::of(&daemon);
        assert_eq!(client.line(), "guest 1");
        client.act("key A");
        assert_eq!(reader.events(4), [(1, 30, 1), REPORT, (1, 30, 0), REPORT]);
        drop(reader);
        assert_eq!(client.line(), "guest 0");
        client.act("key B");
    }
}

#[test]
fn capabilities_are_those_of_the_convention() {
    let output = Command::new(PROGRAM)
        .arg("--print-capabilities")
        .output()
        .unwrap();
    let json = "{\"type\":\"input\",\"features\":[\"evdev-path\", \"no-grab\"]}\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), json);
    // What is announced can be used: the device is looked for.
    let (code, log) = refusal(&["--no-grab", "--evdev-path", "/nowhere/event0"]);
    assert_eq!(code, Some(1));
    assert!(log.contains("/nowhere/event0: no such device"), "{log}");
}

/// What the daemon says that does not start with these arguments.
pub(crate) fn refusal(args: &[&str]) -> (Option<i32>, String) {
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
fn a_wrong_command_line_is_refused_with_the_reason() {
    for (args, code, message) in [
        (&[][..], 1, "0 device(s) (--evdev-path, --sim) for 1 socket(s)"),
        (&["--sim=piano"], 2, "piano"),
        (
            &["--sim=mouse:/nowhere/script"],
            1,
            "/nowhere/script: No such file",
        ),
        (
            &["--evdev-path=/nowhere/event0"],
            1,
            "/nowhere/event0: no such device (devices here:",
        ),
        (
            &["--evdev-path=name=no such device"],
            1,
            "name=no such device: no such device",
        ),
        (&["--evdev-path=/dev/null"], 1, "/dev/null: "),
        (
            &["--sim=mouse", "--no-grab", "--grab-hotkey=a"],
            2,
            "cannot be used with",
        ),
    ] {
        let (exit, log) = refusal(args);
        assert_eq!(exit, Some(code), "{args:?}: {log}");
        assert!(log.contains(message), "{args:?}: {log}");
    }
}
