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
