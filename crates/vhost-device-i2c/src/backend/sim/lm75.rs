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
