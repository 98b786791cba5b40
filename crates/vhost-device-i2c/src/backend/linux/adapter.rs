// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One open adapter: transfers as the kernel takes them.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use i2cdev::core::{I2CDevice, I2CMessage, I2CTransfer};
use i2cdev::linux::{I2CMessageFlags, LinuxI2CBus, LinuxI2CDevice, LinuxI2CError, LinuxI2CMessage};

use super::super::{Address, Direction, Message};
use super::smbus::{self, Command, Functions};
use super::sys;

/// Most messages of a transfer: `I2C_RDWR_IOCTL_MAX_MSGS`.
const MAX_MESSAGES: usize = 42;
/// Most messages of an SMBus command.
const MAX_COMMAND: usize = 2;
/// Most bytes of a message that the kernel takes.
const MAX_BYTES: usize = 8192;
/// How long an address that was free is taken for free, and an adapter that was there for there. Both checks are system
/// calls, and a transfer is one.
const FRESH: Duration = Duration::from_millis(100);

/// How an adapter is used.
pub(super) enum Access {
    /// By messages, as they are.
    Messages(LinuxI2CBus),
    /// By SMBus commands.
    Commands(LinuxI2CDevice),
}

/// An adapter that is open.
pub(super) struct Adapter {
    access: Access,
    functions: Functions,
    /// Whether the kernel was told last that addresses have ten bits.
    ten_bits: bool,
    /// The address that was selected last, and when it was free.
    checked: Option<(Address, Instant)>,
}

/// A transfer that failed.
pub(super) struct Broken {
    /// How many messages were sent before, as far as the kernel says.
    pub(super) done: usize,
    /// The device that it failed for, if that is known.
    pub(super) whose: Option<Address>,
    pub(super) error: io::Error,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self {
            done: 0,
            whose: None,
            error,
        }
    }
}

impl From<LinuxI2CError> for Broken {
    fn from(error: LinuxI2CError) -> Self {
        io::Error::from(error).into()
    }
}

impl Adapter {
    /// Opens the device at `path`, and has the kernel give a transfer up after `timeout`.
    pub(super) fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        let bus = Access::Messages(LinuxI2CBus::new(path)?);
        let functions = Functions(sys::functions(&bus)?);
        let access = if functions.has(smbus::PLAIN) {
            bus
        } else {
            // Opening needs an address that no driver has; nobody is called by this.
            Access::Commands(LinuxI2CDevice::new(path, 0)?)
        };
        // The kernel counts in units of 10 ms, and none would mean not to wait at all.
        let units = timeout.as_millis().div_ceil(10).clamp(1, 100_000);
        sys::set_timeout(&access, usize::try_from(units).unwrap_or(1))?;
        sys::set_retries(&access, 0)?;
        Ok(Self {
            access,
            functions,
            ten_bits: false,
            checked: None,
        })
    }

    /// Whether a transfer was checked so lately that the next one need not be.
    pub(super) fn is_fresh(&self) -> bool {
        self.checked.is_some_and(|(_, at)| at.elapsed() < FRESH)
    }

    /// Whether the host still has it. The node of its device goes first.
    pub(super) fn is_there(&self) -> bool {
        rustix::fs::fstat(self.access.as_fd()).is_ok_and(|stat| stat.st_nlink > 0)
    }

    pub(super) fn max_messages(&self) -> usize {
        match self.access {
            Access::Messages(_) => MAX_MESSAGES,
            Access::Commands(_) => MAX_COMMAND,
        }
    }

    pub(super) fn transfer(&mut self, messages: &mut [Message]) -> Result<(), Broken> {
        self.check(messages)?;
        match &mut self.access {
            Access::Messages(bus) => send(bus, messages),
            Access::Commands(device) => {
                let command =
                    smbus::command(self.functions, messages).map_err(|lacks| lacking(lacks.name))?;
                let got = perform(device, command)?;
                let wanted = messages
                    .last_mut()
                    .filter(|last| last.direction == Direction::Read);
                let Some(wanted) = wanted else { return Ok(()) };
                if got.len() != wanted.data.len() {
                    let text = format!("{} bytes came instead of {}", got.len(), wanted.data.len());
                    return Err(io::Error::other(text).into());
                }
                wanted.data.copy_from_slice(&got);
                Ok(())
            }
        }
    }

    /// Refuses what the kernel would not, and devices that a driver of the host has.
    fn check(&mut self, messages: &[Message]) -> Result<(), Broken> {
        if let Some(long) = messages
            .iter()
            .map(|message| message.data.len())
            .find(|len| *len > MAX_BYTES)
        {
            let text = format!("a message of {long} bytes is too long (at most {MAX_BYTES})");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
        }
        let fresh = self.is_fresh();
        for message in messages {
            let address = message.address;
            if fresh && self.checked.is_some_and(|(last, _)| last == address) {
                continue;
            }
            self.checked = None;
            let whose = Some(address);
            self.select(address).map_err(|error| Broken {
                done: 0,
                whose,
                error,
            })?;
            self.checked = Some((address, Instant::now()));
        }
        Ok(())
    }

    /// Makes `address` the one that SMBus commands are for. It must be free, for messages, too.
    fn select(&mut self, address: Address) -> io::Result<()> {
        let (number, ten_bits) = match address {
            Address::Seven(number) => (number.into(), false),
            Address::Ten(number) => (number, true),
        };
        if ten_bits && !self.functions.has(smbus::TEN_BITS) {
            return Err(lacking(smbus::TEN_BITS.name));
        }
        if ten_bits != self.ten_bits {
            sys::set_ten_bits(&self.access, ten_bits)?;
            self.ten_bits = ten_bits;
        }
        sys::set_address(&self.access, number)
    }
}

