// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the commands for a simulated device.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Desk, Kind};
use super::Outcome;
use crate::backend::{Change, Source};
use crate::request::Event;

/// A device, and its side that a guest has.
fn attached(kind: Kind) -> (Arc<Desk>, Box<dyn Source>) {
    let desk = Desk::new(kind).unwrap();
    let mut source = desk.source();
    source.attach();
    assert!(matches!(&changes(&mut *source)[..], [Change::State(_)]));
    (desk, source)
}

fn changes(source: &mut dyn Source) -> Vec<Change> {
    let mut changes = Vec::new();
    source.read(&mut changes);
    changes
}

/// The frames of a command, as type, code and value.
fn frames(kind: Kind, commands: &[&str]) -> Vec<Vec<(u16, u16, i32)>> {
    let (desk, mut source) = attached(kind);
    let mut pending = Vec::new();
    for command in commands {
        assert_eq!(
            desk.command(command, &mut pending),
            Outcome::Answer("ok".into()),
            "{command}"
        );
    }
    let frame = |change| match change {
        Change::Frame(events) => events.iter().map(|it| (it.kind, it.code, it.value)).collect(),
        other => panic!("{other:?}"),
    };
    changes(&mut *source).into_iter().map(frame).collect()
}

fn refused(kind: Kind, command: &str) -> String {
    let (desk, mut source) = attached(kind);
    let outcome = desk.command(command, &mut Vec::new());
    assert_eq!(changes(&mut *source), [], "{command}");
    match outcome {
        Outcome::Answer(text) if text.starts_with("error: ") => text["error: ".len()..].to_owned(),
        other => panic!("{command}: {other:?}"),
    }
}

#[test]
fn keys_go_down_in_order_and_up_again() {
    let expected = [[(1, 29, 1)], [(1, 46, 1)], [(1, 46, 0)], [(1, 29, 0)]];
    assert_eq!(frames(Kind::Keyboard, &["key LEFTCTRL+C"]), expected);
    assert_eq!(
        frames(Kind::Keyboard, &["down A", "up a"]),
        [[(1, 30, 1)], [(1, 30, 0)]]
    );
    assert_eq!(
        frames(Kind::Mouse, &["button left"]),
        [[(1, 0x110, 1)], [(1, 0x110, 0)]]
    );
}

