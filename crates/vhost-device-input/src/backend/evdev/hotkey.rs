// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The keys that, held down together, give a device from the guest to the host and back.

use std::collections::BTreeSet;

use crate::backend::names;
use crate::request::Event;
use crate::spec::EV_KEY;

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(BTreeSet<u16>);

/// Reads `leftctrl+rightctrl`.
///
/// # Errors
/// No key is called so.
pub fn parse_keys(text: &str) -> Result<Keys, String> {
    text.split('+')
        .map(names::key)
        .collect::<Result<_, _>>()
        .map(Keys)
}

/// Which of the keys are down.
#[derive(Debug)]
pub(super) struct Hotkey {
    keys: Keys,
    down: BTreeSet<u16>,
}

impl Hotkey {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            down: BTreeSet::new(),
        }
    }

    /// Nothing is known of what is down.
    pub(super) fn forget(&mut self) {
        self.down.clear();
    }

    /// Takes a frame in. True if the last of the keys went down in it.
    pub(super) fn completes(&mut self, frame: &[Event]) -> bool {
        let mut complete = false;
        for event in frame {
            if event.kind != EV_KEY || !self.keys.0.contains(&event.code) {
                continue;
            }
            if event.value == 0 {
                self.down.remove(&event.code);
            } else if self.down.insert(event.code) {
                complete |= self.down == self.keys.0;
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::{Hotkey, parse_keys};
    use crate::request::Event;
    use crate::spec::EV_KEY;

    #[test]
    fn the_last_key_of_all_completes_it_once() {
        let mut hotkey = Hotkey::new(parse_keys("leftctrl+KEY_RIGHTCTRL").unwrap());
        let mut press = |code, value| hotkey.completes(&[Event::new(EV_KEY, code, value)]);
        for (code, value, complete) in [
            (29, 1, false),
            (30, 1, false),
            (97, 1, true),
            (97, 2, false),
            (97, 0, false),
            (97, 1, true),
            (29, 0, false),
            (97, 0, false),
            (97, 1, false),
        ] {
            assert_eq!(press(code, value), complete, "{code} {value}");
        }
        press(29, 1);
        hotkey.forget();
        assert!(
            !hotkey.completes(&[Event::new(EV_KEY, 29, 1)]),
            "the other is not known to be down"
        );
        assert_eq!(parse_keys("leftctrl+").unwrap_err(), "no key is called ");
    }
}
