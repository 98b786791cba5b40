// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recordings of evemu and libinput: one that is taken has nothing that its device has not, and is the same when it is
//! written in the words of evemu and read again; one that is refused has a line.
//!
//! An input is the number of the device in a byte, 0 for none, and then the file.

use std::fmt::Write;

use vhost_device_input::Bits;
use vhost_device_input::backend::sim::Recording;

/// Ends a contact where contacts have no slots: the only event of its type within a frame.
const MT_REPORT: (u16, u16) = (0, 2);

/// The target.
///
/// # Panics
/// When one of those rules is broken.
pub(crate) fn run(input: &[u8]) {
    let Some((number, text)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let device = Some(usize::from(*number)).filter(|number| *number > 0);
    match Recording::parse(&text, device) {
        Ok(recording) => {
            check(&recording);
            let again = Recording::parse(&evemu(&recording), None).expect("what was read can be read again");
            assert_eq!(again.description.codes, recording.description.codes);
            assert_eq!(again.description.axes, recording.description.axes);
            assert_eq!(again.description.props, recording.description.props);
            assert_eq!(again.description.ids, recording.description.ids);
            assert_eq!(again.frames, recording.frames);
        }
        Err(bad) => {
            let lines = text.lines().count().max(1);
            assert!((1..=lines).contains(&bad.line), "line {} of {lines}", bad.line);
            let plain = bad.what.chars().all(|character| !character.is_control());
            assert!(
                plain && !bad.what.is_empty() && bad.what.len() < 400,
                "{:?}",
                bad.what
            );
        }
    }
}

fn check(recording: &Recording) {
    assert!(!recording.description.codes.is_empty());
    let first = recording.frames.first();
    assert!(first.is_none_or(|(time, _)| time.is_zero()));
    assert!(recording.frames.is_sorted_by_key(|(time, _)| *time));
    for (_, frame) in &recording.frames {
        assert!(!frame.is_empty());
        for event in frame {
            let known = recording.description.has(event.kind, event.code);
            assert!(known || (event.kind, event.code) == MT_REPORT, "{event:?}");
            assert!(matches!(event.kind, 0..=5), "{event:?} is not for a guest");
        }
    }
}

/// A recording in the words of evemu, but for the name.
fn evemu(recording: &Recording) -> String {
    let device = &recording.description;
    let bytes = |bits: &Bits| -> String {
        let byte = |at: u16| {
            (0..8)
                .filter(|bit| bits.has(at * 8 + bit))
                .map(|bit| 1 << bit)
                .sum::<u16>()
        };
        (0..128).map(|at| format!(" {:02x}", byte(at))).collect()
    };
    let [bus, vendor, product, version] = device.ids;
    let mut text = format!("# EVEMU 1.3\nN: again\nI: {bus:04x} {vendor:04x} {product:04x} {version:04x}\n");
    let mut add = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("memory");
    add(format_args!("P:{}\n", bytes(&device.props)));
    for (kind, codes) in &device.codes {
        add(format_args!("B: {kind:02x}{}\n", bytes(codes)));
    }
    for (code, axis) in &device.axes {
        let (range, rest) = ([axis.min, axis.max], [axis.fuzz, axis.flat, axis.res]);
        add(format_args!(
            "A: {code:02x} {} {} {} {} {}\n",
            range[0], range[1], rest[0], rest[1], rest[2]
        ));
    }
    for (time, frame) in &recording.frames {
        let time = format!("{}.{:06}", time.as_secs(), time.subsec_micros());
        for event in frame {
            let (kind, code, value) = (event.kind, event.code, event.value);
            add(format_args!("E: {time} {kind:04x} {code:04x} {value:04}\n"));
        }
        add(format_args!("E: {time} 0000 0000 0000\n"));
    }
    text
}
