// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The I2C adapter (virtio, "I2C Adapter Device"): reads and writes of registers and of a sensor in turns, and the names
//! of its wire format for tests of its own.

use super::Profile;
use crate::chains::{Framing, Request};
use crate::spawn::Launch;

/// Length of a request's header in bytes.
pub const HEADER: usize = 8;
/// The feature `VIRTIO_I2C_F_ZERO_LENGTH_REQUEST`, as a mask.
pub const F_ZERO_LENGTH_REQUEST: u64 = 1;

/// Flags of a request, as masks.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod flag {
    pub const FAIL_NEXT: u32 = 1;
    pub const M_RD: u32 = 2;
}

/// Values of the status byte.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod status {
    pub const OK: u8 = 0;
    pub const ERR: u8 = 1;
}

/// Address of 256 registers.
pub const REGISTERS: u8 = 0x20;
/// Address of a sensor that reads [`DEGREES`], over and over.
pub const SENSOR: u8 = 0x48;
/// 23.5 degrees, as a sensor of the kind LM75 gives them.
pub const DEGREES: [u8; 2] = [0x17, 0x80];
/// An address at which nobody is.
pub const NOBODY: u8 = 0x21;

/// How our own daemon is started for the table: a bus that never waits.
pub const ARGS: &[&str] = &["--bus", "sim:regs@0x20,lm75@0x48=23.5"];
/// The same with a bus on which one device may make others wait.
pub const ARGS_BLOCKING: &[&str] = &["--bus", "sim:regs@0x20,lm75@0x48=23.5,slow@0x31=1ms"];

/// Most bytes of one message of this profile.
const LONGEST: usize = 1024;

/// A write of `data` to a device with a 7-bit address.
#[must_use]
pub fn write(address: u8, flags: u32, data: &[u8]) -> Request {
    let mut readable = (u16::from(address) << 1).to_le_bytes().to_vec();
    readable.extend([0; 2]);
    readable.extend(flags.to_le_bytes());
    readable.extend(data);
    Request {
        readable,
        writable: 1,
    }
}

/// A read of `len` bytes from a device with a 7-bit address.
#[must_use]
pub fn read(address: u8, flags: u32, len: usize) -> Request {
    Request {
        writable: len + 1,
        ..write(address, flags | flag::M_RD, &[])
    }
}

/// What this profile writes to a register.
#[must_use]
pub fn pattern(register: u8) -> u8 {
    register.wrapping_add(1)
}

/// The profile of the I2C adapter.
#[derive(Clone, Copy, Debug)]
pub struct I2c;

/// The profile of the I2C adapter.
#[must_use]
pub fn i2c() -> I2c {
    I2c
}

impl Profile for I2c {
    fn name(&self) -> &'static str {
        "i2c"
    }

    fn virtio_id(&self) -> u32 {
        34
    }

    fn queues(&self) -> u16 {
        1
    }

    /// Linux gives the header, the data and the status a descriptor each.
    fn framing(&self) -> Framing {
        Framing::Fields(HEADER, 1)
    }

    fn features(&self) -> u64 {
        F_ZERO_LENGTH_REQUEST
    }

    /// Of four requests one fills registers, one selects a register, and two read from there and from the sensor. Every
    /// second read of registers is not where the last write ended.
    fn request(&self, number: u64, size: usize) -> Request {
        let first = number.to_le_bytes()[0].wrapping_mul(29);
        let len = size.clamp(1, LONGEST);
        match number % 8 {
            1 | 5 => {
                let mut data = vec![first];
                let registers = (0..=u8::MAX).cycle().skip(first.into());
                data.extend(registers.take(len).map(pattern));
                write(REGISTERS, 0, &data)
            }
            3 => write(REGISTERS, 0, &[first]),
            2 | 4 | 6 => read(REGISTERS, 0, len),
            _ => read(SENSOR, 0, len),
        }
    }

    /// Which register a read begins with is not known when requests were made again after a crash, but what follows it
    /// is; a register that was not written since the daemon started is 0.
    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        let (&status, data) = answer.split_last().ok_or("the request has no status")?;
        let address = request.readable.first().map_or(0, |byte| byte >> 1);
        if status != status::OK {
            return Err(format!("address {address:#x}: status {status}"));
        }
        let used = used as usize;
        let len = answer.len();
        // The driver of a read may rely on no more than the used length says.
        if used > len || (used < len && !data.is_empty()) || used == 0 {
            return Err(format!(
                "address {address:#x}: used length {used} of {len} writable bytes"
            ));
        }
        let wrong = if address == SENSOR {
            data.chunks(2)
                .position(|chunk| !DEGREES.starts_with(chunk))
                .map(|at| at * 2)
        } else {
            out_of_sequence(data)
        };
        match wrong {
            None => Ok(()),
            Some(at) => Err(format!(
                "address {address:#x}: byte {at} of a read and on is {:x?}",
                &data[at..data.len().min(at + 8)]
            )),
        }
    }

    /// Makes the registers stretch the clock.
    fn slow(&self, launch: &Launch) -> Option<Launch> {
        let mut slow = launch.clone();
        let bus = slow.args.iter_mut().find(|arg| arg.starts_with("sim:regs@"))?;
        *bus = bus.replacen("regs@0x20", "slow@0x20=50ms", 1);
        Some(slow)
    }
}

