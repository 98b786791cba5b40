// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated board: what is wired to what, and who sends commands.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use vu_testkit::chains::{Framing, Placement};
use vu_testkit::control;
use vu_testkit::devices::gpio::{direction, irq, kind, message, status};
use vu_testkit::process::open_fds;
use vu_testkit::spawn::{Process, TempDir, wait_listening};

use crate::support::{DEADLINE, PAIR, PROGRAM, Rig, ask, guest, threads, wait_for_log, wait_until};

#[test]
fn a_button_presses_itself_and_its_led_is_logged() {
    let board = r#"
        [line.0]
        name = "button"
        press-every-ms = 20
        [line.1]
        name = "led"
        log = true
        [line.2]
        follows = "led"
        initial = 1
        [line.3]
        initial = 1
    "#;
    let mut rig = Rig::new(board);
    assert_eq!((rig.value(2), rig.value(3)), (0, 1));
    rig.arm(0, irq::EDGE_RISING);
    for _ in 0..3 {
        let pending = rig.unmask(0);
        rig.interrupted(&pending);
    }
    rig.tell(kind::SET_DIRECTION, 1, direction::OUT);
    rig.tell(kind::SET_VALUE, 1, 1);
    assert_eq!(rig.value(2), 1);
    wait_for_log(&rig.daemon, "line 1 \"led\" is high");
}

