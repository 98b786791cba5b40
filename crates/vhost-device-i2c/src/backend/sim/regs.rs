// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bank of 256 registers of one byte, 0 at first. The first byte of a write is the number of a register, further ones
//! go to it and the ones after it; reads go on from there. After register 255 comes 0.

use super::{Device, Direction};

pub(super) struct Regs {
    registers: [u8; 256],
    pointer: u8,
    /// The next byte that is written is the number of a register.
    addressed: bool,
}

impl Regs {
    pub(super) fn new() -> Self {
        Self {
            registers: [0; 256],
            pointer: 0,
            addressed: false,
        }
    }

    fn next(&mut self) -> Option<&mut u8> {
        let at = usize::from(self.pointer);
        self.pointer = self.pointer.wrapping_add(1);
        self.registers.get_mut(at)
    }
}

impl Device for Regs {
    fn start(&mut self, _nth: u16, direction: Direction) -> bool {
        self.addressed = direction == Direction::Write;
        true
    }

    fn write(&mut self, byte: u8) -> bool {
        if std::mem::take(&mut self.addressed) {
            self.pointer = byte;
        } else if let Some(register) = self.next() {
            *register = byte;
        }
        true
    }

    fn read(&mut self) -> u8 {
        self.next().map_or(0xff, |register| *register)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Wire, r, w};

    #[test]
    fn count_up_and_begin_again() {
        let mut wire = Wire::new("regs@0x20");
        assert_eq!(wire.read(0x20, 2), [0, 0]);
        wire.write(0x20, &[0xfe, 1, 2, 3]);
        assert_eq!(wire.ask(0x20, &[0xfe], 4), [1, 2, 3, 0]);
        // Reads go on where the last one ended, in this transfer and the next.
        assert_eq!(
            wire.transfer([w(0x20, &[0xfe]), r(0x20, 1), r(0x20, 1)]).unwrap(),
            [2]
        );
        assert_eq!(wire.read(0x20, 1), [3]);
    }

    #[test]
    fn a_write_without_bytes_keeps_the_pointer() {
        let mut wire = Wire::new("regs@0x20");
        wire.write(0x20, &[0x10, 5]);
        wire.write(0x20, &[0x10]);
        wire.write(0x20, &[]);
        assert_eq!(wire.read(0x20, 1), [5]);
    }

    #[test]
    fn writes_of_one_transfer_all_count() {
        let mut wire = Wire::new("regs@0x20");
        wire.transfer([w(0x20, &[1, 11]), w(0x20, &[2, 12])]).unwrap();
        assert_eq!(wire.ask(0x20, &[1], 2), [11, 12]);
    }
}
