// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests with small recordings of both kinds.

use std::time::Duration;

use super::Recording;
use crate::config::Axis;
use crate::request::Event;
use crate::spec::{EV_ABS, EV_KEY, EV_LED, EV_MSC, EV_REL, EV_REP, EV_SND, EV_SW};

/// A keyboard with a lid switch and a dial.
const EVEMU: &str = "\
# EVEMU 1.3
# Kernel: any
# Input device name: \"Small #1\"
N: Small #1
I: 0003 fede 0102 0111
P: 04 00 00 00 00 00 00 00
B: 00 2b 00 12 00 00 00 00 00
B: 01 00 00 00 40 00 00 00 00
B: 01 01 00 00 00 00 00 00 00
B: 03 00 00 01 00 00 00 00 00
B: 04 10 00 00 00 00 00 00 00
B: 05 01 00 00 00 00 00 00 00
B: 11 02 00 00 00 00 00 00 00
B: 15 ff 00 00 00 00 00 00 00
A: 10 -1 1 2 3 40
L: 01 1
S: 00 1
E: 5.999990 0004 0004 458756\t# EV_MSC / MSC_SCAN             458756
E: 5.999990 0001 001e 0001\t# EV_KEY / KEY_A                1
E: 5.999990 0000 0000 0000\t# ------------ SYN_REPORT (0) ----------

E: 6.250000 0001 001e 0002
E: 6.250000 0000 0000 0001
E: 6.000000 0011 0001 0000
E: 6.000000 0003 0010 -001
E: 6.000000 0000 0000 0000
E: 7.000000 0001 001e 0000
E: 7.000000 0000 0000 0000
E: 8.000000 0001 0040 0001
";

fn event(kind: u16, code: u16, value: i32) -> Event {
    Event::new(kind, code, value)
}

fn millis_and_frames(recording: &Recording) -> Vec<(u128, &[Event])> {
    let frames = recording.frames.iter();
    frames
        .map(|(time, frame)| (time.as_micros(), frame.as_slice()))
        .collect()
}

fn evemu(text: &str) -> Result<Recording, String> {
    Recording::parse(text, None).map_err(|bad| bad.to_string())
}

#[test]
fn a_device_of_evemu_is_as_the_file_says() {
    let device = evemu(EVEMU).unwrap().description;
    assert_eq!(device.name, b"Small #1");
    assert_eq!(device.ids, [3, 0xfede, 0x102, 0x111]);
    assert_eq!(device.props, [2].into_iter().collect());
    assert!(device.has(EV_KEY, 30) && device.has(EV_KEY, 64) && !device.has(EV_KEY, 0));
    assert!(device.has(EV_MSC, 4) && device.has(EV_SW, 0) && device.has(EV_LED, 1));
    assert!(
        device.has(EV_REP, 0) && device.has(EV_REP, 1),
        "repeats have no bits"
    );
    let kinds: Vec<u16> = device.codes.keys().copied().collect();
    assert_eq!(
        kinds,
        [EV_KEY, EV_ABS, EV_MSC, EV_SW, EV_LED, EV_REP],
        "no force feedback"
    );
    let axis = Axis {
        min: -1,
        max: 1,
        fuzz: 2,
        flat: 3,
        res: 40,
    };
    assert_eq!(device.axes, [(0x10, axis)].into());
}

#[test]
fn what_happened_of_evemu_has_times_from_the_first_on() {
    let recording = evemu(EVEMU).unwrap();
    assert_eq!(
        millis_and_frames(&recording),
        [
            (0, &[event(EV_MSC, 4, 458_756), event(EV_KEY, 30, 1)][..]),
            // The guest repeats keys and sets LEDs itself. Time does not go back.
            (10, &[event(EV_ABS, 0x10, -1)][..]),
            (1_000_010, &[event(EV_KEY, 30, 0)][..]),
        ],
        "what has no end did not happen"
    );
    let lid = [event(EV_SW, 0, 1)];
    assert_eq!(super::State::default().events_to(&recording.state), lid);
}

/// Two devices, the second of which clicks twice.
const LIBINPUT: &str = "\
# libinput record
version: 1
ndevices: 2
libinput:
  version: \"1.23.0\"
  git: \"unknown\"
