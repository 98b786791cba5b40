// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A 24Cxx EEPROM: a pointer that reads and writes go on from, and a buffer of one page that a stop condition writes.
//!
//! Up to 24c16 the pointer has one byte, and what it lacks for 512 bytes and more is in the address of the device. It
//! takes no time to write, so it never has to be polled.

use std::io;

use super::image::Image;
use super::{Device, Direction};

/// Most bytes of a page.
const MAX_PAGE: usize = 128;

/// What the chips of this family differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model {
    /// Bytes: a power of two.
    pub(super) size: usize,
    /// Bytes of a page: a power of two.
    page: usize,
    /// The pointer has two bytes instead of one.
    wide: bool,
}

impl Model {
    /// The chip `kind`, from `24c01` to `24c512`: after the `c` stands how many times 1024 bits it has.
    pub(super) fn named(kind: &str) -> Option<Self> {
        let (size, page, wide) = match kind.strip_prefix("24c")? {
            "01" => (128, 8, false),
            "02" => (256, 8, false),
            "04" => (512, 16, false),
            "08" => (1024, 16, false),
            "16" => (2048, 16, false),
            "32" => (4096, 32, true),
            "64" => (8192, 32, true),
            "128" => (16384, 64, true),
            "256" => (32768, 64, true),
            "512" => (65536, 128, true),
            _ => return None,
        };
        Some(Self { size, page, wide })
    }
}

pub(super) struct Eeprom {
    model: Model,
    image: Image,
    /// The byte that is next.
    pointer: usize,
    /// Which of the chip's addresses this message is for.
    block: usize,
    /// Bytes of the pointer that are still to come.
    pointer_bytes: u8,
    /// What the page of `pointer` gets at a stop condition, at the bytes whose bit in `written` is set.
    page: [u8; MAX_PAGE],
    written: u128,
}

impl Eeprom {
    /// A chip with what is in `image`, which has the size of `model`.
    pub(super) fn new(model: Model, image: Image) -> Self {
        let (page, written) = ([0; MAX_PAGE], 0);
        Self {
            model,
            image,
            pointer: 0,
            block: 0,
            pointer_bytes: 0,
            page,
            written,
        }
    }

    /// Takes one more byte of the pointer.
    fn point(&mut self, byte: u8) {
        let above = if self.model.wide { self.pointer } else { self.block };
        self.pointer = ((above << 8) | usize::from(byte)) & (self.model.size - 1);
    }

    /// Where the page of the pointer begins.
    fn page_start(&self) -> usize {
        self.pointer & !(self.model.page - 1)
    }

    /// Writes the page.
    fn store(&mut self) -> io::Result<()> {
        let start = self.page_start();
        let page = self.page.get_mut(..self.model.page).unwrap_or_default();
        for (at, byte) in page.iter_mut().enumerate() {
            if self.written >> at & 1 == 0 {
                *byte = self.image.byte(start + at);
            }
        }
        self.image.store(start, page)
    }
}

impl Device for Eeprom {
    fn addresses(&self) -> u16 {
        if self.model.wide {
            1
        } else {
            u16::try_from(self.model.size.div_ceil(256)).unwrap_or(1)
        }
    }

    fn start(&mut self, nth: u16, direction: Direction) -> bool {
        self.block = usize::from(nth);
        match direction {
            Direction::Write => self.pointer_bytes = if self.model.wide { 2 } else { 1 },
            // The address is the upper part of the pointer in a read, too.
            Direction::Read if self.addresses() > 1 => self.pointer = self.block << 8 | self.pointer & 0xff,
            Direction::Read => {}
        }
        true
    }

    fn write(&mut self, byte: u8) -> bool {
        if self.pointer_bytes > 0 {
            self.pointer_bytes -= 1;
            self.point(byte);
            return true;
        }
        let start = self.page_start();
        let at = self.pointer - start;
        if let Some(place) = self.page.get_mut(at) {
            *place = byte;
            self.written |= 1 << at;
        }
        // After the last byte of a page comes its first.
        self.pointer = start | (at + 1) & (self.model.page - 1);
        true
    }

    fn read(&mut self) -> u8 {
        let byte = self.image.byte(self.pointer);
        self.pointer = (self.pointer + 1) & (self.model.size - 1);
        byte
    }

