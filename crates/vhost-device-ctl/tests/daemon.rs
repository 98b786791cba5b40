// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program against a daemon's side of the protocol.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Runs the program against a socket at which `replies` are given, one for each connection; what it was asked.
fn run(name: &str, args: &[&str], replies: &'static [&str]) -> (Output, Vec<String>) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || {
        let answer = |reply: &&str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            request.trim().to_owned()
        };
        replies.iter().map(answer).collect()
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-device-ctl"));
    let output = command.arg("--socket").arg(&path).args(args).output().unwrap();
    let asked = daemon.join().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    (output, asked)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_result_is_printed() {
    const REPLY: &[&str] = &[
        "{\"api\":1,\"ok\":true,\"result\":{\"devices\":[{\"connections\":1,\"queues\":[{\"requests\":7}]}]}}\n",
    ];
    let (output, asked) = run("stats", &["stats", "--json"], REPLY);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("\"requests\": 7"), "{output:?}");
    assert_eq!(asked, ["{\"command\":\"stats\"}"]);
}

#[test]
fn a_level_goes_with_its_command() {
    let (output, asked) = run("level", &["log-level", "debug"], &["{\"ok\":true}\n"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(asked, ["{\"command\":\"set-log-level\",\"level\":\"debug\"}"]);
}

#[test]
fn a_table_of_rates_takes_two_looks() {
    let replies = &[
        "{\"ok\":true,\"result\":{\"devices\":[{\"queues\":[{\"requests\":7}]}]}}\n",
        "{\"ok\":true,\"result\":{\"devices\":[{\"queues\":[{\"requests\":9}]}]}}\n",
    ];
    let (output, _) = run("watch", &["watch", "--count", "1"], replies);
    let row = text(&output.stdout).lines().nth(1).unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["0", "0", "2", "0", "0", "0", "0", "0", "-", "-"]
    );
}

#[test]
fn what_a_daemon_refuses_is_an_error() {
    let (output, _) = run(
        "refused",
        &["refresh"],
        &["{\"ok\":false,\"error\":\"not now\"}\n"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: not now\n");
}

#[test]
fn a_daemon_that_hangs_up_or_is_not_there_is_named() {
    let (output, _) = run("hangup", &["quit"], &[""]);
    assert!(
        text(&output.stderr).ends_with("the daemon hung up\n"),
        "{output:?}"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-device-ctl"));
    let output = command
        .args(["-s", "/nowhere/at/all", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).starts_with("error: /nowhere/at/all: "),
        "{output:?}"
    );
}
