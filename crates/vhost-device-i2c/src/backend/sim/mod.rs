// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated bus. Needs no hardware, and answers as the data sheets of its devices say.
//!
//! A new kind of device is one file that implements [`Device`], and one line in `parse.rs`.

mod eeprom;
mod image;
mod lm75;
mod nak;
mod parse;
mod regs;
mod slow;

use std::io;

use super::{Address, Bus, Direction, Failure, Message, Waits};

/// What a chip does between a start and a stop condition. It knows neither its address nor the bus.
pub(crate) trait Device: Send {
    /// How many addresses it has, one after the other.
    fn addresses(&self) -> u16 {
        1
    }

    /// Whether it stretches the clock, so that a transfer takes long.
    fn stretches(&self) -> bool {
        false
    }

    /// A start condition with the `nth` of its addresses, counted from 0. True if it acknowledges.
    fn start(&mut self, nth: u16, direction: Direction) -> bool;

    /// A byte to it. True if it acknowledges.
    fn write(&mut self, byte: u8) -> bool;

    /// A byte from it.
    fn read(&mut self) -> u8;

    /// The end of what came after [`Device::start`]: a stop condition, or else another start condition, which may be
    /// for another device.
    ///
    /// # Errors
    /// The host could not keep what was written.
    fn end(&mut self, stop: bool) -> io::Result<()> {
        let _ = stop;
        Ok(())
    }
}

/// A device and where it is.
struct Place {
    /// Its first address.
    address: Address,
    device: Box<dyn Device>,
}

impl Place {
    /// Which of its addresses `address` is.
    fn nth(&self, address: Address) -> Option<u16> {
        let nth = match (self.address, address) {
            (Address::Seven(first), Address::Seven(at)) => u16::from(at).checked_sub(first.into()),
            (Address::Ten(first), Address::Ten(at)) => at.checked_sub(first),
            _ => None,
        };
        nth.filter(|nth| *nth < self.device.addresses())
    }
}

struct SimBus {
    name: String,
    places: Vec<Place>,
}

/// Builds the bus of `devices`, a list of `KIND@ADDRESS[=ARGUMENT]` with commas.
///
/// # Errors
/// What is wrong with the text, or with a file that it names.
pub fn open(devices: &str) -> anyhow::Result<Box<dyn Bus>> {
    let places = parse::bus(devices)?;
    let name = format!("sim:{devices}");
    Ok(Box::new(SimBus { name, places }))
}

impl SimBus {
    fn message(&mut self, message: &mut Message, last: bool) -> io::Result<()> {
        let address = message.address;
        let mut found = self
            .places
            .iter_mut()
            .filter_map(|place| Some((place.nth(address)?, place)));
        let Some((nth, place)) = found.next() else {
            return Err(nak(address, "nothing answers"));
        };
        let device = &mut place.device;
        if !device.start(nth, message.direction) {
            return Err(nak(address, "not acknowledged"));
        }
        let acknowledged = match message.direction {
            Direction::Read => {
                message.data.fill_with(|| device.read());
                true
            }
            Direction::Write => message.data.iter().all(|byte| device.write(*byte)),
        };
        // A host ends a transfer that is not acknowledged with a stop condition.
        let ended = device.end(last || !acknowledged);
        ended.map_err(|e| io::Error::new(e.kind(), format!("sim: {address}: {e}")))?;
        if acknowledged {
            Ok(())
        } else {
            Err(nak(address, "a byte is not acknowledged"))
        }
    }
}

/// What adapters of Linux call `ENXIO`: no acknowledge.
fn nak(address: Address, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("sim: {address}: {what}"))
}

impl Bus for SimBus {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn waits(&self) -> Waits {
        if self.places.iter().any(|place| place.device.stretches()) {
            Waits::Always
        } else {
            Waits::Never
        }
    }

    fn max_messages(&self) -> usize {
        usize::MAX
    }

    fn transfer(&mut self, messages: &mut [Message]) -> Result<(), Failure> {
        let count = messages.len();
        for (done, message) in messages.iter_mut().enumerate() {
            let result = self.message(message, done + 1 == count);
            result.map_err(|error| Failure { done, error })?;
        }
        Ok(())
    }
}

/// What tests of devices say on a simulated bus.
#[cfg(test)]
mod wire {
    use super::{Address, Bus, Direction, Failure, Message};

    pub(crate) struct Wire(Box<dyn Bus>);

    /// A message that writes `bytes`.
    pub(crate) fn w(address: u8, bytes: &[u8]) -> Message {
        let address = Address::Seven(address);
        Message {
            address,
            direction: Direction::Write,
            data: bytes.to_vec(),
        }
    }