    fn end(&mut self, stop: bool) -> io::Result<()> {
        // A start condition instead of a stop condition takes back what was to be written.
        let stored = if stop && self.written != 0 {
            self.store()
        } else {
            Ok(())
        };
        self.written = 0;
        stored
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vu_testkit::spawn::TempDir;

    use super::super::wire::{Wire, r, w};

    const AT: u8 = 0x50;

    #[test]
    fn random_and_current_address_reads() {
        let mut wire = Wire::new("24c02@0x50");
        assert_eq!(wire.ask(AT, &[0], 3), [0xff; 3]);
        wire.write(AT, &[0x10, 1, 2, 3]);
        // A random read points by a write that no stop condition ends.
        assert_eq!(wire.ask(AT, &[0x10], 2), [1, 2]);
        assert_eq!(wire.read(AT, 1), [3]);
        wire.write(AT, &[0x11]);
        assert_eq!(wire.read(AT, 1), [2]);
    }

    #[test]
    fn a_sequential_read_begins_again_at_the_end() {
        for (kind, last, first) in [
            ("24c01", &[0x7f][..], &[0x00][..]),
            ("24c02", &[0xff], &[0x00]),
            ("24c32", &[0x0f, 0xff], &[0, 0]),
            ("24c512", &[0xff, 0xff], &[0, 0]),
        ] {
            let mut wire = Wire::new(&format!("{kind}@0x50"));
            wire.write(AT, &[last, &[0xaa]].concat());
            wire.write(AT, &[first, &[0xbb]].concat());
            assert_eq!(wire.ask(AT, last, 3), [0xaa, 0xbb, 0xff], "{kind}");
        }
    }

    #[test]
    fn a_page_write_begins_again_in_its_page() {
        for (kind, pointer, page) in [
            ("24c01", &[0x08][..], 8),
            ("24c02", &[0x08][..], 8),
            ("24c16", &[0x10], 16),
            ("24c64", &[0x10, 0x20], 32),
            ("24c256", &[0x10, 0x40], 64),
            ("24c512", &[0x10, 0x80], 128),
        ] {
            let mut wire = Wire::new(&format!("{kind}@0x50"));
            // One byte more than a page: the last one goes where the first one was.
            let bytes: Vec<u8> = (0..=page).collect();
            wire.write(AT, &[pointer, &bytes].concat());
            let got = wire.ask(AT, pointer, usize::from(page) + 1);
            let mut expected = bytes.clone();
            expected[0] = page;
            expected[usize::from(page)] = 0xff;
            assert_eq!(got, expected, "{kind}");
        }
    }

    #[test]
    fn a_write_from_the_middle_of_a_page_stays_in_it() {
        let mut wire = Wire::new("24c02@0x50");
        wire.write(AT, &[0x0e, 1, 2, 3]);
        assert_eq!(wire.ask(AT, &[0x08], 8), [3, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2]);
        assert_eq!(wire.ask(AT, &[0x10], 1), [0xff]);
    }

    #[test]
    fn only_a_stop_condition_writes() {
        let mut wire = Wire::new("24c02@0x50,regs@0x20");
        wire.transfer([w(AT, &[0, 1]), r(AT, 1)]).unwrap();
        wire.transfer([w(AT, &[1, 1]), w(0x20, &[0, 1])]).unwrap();
        assert_eq!(wire.ask(AT, &[0], 2), [0xff, 0xff]);
        // Nothing of it is left for the next write, either.
        wire.write(AT, &[2, 7]);
        assert_eq!(wire.ask(AT, &[0], 3), [0xff, 0xff, 7]);
    }

    #[test]
    fn blocks_of_256_bytes_have_addresses_of_their_own() {
        let mut wire = Wire::new("24c16@0x50");
        for block in 0..8 {
            wire.write(AT + block, &[0x10, block]);
        }
        for block in 0..8 {
            assert_eq!(wire.ask(AT + block, &[0x10], 2), [block, 0xff]);
        }
        // A read goes on into the next block.
        wire.write(AT + 1, &[0x00, 0x99]);
        assert_eq!(wire.ask(AT, &[0xff], 2), [0xff, 0x99]);
        wire.transfer([r(0x58, 1)]).unwrap_err();
    }

    #[test]
    fn two_bytes_of_pointer_from_24c32_on() {
        let mut wire = Wire::new("24c32@0x50");
        wire.write(AT, &[0x01, 0x02, 0x77]);
        assert_eq!(wire.ask(AT, &[0x01, 0x02], 1), [0x77]);
        // Bits beyond the chip are not looked at.
        assert_eq!(wire.ask(AT, &[0xf1, 0x02], 1), [0x77]);
        assert_eq!(wire.ask(AT, &[0x01, 0x00], 3), [0xff, 0xff, 0x77]);
    }

    #[test]
    fn what_is_acknowledged_is_in_the_file() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("rom");
        let text = format!("24c04@0x50={}", path.display());
        let mut wire = Wire::new(&text);
        wire.write(AT + 1, &[0x21, 5, 6]);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 512);
        assert_eq!(bytes[0x11f..0x124], [0xff, 0xff, 5, 6, 0xff]);
        drop(wire);
        assert_eq!(Wire::new(&text).ask(AT + 1, &[0x21], 2), [5, 6]);
    }
}
