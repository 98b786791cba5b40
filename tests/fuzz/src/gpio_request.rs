// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parser of GPIO messages, beside a second opinion on what is a good one.
//!
//! An input is the number of lines in two bytes, and then messages of eight bytes, one after the other.

use vhost_device_gpio::{Direction, Line, Request, Trigger};

/// The message, if it is a good one: the table of the specification, value by value.
fn expected(message: &[u8; 8], lines: u16) -> Option<Request> {
    let [kind, 0, low, high, value, 0, 0, 0] = *message else {
        // No message type is above 255; nor is any value, but fetching the names has none at all.
        return (message[..2] == [1, 0]).then_some(Request::GetLineNames);
    };
    let gpio = u16::from(low) + 256 * u16::from(high);
    let line = || (gpio < lines).then(|| Line::new(gpio, lines.into())).flatten();
    Some(match (kind, value) {
        (1, _) => Request::GetLineNames,
        (2, _) => Request::GetDirection(line()?),
        (3, 0) => Request::SetDirection(line()?, None),
        (3, 1) => Request::SetDirection(line()?, Some(Direction::Out)),
        (3, 2) => Request::SetDirection(line()?, Some(Direction::In)),
        (4, _) => Request::GetValue(line()?),
        (5, 0 | 1) => Request::SetValue(line()?, value == 1),
        (6, 0) => Request::SetIrqType(line()?, None),
        (6, 1) => Request::SetIrqType(line()?, Some(Trigger::EdgeRising)),
        (6, 2) => Request::SetIrqType(line()?, Some(Trigger::EdgeFalling)),
        (6, 3) => Request::SetIrqType(line()?, Some(Trigger::EdgeBoth)),
        (6, 4) => Request::SetIrqType(line()?, Some(Trigger::LevelHigh)),
        (6, 8) => Request::SetIrqType(line()?, Some(Trigger::LevelLow)),
        _ => return None,
    })
}

/// Values that a message which has none may carry: the specification says 0, and drivers are not held to it.
fn is_free(message: &[u8; 8]) -> bool {
    matches!(message[..2], [2 | 4, 0])
}

/// The target.
///
/// # Panics
/// When the parser lets something else pass than the specification does.
pub(crate) fn run(input: &[u8]) {
    let Some((lines, messages)) = input.split_first_chunk() else {
        return;
    };
    let lines = u16::from_le_bytes(*lines);
    for message in messages.chunks(8) {
        let Ok(message) = <&[u8; 8]>::try_from(message) else {
            return;
        };
        let mut plain = *message;
        if is_free(message) {
            plain[4..].fill(0);
        }
        let found = Request::parse(*message, lines.into());
        assert_eq!(
            found.ok(),
            expected(&plain, lines),
            "{message:x?} with {lines} lines"
        );
        if let Err(error) = found {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 80, "{text}");
        }
    }
}