system:
  kernel: \"6.3.7\"
devices:
- node: /dev/input/event0
  evdev:
    # Name: First
    name: \"First\"
    id: [3, 1, 2, 3]
    codes:
      0: [0, 1] # EV_SYN
      18: [1, 2] # EV_SND
    properties: []
  events:
- node: /dev/input/event1
  evdev:
    # Name: A \"mouse\"
    # Supported Events:
    # Event type 0 (EV_SYN)
    name: \"A \"mouse\" # 2\"
    id: [3, 1008, 2378, 273]
    codes:
  \t0: [0, 1, 2, 3] # EV_SYN
  \t1: [272, 273] # EV_KEY
  \t2: [0, 1, 8] # EV_REL
  \t3: [47]
  \t21: [80]
    absinfo:
      47: [0, 9, 0, 0, 0]
    properties: [0, 5]
  hid: [
    0x05, 0x01, 0x09, 0x02,
    0xc0, 0xc0
  ]
  udev:
    properties:
    - ID_INPUT=1
    - ID_INPUT_MOUSE=1
  quirks:
  events:
  # Current time is 12:31:56
  - evdev:
    - [  1, 999999,   1, 272,       1] # EV_KEY / BTN_LEFT                  1
    - [  1, 999999,   0,   0,       0] # ------------ SYN_REPORT (0) ---------- +0ms
  - libinput:
    - {time: 1.99, type: POINTER_BUTTON, button: 272, state: pressed, seat-count: 1}
  - evdev:
    - [  2,      0,\t2,   0,     -17] # EV_REL / REL_X                    -17
    - [  2,      0,\t1, 272,       0]
    - [  2,      0,\t0,   0,       0]
";

#[test]
fn a_device_of_libinput_is_as_the_file_says() {
    let recording = Recording::parse(LIBINPUT, Some(2)).unwrap();
    let device = &recording.description;
    assert_eq!(device.name, b"A \"mouse\" # 2");
    assert_eq!(device.ids, [3, 1008, 2378, 273]);
    assert_eq!(device.props, [0, 5].into_iter().collect());
    let kinds: Vec<u16> = device.codes.keys().copied().collect();
    assert_eq!(kinds, [EV_KEY, EV_REL, EV_ABS]);
    assert!(device.has(EV_KEY, 273) && device.has(EV_REL, 8));
    assert_eq!(device.axes[&47].max, 9);
    assert_eq!(
        millis_and_frames(&recording),
        [
            (0, &[event(EV_KEY, 272, 1)][..]),
            (1, &[event(EV_REL, 0, -17), event(EV_KEY, 272, 0)][..]),
        ]
    );
    let first = Recording::parse(LIBINPUT, Some(1)).unwrap();
    assert_eq!(first.description.name, b"First");
    assert!(first.description.has(EV_SND, 2) && first.frames.is_empty());
}

#[test]
fn of_several_devices_one_has_to_be_chosen() {
    let error = |device| Recording::parse(LIBINPUT, device).unwrap_err().to_string();
    let lines = LIBINPUT.lines().count();
    assert_eq!(
        error(None),
        format!("line {lines}: there are 2 devices: choose one by device=NUMBER")
    );
    for number in [0, 3] {
        let what = format!("line {lines}: there is no device {number} among 2");
        assert_eq!(error(Some(number)), what);
    }
    let evemu = Recording::parse(EVEMU, Some(2)).unwrap_err();
    assert_eq!(evemu.to_string(), "line 1: a recording of evemu has one device");
}

/// `text` with one line replaced, and the number of that line.
fn with(text: &str, line: &str, other: &str) -> (String, usize) {
    let number = text.lines().position(|known| known.trim() == line);
    let number = number.expect("a line of the text") + 1;
    (text.replacen(line, other, 1), number)
}

/// Each is a line, another in its place, and what the error says of that.
fn assert_errors(text: &str, device: Option<usize>, cases: &[(&str, &str, &str)]) {
    for (line, other, what) in cases {
        let (text, number) = with(text, line, other);
        let error = Recording::parse(&text, device).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("line {number}: ")) && error.contains(what),
            "{error}"
        );
    }
}