/// Where bytes that are not 0 stop to count on from the first of them.
fn out_of_sequence(data: &[u8]) -> Option<usize> {
    let start = data.iter().position(|byte| *byte != 0)?;
    let counted = (0..=u8::MAX).cycle().skip(data[start].into());
    let mut pairs = data[start..].iter().zip(counted);
    pairs
        .position(|(got, expected)| *got != expected && *got != 0)
        .map(|at| start + at)
}

#[cfg(test)]
mod tests {
    use super::{DEGREES, I2c, Profile, REGISTERS, SENSOR, flag, i2c, out_of_sequence, read, status, write};
    use crate::devices::FILL;
    use crate::spawn::Launch;

    #[test]
    fn a_request_on_the_wire_is_little_endian_and_its_address_shifted() {
        assert_eq!(
            write(0x51, flag::FAIL_NEXT, &[7]).readable,
            [0xa2, 0, 0, 0, 1, 0, 0, 0, 7]
        );
        let request = read(REGISTERS, 0, 5);
        assert_eq!((&request.readable[4..], request.writable), (&[2, 0, 0, 0][..], 6));
    }

    #[test]
    fn a_byte_that_is_missing_or_wrong_is_found() {
        let request = read(SENSOR, 0, 3);
        let [high, low] = DEGREES;
        assert!(I2c.check(&request, 4, &[high, low, high, status::OK]).is_ok());
        assert!(I2c.check(&request, 4, &[high, low, high, status::ERR]).is_err());
        assert!(I2c.check(&request, 4, &[high, low, low, status::OK]).is_err());
        assert!(I2c.check(&request, 1, &[high, low, high, status::OK]).is_err());
        assert!(I2c.check(&request, 4, &[FILL; 4]).is_err());
    }

    #[test]
    fn registers_count_on_or_are_0() {
        assert_eq!(out_of_sequence(&[]), None);
        assert_eq!(out_of_sequence(&[0, 0, 3, 4, 0, 6]), None);
        assert_eq!(out_of_sequence(&[254, 255, 0, 1]), None);
        assert_eq!(out_of_sequence(&[0, 3, 4, 4]), Some(3));
        assert_eq!(out_of_sequence(&[FILL; 3]), Some(1));
    }

    #[test]
    fn what_the_registers_are_written_with_is_what_a_read_accepts() {
        let readable = i2c().request(5, 600).readable;
        assert_eq!(readable.len(), 8 + 1 + 600);
        assert_eq!(readable[9], readable[8].wrapping_add(1));
        assert_eq!(out_of_sequence(&readable[9..]), None);
    }

    #[test]
    fn slow_is_another_bus() {
        let launch = Launch::ours("daemon", super::ARGS);
        let slow = i2c().slow(&launch).unwrap();
        assert_eq!(slow.args.last().unwrap(), "sim:slow@0x20=50ms,lm75@0x48=23.5");
        assert!(i2c().slow(&Launch::ours("daemon", &[])).is_none());
    }
}
