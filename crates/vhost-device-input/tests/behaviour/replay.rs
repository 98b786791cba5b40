// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recordings: the guest finds the device that was recorded, and what happened at it happens again.

use std::fs;
use std::time::{Duration, Instant};

use vu_testkit::devices::input::{ev, select};
use vu_testkit::spawn::{Daemon, Launch, TempDir};

use crate::daemon::refusal;
use crate::support::{Client, PROGRAM, Reader};

/// A key that goes down and, 80 ms later, up; another one is still held at the end.
const RECORDING: &str = "\
# EVEMU 1.3
N: Recorded keyboard
I: 0003 fede 0102 0111
P: 01 00 00 00 00 00 00 00
B: 01 00 00 00 c0 00 00 00 00
E: 3.000000 0001 001e 0001\t# EV_KEY / KEY_A                1
E: 3.000000 0000 0000 0000\t# ------------ SYN_REPORT (0) ----------
E: 3.080000 0001 001e 0000
E: 3.080000 0001 001f 0001
E: 3.080000 0000 0000 0000
";

/// What a guest gets of it: the last key is lifted at the end.
const FRAMES: [&[(u16, u16, i32)]; 3] = [&[(1, 30, 1)], &[(1, 30, 0), (1, 31, 1)], &[(1, 31, 0)]];

struct Recorded {
    daemon: Daemon,
    _dir: TempDir,
}

/// A daemon that has the recording, with options for `replay`.
fn daemon(options: &str) -> Recorded {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyboard.evemu");
    fs::write(&file, RECORDING).unwrap();
    let sim = format!("replay{options}:{}", file.display());
    let launch = Launch::ours(PROGRAM, &["--sim", &sim, "--sim-socket", "{stem}c"]);
    Recorded {
        daemon: Daemon::spawn(&launch).unwrap(),
        _dir: dir,
    }
}

fn assert_round(reader: &mut Reader) {
    for frame in FRAMES {
        assert_eq!(reader.frame(), frame);
    }
}

#[test]
fn a_guest_finds_the_device_that_was_recorded() {
    let recorded = daemon(",asked");
    let reader = Reader::of(&recorded.daemon);
    let ask = |select, subsel| {
        reader.guest.front.set_config(0, &[select, subsel]).unwrap();
        let config = reader.guest.front.get_config(0, 136).unwrap();
        config[8..8 + usize::from(config[2])].to_vec()
    };
    assert_eq!(ask(select::ID_NAME, 0), b"Recorded keyboard");
    assert_eq!(ask(select::ID_DEVIDS, 0), [3, 0, 0xde, 0xfe, 2, 1, 0x11, 1]);
    assert_eq!(ask(select::PROP_BITS, 0), [1]);
    assert_eq!(ask(select::EV_BITS, ev::KEY as u8), [0, 0, 0, 0xc0]);
}

#[test]
fn a_recording_is_played_once_when_a_guest_is_there() {
    let recorded = daemon("");
    let mut client = Client::of(&recorded.daemon);
    // Without a guest nothing happens.
    client.act("sleep 100ms");
    let mut reader = Reader::of(&recorded.daemon);
    assert_eq!(reader.frame(), FRAMES[0]);
    let begun = Instant::now();
    assert_eq!(reader.frame(), FRAMES[1]);
    assert!(begun.elapsed() > Duration::from_millis(40));
    assert_eq!(reader.frame(), FRAMES[2]);
    client.act("key S");
    assert_eq!(reader.frame(), [(1, 31, 1)], "nothing came before it");
}

#[test]
fn a_recording_is_played_when_somebody_asks_for_it() {
    let recorded = daemon(",asked");
    let (mut reader, mut client) = (Reader::of(&recorded.daemon), Client::of(&recorded.daemon));
    client.act("wait");
    for (command, least) in [
        ("replay", 80),
        ("replay speed=0.5", 160),
        ("replay speed=1000", 0),
    ] {
        let begun = Instant::now();
        client.send(&format!("{command}\n"));
        assert_round(&mut reader);
        assert_eq!(client.line(), "ok");
        assert!(begun.elapsed() >= Duration::from_millis(least), "{command}");
    }
    assert_eq!(
        client.ask("replay fast"),
        "error: fast is neither loop nor speed=NUMBER"
    );
    let error = client.ask("replay speed=0");
    assert_eq!(error, "error: 0 is not a speed from 0.01 to 1000");
}

#[test]
fn a_recording_is_played_over_and_over_until_it_is_stopped() {
    let recorded = daemon(",loop,speed=100");
    let (mut reader, mut client) = (Reader::of(&recorded.daemon), Client::of(&recorded.daemon));
    (0..3).for_each(|_| assert_round(&mut reader));
    assert_eq!(
        client.ask("replay"),
        "error: the recording is being played already; `stop` ends that"
    );
    client.act("stop");
    client.act("replay loop speed=0.01");
    // The second frame is eight seconds away: what is held is lifted at once.
    while reader.frame() != FRAMES[0] {}
    client.act("stop");
    assert_eq!(reader.frame(), [(1, 30, 0)]);
}

#[test]
fn what_was_not_recorded_cannot_be_replayed() {
    let daemon = crate::support::daemon("keyboard");
    let mut client = Client::of(&daemon);
    assert_eq!(client.ask("replay"), "error: this device has no recorded events");
    client.act("stop");
}

#[test]
fn a_bad_recording_is_refused_with_the_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("bad.evemu");
    fs::write(
        &file,
        RECORDING.replace("3.080000 0001 001f", "3.080000 0001 00gg"),
    )
    .unwrap();
    let (code, log) = refusal(&["--sim", &format!("replay:{}", file.display())]);
    assert_eq!(code, Some(1));
    let what = format!("{}: line 9: \"00gg\" is not a hexadecimal number", file.display());
    assert!(log.contains(&what), "{log}");
}
