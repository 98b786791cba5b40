// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names of keys, axes and LEDs, and the keys that type a character. The names are those of Linux; `KEY_` and `ABS_` may
//! be left out.

use evdev::{AbsoluteAxisCode, KeyCode, LedCode, SoundCode};

use crate::request::Event;
use crate::spec::{EV_LED, EV_SND};

/// A key by `A`, `KEY_A` or `BTN_LEFT`, in small letters, too.
pub(crate) fn key(name: &str) -> Result<u16, String> {
    let name = name.to_ascii_uppercase();
    let known = format!("KEY_{name}").parse::<KeyCode>();
    let known = known.or_else(|_| name.parse()).ok();
    known
        .map(|key| key.0)
        .ok_or_else(|| format!("no key is called {name}"))
}

/// An axis by `X` or `ABS_X`, in small letters, too.
pub(super) fn axis(name: &str) -> Result<u16, String> {
    let name = name.to_ascii_uppercase();
    let known = format!("ABS_{name}").parse::<AbsoluteAxisCode>();
    let known = known.or_else(|_| name.parse()).ok();
    known
        .map(|axis| axis.0)
        .ok_or_else(|| format!("no axis is called {name}"))
}

/// How a status of the guest is told: `LED_NUML 1`.
pub(super) fn status(event: Event) -> String {
    let Event { kind, code, value } = event;
    match (kind, code) {
        (EV_LED, _) => format!("{:?} {value}", LedCode(code)),
        (EV_SND, _) => format!("{:?} {value}", SoundCode(code)),
        (_, 0) => format!("REP_DELAY {value}"),
        _ => format!("REP_PERIOD {value}"),
    }
}

/// Rows of a US keyboard: the code of the first key, the characters without and with shift.
const ROWS: [(u16, &str, &str); 4] = [
    (2, "1234567890-=", "!@#$%^&*()_+"),
    (16, "qwertyuiop[]", "QWERTYUIOP{}"),
    (30, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
];

/// The key of a US keyboard that types a character, and whether with shift.
pub(super) fn typed(character: char) -> Option<(u16, bool)> {
    match character {
        '\n' => return Some((KeyCode::KEY_ENTER.0, false)),
        '\t' => return Some((KeyCode::KEY_TAB.0, false)),
        ' ' => return Some((KeyCode::KEY_SPACE.0, false)),
        '\u{8}' => return Some((KeyCode::KEY_BACKSPACE.0, false)),
        '\u{1b}' => return Some((KeyCode::KEY_ESC.0, false)),
        _ => {}
    }
    let in_row = |(first, plain, shifted): &(u16, &str, &str)| {
        let at = |row: &str| row.chars().position(|known| known == character);
        let (at, shift) = at(plain)
            .map(|at| (at, false))
            .or(at(shifted).map(|at| (at, true)))?;
        Some((first + u16::try_from(at).ok()?, shift))
    };
    ROWS.iter().find_map(in_row)
}

#[cfg(test)]
mod tests {
    use evdev::KeyCode;

    use super::{axis, key, status, typed};
    use crate::request::Event;

    #[test]
    fn keys_and_axes_have_the_names_of_linux() {
        for (name, code) in [
            ("A", 30),
            ("key_a", 30),
            ("BTN_LEFT", 0x110),
            ("1", 2),
            ("KEY_1", 2),
        ] {
            assert_eq!(key(name), Ok(code), "{name}");
        }
        assert_eq!((axis("RX"), axis("ABS_HAT0Y")), (Ok(3), Ok(0x11)));
        assert_eq!(key("nokey").unwrap_err(), "no key is called NOKEY");
        assert!(axis("W").is_err());
    }

    #[test]
    fn every_printable_character_has_a_key() {
        for character in ' '..='~' {
            assert!(typed(character).is_some(), "{character}");
        }
        for (character, key, shift) in [
            ('a', KeyCode::KEY_A, false),
            ('Z', KeyCode::KEY_Z, true),
            ('0', KeyCode::KEY_0, false),
            ('~', KeyCode::KEY_GRAVE, true),
            ('|', KeyCode::KEY_BACKSLASH, true),
            ('?', KeyCode::KEY_SLASH, true),
            (']', KeyCode::KEY_RIGHTBRACE, false),
        ] {
            assert_eq!(typed(character), Some((key.0, shift)), "{character}");
        }
        assert_eq!(typed('\u{fc}'), None);
    }

    #[test]
    fn statuses_have_names() {
        assert_eq!(status(Event::new(0x11, 1, 1)), "LED_CAPSL 1");
        assert_eq!(status(Event::new(0x12, 2, 440)), "SND_TONE 440");
        assert_eq!(status(Event::new(0x14, 0, 250)), "REP_DELAY 250");
    }
}
