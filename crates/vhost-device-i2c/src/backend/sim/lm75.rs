// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An LM75 temperature sensor: the temperature is what it was told to be, the limits and the configuration can be
//! written. It has no pin that its comparator could pull.

use super::{Device, Direction};

/// Degrees that it can measure.
pub(super) const RANGE: std::ops::RangeInclusive<f32> = -55.0..=125.0;

const TEMPERATURE: u8 = 0;
const CONFIGURATION: u8 = 1;
const HYSTERESIS: u8 = 2;
const OVER_TEMPERATURE: u8 = 3;

/// The bits of the configuration that exist; the others read as 0.
const CONFIGURATION_BITS: u8 = 0x1f;
/// The bits of a temperature that exist: nine, of half a degree each, at the upper end of two bytes.
const TEMPERATURE_BITS: u16 = 0xff80;

pub(super) struct Lm75 {
    temperature: u16,
    configuration: u8,
    hysteresis: u16,
    over_temperature: u16,
    pointer: u8,
    /// What a read shifts out, over and over.
    output: [u8; 2],
    /// Bytes of this message.
    count: usize,
    /// The first byte of two that are written.
    high: u8,
}

impl Lm75 {
    /// A sensor that measures `degrees`, after power-on.
    pub(super) fn new(degrees: f32) -> Self {
        Self {
            temperature: register(degrees),
            configuration: 0,
            hysteresis: register(75.0),
            over_temperature: register(80.0),
            pointer: 0,
            output: [0; 2],
            count: 0,
            high: 0,
        }
    }

    /// The register that the pointer selects fills the output. There is none for 4 to 7, so the output stays what it
    /// was: drivers that look for this chip know it by that, and by its registers appearing again from 8 on.
    fn select(&mut self) {
        self.output = match self.pointer & 7 {
            TEMPERATURE => self.temperature.to_be_bytes(),
            CONFIGURATION => [self.configuration; 2],
            HYSTERESIS => self.hysteresis.to_be_bytes(),
            OVER_TEMPERATURE => self.over_temperature.to_be_bytes(),
            _ => self.output,
        };
    }
}

/// A temperature as its registers have it.
fn register(degrees: f32) -> u16 {
    let half_degrees = (degrees.clamp(*RANGE.start(), *RANGE.end()) * 2.0).round() as i16;
    half_degrees.cast_unsigned() << 7
}

impl Device for Lm75 {
    fn start(&mut self, _nth: u16, direction: Direction) -> bool {
        self.count = 0;
        if direction == Direction::Read {
            self.select();
        }
        true
    }

    fn write(&mut self, byte: u8) -> bool {
        let wide = u16::from_be_bytes([self.high, byte]) & TEMPERATURE_BITS;
        match (self.count, self.pointer & 7) {
            (0, _) => self.pointer = byte,
            (1, CONFIGURATION) => self.configuration = byte & CONFIGURATION_BITS,
            (1, _) => self.high = byte,
            (2, HYSTERESIS) => self.hysteresis = wide,
            (2, OVER_TEMPERATURE) => self.over_temperature = wide,
            _ => {}
        }
        self.count = self.count.saturating_add(1);
        true
    }

    fn read(&mut self) -> u8 {
        let [high, low] = self.output;
        let byte = if self.count.is_multiple_of(2) { high } else { low };
        self.count = self.count.wrapping_add(1);
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Wire;

    const AT: u8 = 0x48;

    #[test]
    fn power_on_defaults() {
        let mut wire = Wire::new("lm75@0x48");
        // The pointer is at the temperature, and the limits are 75 and 80 degrees.
        assert_eq!(wire.read(AT, 2), [25, 0]);
        assert_eq!(wire.ask(AT, &[1], 1), [0]);
        assert_eq!(wire.ask(AT, &[2], 2), [0x4b, 0]);
        assert_eq!(wire.ask(AT, &[3], 2), [0x50, 0]);
    }

    #[test]
    fn temperatures_of_the_data_sheet() {
        let table: [(&str, [u8; 2]); 8] = [
            ("125", [0x7d, 0x00]),
            ("25", [0x19, 0x00]),
            ("0.5", [0x00, 0x80]),
            ("0", [0x00, 0x00]),
            ("-0.5", [0xff, 0x80]),
            ("-25", [0xe7, 0x00]),
            ("-55", [0xc9, 0x00]),
            ("23.4", [0x17, 0x80]),
        ];
        for (degrees, bytes) in table {
            let mut wire = Wire::new(&format!("lm75@0x48={degrees}"));
            assert_eq!(wire.ask(AT, &[0], 2), bytes, "{degrees}");
        }
    }

    #[test]
    fn the_pointer_is_kept() {
        let mut wire = Wire::new("lm75@0x48");
        wire.write(AT, &[3]);
        assert_eq!(wire.read(AT, 2), [0x50, 0]);
        assert_eq!(wire.read(AT, 2), [0x50, 0]);
    }

    #[test]
    fn writes_keep_the_bits_that_exist() {
        let mut wire = Wire::new("lm75@0x48=23.5");
        wire.write(AT, &[1, 0xff]);
        assert_eq!(wire.ask(AT, &[1], 1), [0x1f]);
        wire.write(AT, &[2, 0x12, 0xff]);
        assert_eq!(wire.ask(AT, &[2], 2), [0x12, 0x80]);
        wire.write(AT, &[3, 0xe7, 0x7f]);
        assert_eq!(wire.ask(AT, &[3], 2), [0xe7, 0x00]);
        // The temperature cannot be written, and half a limit changes nothing.
        wire.write(AT, &[0, 0x11, 0x00]);
        assert_eq!(wire.ask(AT, &[0], 2), [23, 0x80]);
        wire.write(AT, &[3, 0x11]);
        assert_eq!(wire.ask(AT, &[3], 2), [0xe7, 0x00]);
    }

    /// How Linux tells this chip from others: single bytes of registers that do not exist.
    #[test]
    fn is_known_by_the_registers_that_it_lacks() {
        let mut wire = Wire::new("lm75@0x48");
        for (register, byte) in [(2, 0x4b), (3, 0x50)] {
            assert_eq!(wire.ask(AT, &[register], 1), [byte]);
            for missing in 4..8 {
                assert_eq!(wire.ask(AT, &[missing], 1), [byte], "{missing}");
            }
        }
        for base in (8..=248).step_by(40) {
            assert_eq!(wire.ask(AT, &[base + 1], 1), [0]);
            assert_eq!(wire.ask(AT, &[base + 2], 1), [0x4b]);
            assert_eq!(wire.ask(AT, &[base + 3], 1), [0x50]);
        }
    }
}