#[test]
fn changes_are_told_to_everybody_who_watches() {
    let mut rig = Rig::new(PAIR);
    let mut watchers = [rig.control(), rig.control()];
    for watcher in &mut watchers {
        watcher.tell("watch");
    }
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    for round in 0..100 {
        rig.tell(kind::SET_VALUE, 0, 1 - round % 2);
        rig.tell(kind::SET_VALUE, 0, 1 - round % 2);
    }
    for watcher in &mut watchers {
        for round in 0..100 {
            for line in 0..2 {
                assert_eq!(watcher.line(), format!("{line} {}", 1 - round % 2));
            }
        }
        assert_eq!(watcher.ask("get 1"), "0", "it may send commands still");
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_loses_no_answer() {
    let mut rig = Rig::new("lines = 100");
    let mut slow = UnixStream::connect(rig.control_path()).unwrap();
    slow.set_nonblocking(true).unwrap();
    let mut quick = rig.control();
    // Until the daemon takes no more of its commands.
    let mut sent = 0;
    while slow.write(b"lines\n").is_ok_and(|count| count == 6) {
        sent += 1;
        quick.tell("toggle 3");
        rig.value(3);
    }
    quick.tell("set 3 1");
    assert_eq!(rig.value(3), 1);
    slow.set_nonblocking(false).unwrap();
    slow.set_read_timeout(Some(DEADLINE)).unwrap();
    slow.shutdown(std::net::Shutdown::Write).unwrap();
    let lines = BufReader::new(slow).lines().map_while(Result::ok);
    assert_eq!(lines.filter(|line| line == "ok").count(), sent);
}

#[test]
fn a_watcher_that_does_not_read_is_let_go() {
    let mut rig = Rig::new("lines = 100");
    let mut slow = rig.control();
    slow.tell("watch");
    let mut quick = rig.control();
    // Both connections are with the daemon.
    quick.tell("set 3 0");
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    let pid = rig.daemon.pid();
    let before = open_fds(pid).unwrap();
    wait_until("the end of the connection", || {
        let lane = rig.guest.lane();
        for level in (0..2).cycle().take(32) {
            lane.place(
                message(kind::SET_VALUE, 0, level),
                Framing::Whole,
                Placement::Direct,
            );
        }
        lane.queue.submit();
        lane.queue.wait_all(lane.end()).unwrap();
        open_fds(pid).unwrap() < before
    });
    quick.tell("set 3 1");
    assert_eq!(rig.value(3), 1);
}

#[test]
fn a_command_without_an_end_ends_its_connection_only() {
    let mut rig = Rig::new(PAIR);
    let mut endless = UnixStream::connect(rig.control_path()).unwrap();
    while endless.write_all(&[b'x'; 4096]).is_ok() {}
    let mut control = rig.control();
    assert_eq!(control.ask("get 9"), "error: no line 9");
    control.send("\u{0}\u{fffd} set");
    assert!(control.line().starts_with("error: commands are: "));
    control.tell("set 3 1");
    assert_eq!(rig.value(3), 1);
}

#[test]
fn who_says_no_more_is_answered_still() {
    let rig = Rig::new("lines = 1000");
    let mut stream = UnixStream::connect(rig.control_path()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"set 7 1\nlines\nget 7\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with("ok\n0 - unused 0\n") && text.ends_with("\nok\n1\n"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1003);
}

#[test]
fn many_clients_come_and_go_on_one_thread() {
    let rig = Rig::new(PAIR);
    let before = threads(&rig.daemon);
    for _ in 0..5 {
        let mut clients: Vec<_> = (0..40).map(|_| rig.control()).collect();
        // The first are served; the others wait until they have left.
        for mut client in clients.drain(..) {
            client.tell("toggle 3");
        }
        assert_eq!(threads(&rig.daemon), before);
    }
    assert_eq!(rig.control().ask("get 3"), "0");
}

#[test]
fn the_control_socket_is_private_replaces_a_dead_one_and_goes_with_the_daemon() {
    let mut rig = Rig::new(PAIR);
    let path = rig.control_path();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut second = Command::new(PROGRAM);
    second
        .args(["--chip=sim:1", "--socket-path=/nonexistent/s", "--sim-socket"])
        .arg(&path);
    let mut second = Process::start(&mut second).unwrap();
    assert_eq!(second.wait(DEADLINE).unwrap().code(), Some(1));
    let log = second.log.tail().join("\n");
    assert!(log.ends_with("control: another process listens there"), "{log}");

    rig.daemon.restart().unwrap();
    rig.next_guest();
    rig.control().tell("set 3 1");
    assert_eq!(rig.value(3), 1);
    rig.daemon.process().terminate();
    rig.daemon.process().wait(DEADLINE).unwrap();
    assert!(!path.exists());
}

#[test]
fn commands_come_from_standard_input() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s0");
    let (input, mut commands) = io::pipe().unwrap();
    let (answers, output) = io::pipe().unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .arg("--socket-path")
        .arg(&socket)
        .args(["--chip=sim:4", "--sim-socket=-"])
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output));
    let mut process = Process::start(&mut command).unwrap();
    drop(command);
    wait_listening(&mut process, &socket).unwrap();
    let mut guest = guest(&socket);
    let mut answers = BufReader::new(answers);
    let mut answer = || {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    };
    commands.write_all(b"set 3 1\nget 3\nwatch\n").unwrap();
    assert_eq!([answer(), answer(), answer()], ["ok\n", "1\n", "ok\n"]);
    assert_eq!(ask(guest.lane(), kind::GET_VALUE, 3, 0), (status::OK, 1));
    // Its end ends nothing else.
    drop(commands);
    assert_eq!(ask(guest.lane(), kind::SET_VALUE, 0, 1), (status::OK, 0));
    assert_eq!(
        ask(guest.lane(), kind::SET_DIRECTION, 0, direction::OUT),
        (status::OK, 0)
    );
    assert_eq!(answer(), "0 1\n");
}

#[test]
fn lines_are_seen_and_set_at_the_control_socket() {
    let mut rig = Rig::with("lines = 2\n[line.0]\nname = \"button\"\n", &control::OPTION);
    rig.tell(kind::SET_DIRECTION, 0, direction::IN);
    for (line, value) in [
        (json!("button"), json!(1)),
        (json!(0), json!(false)),
        (json!(0), json!(true)),
    ] {
        let request = json!({"command": "set-line", "line": line, "value": value});
        assert_eq!(control::result(&rig.daemon, &request).unwrap(), Value::Null);
        assert_eq!(rig.value(0), u8::from(value == true || value == 1));
    }
    assert_eq!(
        control::result(&rig.daemon, &json!({"command": "lines"})).unwrap(),
        json!([
            {"line": 0, "name": "button", "direction": "in", "value": 1},
            {"line": 1, "name": "", "direction": "unused", "value": 0},
        ])
    );
    let nowhere = json!({"command": "set-line", "line": 2, "value": 1});
    assert_eq!(control::error(&rig.daemon, &nowhere).unwrap(), "no line 2");
}
