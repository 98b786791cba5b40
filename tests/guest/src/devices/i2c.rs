// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An i2c bus in use, whatever the adapter is.
//!
//! Options: `bus=PATH` (`/dev/i2c-0`) and `do=ACTION`, with addresses and bytes in hexadecimal:
//! * `transfer,m=51w00dead+51r4`: messages as one transfer, here a write of three bytes and a read of four. Finds the
//!   bytes that were `read` by each message, and the `seconds` that it took.
//!   A write of no bytes is `51w`, a read of none `51r0`.
//! * `detect,by=quick|read`: asks all addresses that may be probed, by a write of no bytes or a read of one. Finds those
//!   where something `answered`.
//! * `smbus,at=50`: each SMBus command that a device of registers can be asked. Finds what was read.
//! * `load,m=...,seconds=S`: the same transfer again and again, for so long. The event `loading` says that it has begun.
//!   Finds how often it went `well` and how often it `failed`.
//! * `chip,at=50,driver=24c02,file=NAME`: has a driver of the kernel take a device, and finds what its `file` holds, of
//!   at most `bytes=16`; `write=dead` writes that to it first. The file may have one `*` in it.

use crate::report;
use crate::task::{Options, Task};
use anyhow::{Context, bail};
use i2cdev::core::{I2CDevice, I2CMessage, I2CTransfer};
use i2cdev::linux::{I2CMessageFlags, LinuxI2CBus, LinuxI2CDevice, LinuxI2CError, LinuxI2CMessage};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ACTIONS: &[(&str, Task)] = &[
    ("transfer", transfer),
    ("detect", detect),
    ("smbus", smbus),
    ("load", load),
    ("chip", chip),
];

/// Runs one action.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    super::act(options, ACTIONS, "transfer")
}

/// The adapter's path, as soon as the driver has found it.
fn path(options: &Options) -> anyhow::Result<PathBuf> {
    let path = options.get("bus", PathBuf::from("/dev/i2c-0"))?;
    super::appears(&path)?;
    Ok(path)
}

/// One message: the bytes to write, or room for those to read.
struct Message {
    address: u16,
    read: bool,
    bytes: Vec<u8>,
}

/// `51w00dead+51r4`.
fn messages(options: &Options) -> anyhow::Result<Vec<Message>> {
    let text: String = options.get("m", String::new())?;
    text.split('+')
        .map(|word| message(word).with_context(|| format!("m={text}")))
        .collect()
}

fn message(word: &str) -> anyhow::Result<Message> {
    let at = word.find(['r', 'w']).context("neither r nor w")?;
    let (address, rest) = word.split_at(at);
    let read = rest.starts_with('r');
    Ok(Message {
        address: u16::from_str_radix(address, 16)?,
        read,
        bytes: if read {
            vec![0; rest[1..].parse()?]
        } else {
            unhex(&rest[1..])?
        },
    })
}

/// Sends all messages as one transfer.
fn send(bus: &mut LinuxI2CBus, messages: &mut [Message]) -> std::io::Result<()> {
    let mut list: Vec<LinuxI2CMessage<'_>> = messages
        .iter_mut()
        .map(|message| {
            let made = if message.read {
                LinuxI2CMessage::read(&mut message.bytes).with_flags(I2CMessageFlags::READ)
            } else {
                LinuxI2CMessage::write(&message.bytes)
            };
            made.with_address(message.address)
        })
        .collect();
    let count = list.len();
    let done = bus.transfer(&mut list)? as usize;
    if done < count {
        return Err(std::io::Error::other(format!("only {done} of {count} messages")));
    }
    Ok(())
}

fn transfer(options: &Options) -> anyhow::Result<Value> {
    let mut messages = messages(options)?;
    let mut bus = LinuxI2CBus::new(path(options)?)?;
    let start = Instant::now();
    send(&mut bus, &mut messages)?;
    let seconds = start.elapsed().as_secs_f64();
    let read: Vec<String> = messages
        .iter()
        .filter(|message| message.read)
        .map(|message| hex(&message.bytes))
        .collect();
    Ok(json!({ "read": read, "seconds": seconds }))
}

fn detect(options: &Options) -> anyhow::Result<Value> {
    let by: String = options.get("by", "quick".to_owned())?;
    let path = path(options)?;
    let mut answered = Vec::new();
    // The addresses before and after mean something else.
    for address in 0x08..=0x77 {
        let mut device = match LinuxI2CDevice::new(&path, address) {
            Ok(device) => device,
            // A driver of the kernel has it.
            Err(LinuxI2CError::Errno(errno)) if errno == Errno::BUSY.raw_os_error() => continue,
            Err(error) => return Err(error).context(format!("{address:02x}")),
        };
        let asked = match by.as_str() {
            "quick" => device.smbus_write_quick(false),
            "read" => device.smbus_read_byte().map(drop),
            other => bail!("by={other}: neither quick nor read"),
        };
        if asked.is_ok() {
            answered.push(address);
        }
    }
    Ok(json!({ "answered": answered }))
}