#[test]
fn an_error_of_evemu_has_its_line() {
    const IDS: &str = "I: 0003 fede 0102 0111";
    const PROPS: &str = "P: 04 00 00 00 00 00 00 00";
    const AXIS: &str = "A: 10 -1 1 2 3 40";
    const EVENT: &str = "E: 6.250000 0001 001e 0002";
    let cases = [
        (IDS, "I: 0003 fede", "an identity is bus"),
        (IDS, "I: 10000 0 0 0", "\"10000\" is not a hexadecimal number"),
        (PROPS, "P: 104", "\"104\" is not a byte"),
        (AXIS, "A: 10 -1 1 2", "an axis has a least"),
        (AXIS, "A: 10 1 2 3 4 5 6", "an axis has five numbers"),
        (
            AXIS,
            "A: 10 -1 1 2 99999999999",
            "\"99999999999\" is not a number that fits",
        ),
        ("L: 01 1", "L: 01", "is no line of evemu"),
        ("L: 01 1", "key A", "\"key A\" is no line of evemu"),
        (EVENT, "E: 6 0001 001e 0002", "is no line of evemu"),
        (EVENT, "E: 6.1000000 0001 001e 0002", "1000000 microseconds"),
        (
            EVENT,
            "E: 6.4294967296 0001 001e 0002",
            "is not a number that fits",
        ),
        (EVENT, "E: 6.0 0001 001f 0001", "no code 31 of type 1"),
    ];
    assert_errors(EVEMU, None, &cases);
}

#[test]
fn an_error_of_libinput_has_its_line() {
    const CODES: &str = "18: [1, 2] # EV_SND";
    const EVENT: &str = "- [  2,      0,\t1, 272,       0]";
    let first = [
        (
            "version: 1",
            "version: 2",
            "version \"2\" of the format is not known",
        ),
        ("id: [3, 1, 2, 3]", "id: [3, 1]", "an identity is bus"),
        (CODES, "18: 1, 2", "\"1, 2\" is not a list of numbers"),
        (CODES, "18: [1, x]", "\"x\" is not a number that fits"),
        (CODES, "nonsense", "\"nonsense\" is neither a key nor an item"),
    ];
    assert_errors(LIBINPUT, Some(1), &first);
    let second = [
        (EVENT, "- [ 2, 0, 1, 272 ]", "an event is [seconds, microseconds"),
        (EVENT, "- [ -1, 0, 1, 272, 0 ]", "-1 is no time"),
        (EVENT, "- [ 2, 0, 65536, 272, 0 ]", "65536 is no type"),
        (EVENT, "- [ 2, 0, 1, -1, 0 ]", "-1 is no code"),
        (EVENT, "- [ 2, 0, 1, 272, 2147483648 ]", "2147483648 is no value"),
        (EVENT, "- [ 2, 0, 1, 274, 1 ]", "no code 274 of type 1"),
    ];
    assert_errors(LIBINPUT, Some(2), &second);
}

#[test]
fn a_file_without_a_device_is_no_recording() {
    let missing = "there is no device in it that can do something";
    for text in ["", "# EVEMU 1.3\n", "N: nothing\nB: 00 01\n"] {
        assert!(evemu(text).unwrap_err().contains(missing));
    }
    let headless = evemu("E: 0.000000 0001 001e 0001\n").unwrap_err();
    assert_eq!(headless, "line 1: the device has no code 30 of type 1");
    let none = evemu("version: 1\ndevices:\n").unwrap_err();
    assert_eq!(none, "line 2: the file ends, and has no device (`- node: ...`)");
    let bits = format!("B: 01{}", " 00".repeat(129));
    assert_eq!(evemu(&bits).unwrap_err(), "line 1: more than 128 bytes of bits");
}

#[test]
fn the_times_of_a_recording_may_be_anything() {
    let text = format!(
        "B: 01 00 40\nE: 0.0 1 e 1\nE: 0.0 0 0 0\nE: {0}.999999 1 e 0\nE: {0}.999999 0 0 0\n",
        u64::MAX
    );
    let recording = evemu(&text).unwrap();
    let last = Duration::new(u64::MAX, 999_999_000);
    assert_eq!(recording.frames[1].0, last);
}