    /// A message that reads `count` bytes.
    pub(crate) fn r(address: u8, count: usize) -> Message {
        let address = Address::Seven(address);
        // Not what any device answers, so that a byte that is not replaced is seen.
        Message {
            address,
            direction: Direction::Read,
            data: vec![0xa5; count],
        }
    }

    impl Wire {
        pub(crate) fn new(devices: &str) -> Self {
            Self(super::open(devices).unwrap())
        }

        /// One transfer. What its last message has in the end.
        pub(crate) fn transfer<const N: usize>(
            &mut self,
            mut messages: [Message; N],
        ) -> Result<Vec<u8>, Failure> {
            self.0.transfer(&mut messages)?;
            Ok(messages.into_iter().next_back().unwrap().data)
        }

        pub(crate) fn write(&mut self, address: u8, bytes: &[u8]) {
            self.transfer([w(address, bytes)]).unwrap();
        }

        pub(crate) fn read(&mut self, address: u8, count: usize) -> Vec<u8> {
            self.transfer([r(address, count)]).unwrap()
        }

        /// Writes, then reads after a repeated start condition.
        pub(crate) fn ask(&mut self, address: u8, bytes: &[u8], count: usize) -> Vec<u8> {
            self.transfer([w(address, bytes), r(address, count)]).unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::wire::{Wire, r, w};
    use super::*;

    #[test]
    fn nobody_at_an_address_is_no_acknowledge() {
        let mut wire = Wire::new("regs@0x20,nak@0x30,regs@t0x120");
        for address in [0x21, 0x30, 0x1f, 0x00, 0x7f] {
            for message in [w(address, &[1]), w(address, &[]), r(address, 1), r(address, 0)] {
                let failure = wire.transfer([message]).unwrap_err();
                assert_eq!(failure.done, 0);
                assert_eq!(failure.error.kind(), io::ErrorKind::NotFound);
                let text = failure.error.to_string();
                assert!(text.starts_with(&format!("sim: {address:#04x}: ")), "{text}");
            }
        }
    }

    #[test]
    fn a_message_of_no_bytes_finds_a_device() {
        let mut wire = Wire::new("regs@0x20,24c02@0x50,lm75@0x48,slow@0x31=0us");
        for address in [0x20, 0x50, 0x48, 0x31] {
            assert!(wire.transfer([w(address, &[])]).is_ok(), "{address:#x}");
            assert!(wire.transfer([r(address, 0)]).is_ok(), "{address:#x}");
        }
    }

    #[test]
    fn nothing_is_sent_after_a_failure() {
        let mut wire = Wire::new("regs@0x20,nak@0x30");
        let failure = wire
            .transfer([w(0x20, &[0, 1]), w(0x30, &[0]), w(0x20, &[0, 2])])
            .unwrap_err();
        assert_eq!(failure.done, 1);
        assert_eq!(wire.ask(0x20, &[0], 1), [1]);
    }

    #[test]
    fn addresses_of_seven_and_of_ten_bits_are_different() {
        let mut bus = open("regs@0x20,regs@t0x20,24c04@t0x152").unwrap();
        let mut transfer = |address, direction, data: &[u8]| {
            let mut messages = [Message {
                address,
                direction,
                data: data.to_vec(),
            }];
            bus.transfer(&mut messages).map(|()| messages[0].data.clone())
        };
        transfer(Address::Ten(0x20), Direction::Write, &[0, 7]).unwrap();
        transfer(Address::Ten(0x20), Direction::Write, &[0]).unwrap();
        transfer(Address::Seven(0x20), Direction::Write, &[0]).unwrap();
        assert_eq!(transfer(Address::Ten(0x20), Direction::Read, &[9]).unwrap(), [7]);
        assert_eq!(
            transfer(Address::Seven(0x20), Direction::Read, &[9]).unwrap(),
            [0]
        );
        transfer(Address::Ten(0x153), Direction::Read, &[9]).unwrap();
        transfer(Address::Ten(0x154), Direction::Read, &[9]).unwrap_err();
        transfer(Address::Ten(0x151), Direction::Read, &[9]).unwrap_err();
    }

    #[test]
    fn only_a_bus_with_a_device_that_stretches_has_to_wait() {
        let waits = |devices| open(devices).unwrap().waits();
        assert_eq!(waits("24c02@0x50,lm75@0x48,regs@0x20,nak@0x30"), Waits::Never);
        assert_eq!(waits("regs@0x20,slow@0x31=1ms"), Waits::Always);
    }

    #[test]
    fn is_called_as_it_was_asked_for() {
        assert_eq!(open("regs@0x20,nak@48").unwrap().name(), "sim:regs@0x20,nak@48");
    }
}
