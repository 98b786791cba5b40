// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control socket that every daemon has.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use vu_testkit::devices::rng;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options};
use vu_testkit::spawn::{Daemon, Launch, TempDir};

/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);

struct Rig {
    daemon: Daemon,
    folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = control(folder.path());
        let args = ["--control-socket", socket.to_str().unwrap()];
        let daemon = Daemon::spawn(&Launch::ours(env!("CARGO_BIN_EXE_vhost-device-rng"), &args)).unwrap();
        Self { daemon, folder }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(control(self.folder.path())).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn ask(&self, request: &Value) -> Value {
        ask(&self.connect(), &request.to_string())
    }

    fn result(&self, command: &str) -> Value {
        let mut reply = self.ask(&json!({"command": command}));
        assert_eq!(
            (&reply["ok"], &reply["api"]),
            (&json!(true), &json!(1)),
            "{reply}"
        );
        reply["result"].take()
    }

    fn guest(&self) -> Guest {
        let front = FrontEnd::connect(&self.daemon.socket(), DEADLINE).unwrap();
        let options = Options {
            deadline: DEADLINE,
            ..Options::default()
        };
        Guest::boot(front, &rng(), &options).unwrap()
    }
}

fn control(folder: &Path) -> PathBuf {
    folder.join("control")
}

fn ask(mut stream: &UnixStream, line: &str) -> Value {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).unwrap();
    serde_json::from_str(&reply).unwrap()
}

#[test]
fn status_and_stats_follow_a_guest() {
    let rig = Rig::new();
    let status = rig.result("status");
    assert_eq!(status["name"], "rng");
    assert_eq!(status["pid"], rig.daemon.pid());
    assert!(
        status["sandbox"].as_str().unwrap().contains("seccomp="),
        "{status}"
    );
    assert_eq!(status["devices"][0], json!({"connections": 0, "front_end": null}));

    let mut guest = rig.guest();
    for _ in 0..3 {
        guest.lane().round_trip(&rng(), 64).unwrap();
    }
    let device = &rig.result("status")["devices"][0];
    assert_eq!(device["connections"], 1);
    assert_eq!(device["front_end"]["queues"][0]["running"], true);
    let before = rig.result("stats")["devices"][0]["queues"][0].clone();
    assert_eq!(
        (&before["requests"], &before["bad_chains"], &before["in_flight"]),
        (&json!(3), &json!(0), &json!(0))
    );
    assert_eq!(
        (&before["bytes_read"], &before["bytes_written"]),
        (&json!(0), &json!(3 * 64))
    );
    let kicks = before["kicks"].as_u64().unwrap();
    assert!((1..=3).contains(&kicks), "{before}");
    let timed = before["latency"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bucket| bucket[1].as_u64().unwrap());
    assert_eq!(timed.sum::<u64>(), 3);

    // What one guest did is not forgotten with the next.
    drop(guest);
    let mut guest = rig.guest();
    guest.lane().round_trip(&rng(), 64).unwrap();
    let after = &rig.result("stats")["devices"][0];
    assert_eq!(
        (&after["connections"], &after["queues"][0]["requests"]),
        (&json!(2), &json!(4))
    );
}

#[test]
fn the_socket_is_for_its_owner_and_goes_with_the_daemon() {
    let mut rig = Rig::new();
    let path = control(rig.folder.path());
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(rig.result("quit"), Value::Null);
    let status = rig.daemon.process().wait(DEADLINE).unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!path.exists() && !rig.daemon.socket().exists());
}

#[test]
fn the_level_of_the_log_can_be_changed() {
    let rig = Rig::new();
    let reply = rig.ask(&json!({"command": "set-log-level", "level": "debug"}));
    assert_eq!(reply["ok"], true, "{reply}");
    assert_eq!(rig.result("status")["log_level"], "debug");
    let reply = rig.ask(&json!({"command": "set-log-level", "level": "loud"}));
    assert!(
        reply["error"]
            .as_str()
            .unwrap()
            .starts_with("loud: no such level"),
        "{reply}"
    );
}

#[test]
fn nonsense_is_an_error_and_no_more() {
    let rig = Rig::new();
    let stream = rig.connect();
    for line in [
        "",
        "{",
        "3",
        "[]",
        "{\"command\":7}",
        "{\"command\":\"fly\"}",
        "\u{0}",
    ] {
        let reply = ask(&stream, line);
        assert_eq!(reply["ok"], false, "{line:?}: {reply}");
        assert!(!reply["error"].as_str().unwrap().is_empty(), "{line:?}");
    }
    // The same connection goes on.
    assert_eq!(ask(&stream, "{\"command\":\"version\"}")["ok"], true);
}

#[test]
fn clients_that_flood_or_say_nothing_hold_up_nobody() {
    let rig = Rig::new();
    let silent: Vec<UnixStream> = (0..4).map(|_| rig.connect()).collect();
    let flood = rig.connect();
    // The daemon hangs up when a line has no end.
    let _ = (&flood).write_all(&vec![b'x'; 1 << 20]);
    let mut rest = Vec::new();
    let _ = (&flood).read_to_end(&mut rest);
    assert!(rest.is_empty());
    assert_eq!(rig.result("version")["api"], 1);
    let mut guest = rig.guest();
    guest.lane().round_trip(&rng(), 64).unwrap();
    drop(silent);
}
