// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Those who use a simulated device: over its socket, standard input, and from a script.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use serde_json::json;
use vu_testkit::control;
use vu_testkit::spawn::{Daemon, Launch, TempDir};

use crate::support::{Client, DEADLINE, PROGRAM, REPORT, Reader, connect, daemon, options};

#[test]
fn a_client_that_sleeps_or_waits_holds_up_no_other() {
    let daemon = daemon("keyboard");
    let (mut waits, mut sleeps, mut other) = (Client::of(&daemon), Client::of(&daemon), Client::of(&daemon));
    waits.send("wait\nkey A\n");
    sleeps.send("sleep 3600s\nkey B\n");
    other.act("key C");
    let mut reader = Reader::of(&daemon);
    assert_eq!([waits.line(), waits.line()], ["ok", "ok"]);
    assert_eq!(reader.events(2), [(1, 30, 1), REPORT]);
}

#[test]
fn a_sleep_is_answered_when_it_is_over() {
    let daemon = daemon("keyboard");
    let mut client = Client::of(&daemon);
    let begun = std::time::Instant::now();
    client.act("sleep 50ms");
    assert!(begun.elapsed().as_millis() >= 50);
}

#[test]
fn a_client_that_reads_no_answers_holds_up_no_other() {
    let daemon = daemon("keyboard");
    let mut slow = Client::of(&daemon);
    slow.send(&"leds\n".repeat(20_000));
    let mut other = Client::of(&daemon);
    other.act("key C");
    (0..20_000).for_each(|_| assert_eq!(slow.line(), "ok"));
}

#[test]
fn a_line_that_never_ends_is_not_kept() {
    let daemon = daemon("keyboard");
    let mut client = Client::of(&daemon);
    // The connection may end before all is written.
    let stream = UnixStream::connect(daemon.dir().join("sc")).unwrap();
    let _ = (&stream).write_all(&[b'x'; 100_000]);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let end = std::io::Read::read(&mut (&stream), &mut [0; 16]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    client.act("key A");
}

#[test]
fn what_is_not_understood_is_answered_with_the_reason() {
    let daemon = daemon("mouse");
    let mut client = Client::of(&daemon);
    assert_eq!(client.ask("key A"), "error: this device has no code 30 of type 1");
    assert_eq!(client.ask("move 1"), client.ask("?"));
    client.send("\n# nothing\nmove 1 1\n");
    assert_eq!(client.line(), "ok");
}

#[test]
fn json_lines_make_a_frame() {
    let daemon = daemon("keyboard");
    let (mut reader, mut client) = (Reader::of(&daemon), Client::of(&daemon));
    client.act("wait");
    client.act(r#"{"type":1,"code":30,"value":1}"#);
    client.act(r#"{"type":1,"code":31,"value":1}"#);
    client.act(r#"{"type":0,"code":0,"value":0}"#);
    assert_eq!(reader.frame(), [(1, 30, 1), (1, 31, 1)]);
}

#[test]
fn a_script_plays_when_the_guest_is_there() {
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "# types\nwait\nnonsense\ntype hi\nsleep 10ms\nkey ENTER").unwrap();
    let sim = format!("keyboard:{}", script.display());
    let daemon = Daemon::spawn(&Launch::ours(PROGRAM, &["--sim", &sim])).unwrap();
    let mut reader = Reader::of(&daemon);
    let keys: Vec<_> = (0..6).map(|_| reader.frame()[0]).collect();
    assert_eq!(
        keys,
        [
            (1, 35, 1),
            (1, 35, 0),
            (1, 23, 1),
            (1, 23, 0),
            (1, 28, 1),
            (1, 28, 0)
        ]
    );
    let log = daemon.log().tail().join("\n");
    assert!(log.contains("script: nonsense: error: commands are: "), "{log}");
}

#[test]
fn standard_input_takes_commands() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s0");
    let mut command = Command::new(PROGRAM);
    command
        .arg("--socket-path")
        .arg(&socket)
        .args(["--sim=keyboard", "--sim-socket=-"]);
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = pipes.spawn().unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = BufReader::new(output);
    let mut line = String::new();
    writeln!(input, "leds").unwrap();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ok\n");
    writeln!(input, "wait\nkey A").unwrap();
    let end = std::time::Instant::now() + DEADLINE;
    while !socket.exists() {
        assert!(std::time::Instant::now() < end, "the daemon does not listen");
        std::thread::yield_now();
    }
    let mut reader = Reader::boot(connect(&socket), &options(4));
    reader.fill();
    assert_eq!(reader.events(2), [(1, 30, 1), REPORT]);
    drop(input);
    // It goes on without commands.
    assert_eq!(reader.events(2), [(1, 30, 0), REPORT]);
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_device_is_used_at_the_control_socket() {
    let args = [&["--sim", "keyboard"], &control::OPTION[..]].concat();
    let daemon = Daemon::spawn(&Launch::ours(PROGRAM, &args)).unwrap();
    let inject = |line: &str| json!({"command": "inject", "do": line});
    let mut reader = Reader::of(&daemon);
    assert_eq!(control::result(&daemon, &inject("down A")).unwrap(), json!([]));
    assert_eq!(reader.events(2), [(1, 30, 1), REPORT]);
    for (line, error) in [
        ("down Ä", "Ä"),
        ("sleep 1s", "only a script or a socket of the device can wait"),
        ("", "no command"),
    ] {
        let told = control::error(&daemon, &inject(line)).unwrap();
        assert!(told.contains(error), "{line}: {told}");
    }
}
