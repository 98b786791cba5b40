// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands of simulated devices: whatever they are, a guest gets only what the device has.
//!
//! An input is the kind of device in a byte, and then lines.

use vhost_device_input::backend::sim::{Desk, Kind, Outcome};
use vhost_device_input::backend::{Change, Source};
use vhost_device_input::{Description, Event};

const KINDS: [Kind; 5] = [
    Kind::Keyboard,
    Kind::Mouse,
    Kind::Tablet,
    Kind::Touch,
    Kind::Gamepad,
];
const ABS: u16 = 3;
const TRACKING_ID: u16 = 0x39;

/// The target.
///
/// # Panics
/// When a guest gets what the device does not have, or when an answer is not one line.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else {
        return;
    };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let desk = Desk::new(kind).expect("an event");
    let mut source = desk.source();
    source.attach();
    taken(&mut *source);
    let mut pending = Vec::new();
    for line in String::from_utf8_lossy(text).split('\n') {
        let outcome = desk.command(line, &mut pending);
        let frames = taken(&mut *source);
        frames
            .iter()
            .flatten()
            .for_each(|event| check(&kind.description(), *event));
        assert!(
            pending.len() <= 1024,
            "{} events wait for their end",
            pending.len()
        );
        match outcome {
            Outcome::Answer(text) if text.starts_with("error: ") => {
                assert!(!text.contains('\n') && text.len() > 7, "{text:?}");
                assert!(frames.is_empty(), "{text}, but {frames:?}");
            }
            Outcome::Answer(text) => assert_eq!(text.lines().last(), Some("ok")),
            Outcome::Nothing => assert!(line.trim().is_empty() || line.trim().starts_with('#')),
            Outcome::Sleep(time) => assert!(time.as_secs() <= 3600),
            Outcome::Guest | Outcome::Watch => {}
            Outcome::Replay => panic!("{line:?} replays what was not recorded"),
        }
    }
}

/// The frames that the guest gets.
fn taken(source: &mut dyn Source) -> Vec<Vec<Event>> {
    let mut changes = Vec::new();
    loop {
        let before = changes.len();
        source.read(&mut changes);
        if changes.len() == before {
            break;
        }
    }
    let frame = |change| match change {
        Change::Frame(frame) => Some(frame),
        Change::State(_) | Change::Released => None,
    };
    changes.into_iter().filter_map(frame).collect()
}

fn check(device: &Description, event: Event) {
    let Event { kind, code, value } = event;
    assert!(kind != 0 && device.has(kind, code), "{event:?}");
    if kind == ABS {
        let axis = device.axes.get(&code).expect("an axis has a range");
        let lifted = code == TRACKING_ID && value == -1;
        assert!(
            lifted || (axis.min..=axis.max).contains(&value),
            "{event:?} with {axis:?}"
        );
    }
}