fn lacking(function: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("the adapter lacks {function}"),
    )
}

fn send(bus: &mut LinuxI2CBus, messages: &mut [Message]) -> Result<(), Broken> {
    let mut list: Vec<LinuxI2CMessage<'_>> = messages.iter_mut().map(kernel_message).collect();
    let done = bus.transfer(&mut list)? as usize;
    match messages.get(done) {
        None => Ok(()),
        // The kernel does not say why; most drivers of adapters stop so when nobody acknowledges.
        Some(failed) => {
            let whose = Some(failed.address);
            let error = io::Error::new(io::ErrorKind::NotFound, "not acknowledged, or not sent");
            Err(Broken { done, whose, error })
        }
    }
}

fn kernel_message(message: &mut Message) -> LinuxI2CMessage<'_> {
    let (address, mut flags) = match message.address {
        Address::Seven(number) => (number.into(), I2CMessageFlags::empty()),
        Address::Ten(number) => (number, I2CMessageFlags::TEN_BIT_ADDRESS),
    };
    let made = match message.direction {
        Direction::Read => {
            flags |= I2CMessageFlags::READ;
            LinuxI2CMessage::read(&mut message.data)
        }
        Direction::Write => LinuxI2CMessage::write(&message.data),
    };
    made.with_address(address).with_flags(flags)
}

/// Does a command. What it read, in the order of the wire.
fn perform(device: &mut LinuxI2CDevice, command: Command<'_>) -> Result<Vec<u8>, LinuxI2CError> {
    let word = |word: u16| word.to_le_bytes().to_vec();
    match command {
        Command::Quick(direction) => device.smbus_write_quick(direction == Direction::Read)?,
        Command::WriteByte(value) => device.smbus_write_byte(value)?,
        Command::WriteByteData(code, value) => device.smbus_write_byte_data(code, value)?,
        Command::WriteWordData(code, value) => device.smbus_write_word_data(code, value)?,
        Command::WriteBlock(code, block) => device.smbus_write_block_data(code, block)?,
        Command::WriteI2cBlock(code, block) => device.smbus_write_i2c_block_data(code, block)?,
        Command::ReadByte => return Ok(vec![device.smbus_read_byte()?]),
        Command::ReadByteData(code) => return Ok(vec![device.smbus_read_byte_data(code)?]),
        Command::ReadWordData(code) => return device.smbus_read_word_data(code).map(word),
        Command::ProcessCall(code, value) => return device.smbus_process_word(code, value).map(word),
        Command::ReadI2cBlock(code, len) => return device.smbus_read_i2c_block_data(code, len),
    }
    Ok(Vec::new())
}