fn smbus(options: &Options) -> anyhow::Result<Value> {
    let at: String = options.get("at", "50".to_owned())?;
    let mut device = LinuxI2CDevice::new(path(options)?, u16::from_str_radix(&at, 16)?)?;
    device.smbus_write_quick(false).context("quick")?;
    device
        .smbus_write_byte_data(0x10, 0x42)
        .context("write byte data")?;
    // That sets the register for the next one.
    device.smbus_write_byte(0x10).context("write byte")?;
    let byte = device.smbus_read_byte().context("read byte")?;
    let byte_data = device.smbus_read_byte_data(0x10).context("read byte data")?;
    device
        .smbus_write_word_data(0x20, 0xbeef)
        .context("write word data")?;
    let word_data = device.smbus_read_word_data(0x20).context("read word data")?;
    device
        .smbus_write_i2c_block_data(0x30, &[1, 2, 3, 4, 5])
        .context("write block")?;
    let block = device.smbus_read_i2c_block_data(0x30, 5).context("read block")?;
    Ok(json!({ "byte": byte, "byte_data": byte_data, "word_data": word_data, "block": block }))
}

fn load(options: &Options) -> anyhow::Result<Value> {
    let mut messages = messages(options)?;
    let duration = Duration::from_secs(options.get("seconds", 5)?);
    let mut bus = LinuxI2CBus::new(path(options)?)?;
    let start = Instant::now();
    let (mut well, mut failed, mut last) = (0u64, 0u64, String::new());
    while start.elapsed() < duration {
        match send(&mut bus, &mut messages) {
            Ok(()) => well += 1,
            Err(error) => {
                failed += 1;
                last = error.to_string();
            }
        }
        if well + failed == 1 {
            report::event("loading", Value::Null);
        }
    }
    Ok(json!({ "well": well, "failed": failed, "last": last }))
}

fn chip(options: &Options) -> anyhow::Result<Value> {
    let (at, driver): (String, String) = (
        options.get("at", String::new())?,
        options.get("driver", String::new())?,
    );
    let file: String = options.get("file", "eeprom".to_owned())?;
    let bus = path(options)?;
    let bus = bus
        .file_name()
        .and_then(|name| name.to_str())
        .context("no name of a bus")?;
    let adapter = Path::new("/sys/bus/i2c/devices").join(bus);
    fs::write(adapter.join("new_device"), format!("{driver} 0x{at}"))
        .with_context(|| adapter.display().to_string())?;
    let device = adapter.join(format!("{}-00{at}", bus.trim_start_matches("i2c-")));
    let file = match file.split_once('*') {
        None => device.join(file),
        Some((folder, name)) => {
            let folder = device.join(folder);
            super::appears(&folder)?;
            let one = fs::read_dir(&folder)?
                .next()
                .with_context(|| folder.display().to_string())?;
            one?.path().join(name.trim_start_matches('/'))
        }
    };
    super::appears(&file)?;
    if options.has("write") {
        let bytes = unhex(&options.get("write", String::new())?)?;
        fs::write(&file, bytes).with_context(|| file.display().to_string())?;
    }
    let most: u64 = options.get("bytes", 16)?;
    let mut bytes = Vec::new();
    fs::File::open(&file)
        .and_then(|open| open.take(most).read_to_end(&mut bytes))
        .with_context(|| file.display().to_string())?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(json!({ "hex": hex(&bytes), "text": text }))
}

fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|i| {
            let digits = text.get(i..i + 2).context("an odd number of digits")?;
            Ok(u8::from_str_radix(digits, 16)?)
        })
        .collect()
}

fn hex(data: &[u8]) -> String {
    data.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{hex, message, unhex};

    #[test]
    fn messages_are_read() {
        let write = message("51w00dead").unwrap();
        assert_eq!((write.address, write.read), (0x51, false));
        assert_eq!(hex(&write.bytes), "00dead");
        let read = message("7fr12").unwrap();
        assert_eq!((read.address, read.read, read.bytes.len()), (0x7f, true, 12));
        assert!(message("51w").unwrap().bytes.is_empty());
        for bad in ["51", "w00", "51w0", "51rx"] {
            assert!(message(bad).is_err(), "{bad}");
        }
        assert_eq!(unhex("0aFF").unwrap(), [10, 255]);
    }
}
