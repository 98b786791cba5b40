// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that never acknowledges: what is seen of one that is broken, or busy for ever.

use super::{Device, Direction};

pub(super) struct Nak;

impl Device for Nak {
    fn start(&mut self, _nth: u16, _direction: Direction) -> bool {
        false
    }

    fn write(&mut self, _byte: u8) -> bool {
        false
    }

    fn read(&mut self) -> u8 {
        // Nobody pulls the line down.
        0xff
    }
}
