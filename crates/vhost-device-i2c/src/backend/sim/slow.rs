// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bank of registers that holds the clock low for a while after each start condition.

use std::time::Duration;

use super::regs::Regs;
use super::{Device, Direction};

pub(super) struct Slow {
    regs: Regs,
    stretch: Duration,
}

impl Slow {
    pub(super) fn new(stretch: Duration) -> Self {
        Self {
            regs: Regs::new(),
            stretch,
        }
    }
}

impl Device for Slow {
    fn stretches(&self) -> bool {
        true
    }

    fn start(&mut self, nth: u16, direction: Direction) -> bool {
        std::thread::sleep(self.stretch);
        self.regs.start(nth, direction)
    }

    fn write(&mut self, byte: u8) -> bool {
        self.regs.write(byte)
    }

    fn read(&mut self) -> u8 {
        self.regs.read()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::wire::Wire;

    #[test]
    fn each_message_takes_its_time() {
        let mut wire = Wire::new("slow@0x31=20ms");
        let start = Instant::now();
        wire.write(0x31, &[7, 9]);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(wire.ask(0x31, &[7], 1), [9]);
        assert!(start.elapsed() >= Duration::from_millis(60));
    }
}