#[test]
fn text_is_typed_with_shift_where_it_needs_one() {
    let expected = [
        [(1, 35, 1)],
        [(1, 35, 0)],
        [(1, 42, 1)],
        [(1, 23, 1)],
        [(1, 23, 0)],
        [(1, 42, 0)],
    ];
    assert_eq!(frames(Kind::Keyboard, &["type hI"]), expected);
    assert_eq!(frames(Kind::Keyboard, &[r#"type "hI""#]), expected);
    assert_eq!(
        frames(Kind::Keyboard, &[r#"type "\n""#]),
        [[(1, 28, 1)], [(1, 28, 0)]]
    );
}

#[test]
fn pointers_and_sticks_move() {
    assert_eq!(frames(Kind::Mouse, &["move 10 -5"]), [[(2, 0, 10), (2, 1, -5)]]);
    assert_eq!(frames(Kind::Mouse, &["wheel -1"]), [[(2, 8, -1), (2, 11, -120)]]);
    assert_eq!(
        frames(Kind::Mouse, &["wheel 0 2"])[0][2..],
        [(2, 6, 2), (2, 12, 240)]
    );
    assert_eq!(
        frames(Kind::Tablet, &["abs 100 200"]),
        [[(3, 0, 100), (3, 1, 200)]]
    );
    assert_eq!(
        frames(Kind::Gamepad, &["axis RX 7 HAT0Y -1"]),
        [[(3, 3, 7), (3, 0x11, -1)]]
    );
}

#[test]
fn fingers_touch_move_and_lift() {
    let script = ["touch 0 1 2 3 5 6", "touch 3 7 8", "lift 0", "lift 3"];
    let expected = [
        vec![
            (3, 0x2f, 0),
            (3, 0x39, 1),
            (3, 0x35, 1),
            (3, 0x36, 2),
            (3, 0x2f, 3),
            (3, 0x39, 2),
            (3, 0x35, 5),
            (3, 0x36, 6),
            (1, 0x14a, 1),
            (3, 0, 1),
            (3, 1, 2),
        ],
        vec![(3, 0x2f, 3), (3, 0x35, 7), (3, 0x36, 8)],
        vec![(3, 0x2f, 0), (3, 0x39, -1)],
        vec![(3, 0x2f, 3), (3, 0x39, -1), (1, 0x14a, 0)],
    ];
    assert_eq!(frames(Kind::Touch, &script), expected);
}

#[test]
fn events_come_raw_and_as_json() {
    let expected = [[(1, 30, 1), (1, 31, 1)]];
    assert_eq!(frames(Kind::Keyboard, &["frame 1 30 1 1 31 1"]), expected);
    let json = [
        r#"{"type":1,"code":30,"value":1}"#,
        r#"{ "value": 1, "type": 1, "code": 31 }"#,
        r#"{"type":0,"code":0,"value":0}"#,
    ];
    assert_eq!(frames(Kind::Keyboard, &json), expected);
}

#[test]
fn what_a_device_cannot_do_is_refused_as_a_whole() {
    for (kind, command, error) in [
        (Kind::Mouse, "key A", "this device has no code 30 of type 1"),
        (
            Kind::Keyboard,
            "key A+BTN_LEFT",
            "this device has no code 272 of type 1",
        ),
        (Kind::Keyboard, "key", super::KNOWN),
        (Kind::Keyboard, "dance", super::KNOWN),
        (Kind::Keyboard, "key nokey", "no key is called NOKEY"),
        (Kind::Keyboard, "type \u{fc}", "no key types '\u{fc}'"),
        (Kind::Keyboard, "type \"x", "\"x is not a string of JSON"),
        (Kind::Tablet, "abs 1 x", "x is not a number"),
        (Kind::Tablet, "abs 0 32768", "axis 1 goes from 0 to 32767"),
        (Kind::Touch, "touch 10 1 1", "10 is not a slot from 0 to 9"),
        (Kind::Touch, "touch 0 1", "a touch is SLOT X Y"),
        (Kind::Touch, "lift 2", "there is no finger in slot 2"),
        (
            Kind::Keyboard,
            "frame 0 0 0",
            "the end of a frame comes by itself",
        ),
        (Kind::Keyboard, "frame 1 30", super::KNOWN),
        (Kind::Keyboard, "{", "not an object of JSON"),
        (
            Kind::Keyboard,
            "{\"type\":1}",
            r#"an event is {"type":T,"code":C,"value":V}"#,
        ),
        (
            Kind::Keyboard,
            "sleep 1",
            "1 is not a time of at most an hour, as 20ms or 2s",
        ),
        (
            Kind::Keyboard,
            "sleep 2h",
            "2h is not a time of at most an hour, as 20ms or 2s",
        ),
    ] {
        assert_eq!(refused(kind, command), error, "{command}");
    }
}

#[test]
fn some_commands_are_for_the_sender_alone() {
    let desk = Desk::new(Kind::Keyboard).unwrap();
    let act = |line| desk.command(line, &mut Vec::new());
    assert_eq!(act(" # a comment"), Outcome::Nothing);
    assert_eq!(act(" \r\n"), Outcome::Nothing);
    assert_eq!(act("sleep 20ms\n"), Outcome::Sleep(Duration::from_millis(20)));
    assert_eq!(act("sleep 2s"), Outcome::Sleep(Duration::from_secs(2)));
    assert_eq!(act("wait"), Outcome::Guest);
    assert_eq!(act("watch"), Outcome::Watch);
}

#[test]
fn the_guests_leds_are_told() {
    let (desk, mut source) = attached(Kind::Keyboard);
    source.status(&[
        Event::new(0x11, 1, 1),
        Event::new(0x11, 0, 0),
        Event::new(0x12, 1, 1),
    ]);
    let answer = desk.command("leds", &mut Vec::new());
    assert_eq!(answer, Outcome::Answer("LED_NUML 0\nLED_CAPSL 1\nok".into()));
}

#[test]
fn without_a_guest_only_what_is_held_counts() {
    let desk = Desk::new(Kind::Keyboard).unwrap();
    for line in ["key A", "down B"] {
        assert_eq!(desk.command(line, &mut Vec::new()), Outcome::Answer("ok".into()));
    }
    let mut source = desk.source();
    source.attach();
    match &changes(&mut *source)[..] {
        [Change::State(state)] => assert_eq!((state.is_down(30), state.is_down(48)), (false, true)),
        other => panic!("{other:?}"),
    }
}
