// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buses of the host, by its I2C character devices.

mod adapter;
mod find;
mod smbus;
mod sys;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::io::Errno;

use self::adapter::{Adapter, Broken};
use super::{Address, Bus, Failure, Message};

/// Where the host lists the devices of its buses, and their drivers.
const DEVICES: &str = "/sys/bus/i2c/devices";

struct LinuxBus {
    /// Which adapter it is, and what its driver calls it.
    is: find::Adapter,
    path: PathBuf,
    timeout: Duration,
    max_messages: usize,
    /// Nothing while the host does not have the adapter.
    adapter: Option<Adapter>,
}

/// Opens the adapter that `name` means: its number, `i2c-1`, the path of its device, or what its driver calls it.
/// A transfer on it takes at most `timeout`, if its driver keeps to that.
///
/// # Errors
/// There is no such adapter, or there are several; the host refused.
pub fn open(name: &str, timeout: Duration) -> anyhow::Result<Box<dyn Bus>> {
    let (is, path) = find::find(name, Path::new(find::SYSFS))?;
    let adapter = Adapter::open(&path, timeout).with_context(|| path.display().to_string())?;
    let max_messages = adapter.max_messages();
    Ok(Box::new(LinuxBus {
        is,
        path,
        timeout,
        max_messages,
        adapter: Some(adapter),
    }))
}

impl LinuxBus {
    /// The adapter, if the host has it. Who keeps a descriptor of an adapter that is being removed holds that up.
    fn adapter(&mut self) -> io::Result<&mut Adapter> {
        if self.adapter.take_if(|adapter| !adapter.is_there()).is_some() {
            log::warn!("{}: the adapter was removed", self.name());
        }
        match &mut self.adapter {
            Some(adapter) => Ok(adapter),
            none => {
                let adapter = reopen(&self.is, &self.path, self.timeout)?;
                log::info!("i2c-{}: the adapter is back", self.is.number);
                self.max_messages = adapter.max_messages();
                Ok(none.insert(adapter))
            }
        }
    }

    fn explain(&self, messages: &[Message], broken: Broken) -> Failure {
        let Broken { done, error } = broken;
        let bus = self.is.number;
        let Some(address) = messages.get(done).map(|message| message.address) else {
            return Failure { done, error };
        };
        let (kind, text) = match Errno::from_io_error(&error) {
            Some(Errno::NXIO | Errno::REMOTEIO) => (io::ErrorKind::NotFound, "not acknowledged".to_owned()),
            Some(Errno::BUSY) => (io::ErrorKind::ResourceBusy, busy(bus, address)),
            Some(Errno::NODEV) => (io::ErrorKind::NotFound, "no such device".to_owned()),
            _ => (error.kind(), error.to_string()),
        };
        Failure {
            done,
            error: io::Error::new(kind, format!("i2c-{bus}: {address}: {text}")),
        }
    }
}

/// Opens an adapter again that was removed, unless another one has its number now.
fn reopen(is: &find::Adapter, path: &Path, timeout: Duration) -> io::Result<Adapter> {
    let gone = || io::Error::new(io::ErrorKind::NotConnected, "the adapter was removed");
    if find::name(Path::new(find::SYSFS), is.number) != is.name {
        return Err(gone());
    }
    Adapter::open(path, timeout).map_err(|_gone| gone())
}

/// Why a device cannot be used, with the driver that has it.
fn busy(bus: u32, address: Address) -> String {
    let device = match address {
        Address::Seven(address) => format!("{bus}-{address:04x}"),
        Address::Ten(address) => format!("{bus}-a{address:03x}"),
    };
    let driver = fs::read_link(Path::new(DEVICES).join(device).join("driver"));
    let driver = driver
        .ok()
        .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    match driver {
        Some(driver) => format!("in use by the host's driver {driver}"),
        None => "in use by a driver of the host, or the bus is busy".to_owned(),
    }
}

impl Bus for LinuxBus {
    fn name(&self) -> String {
        match self.is.name.as_str() {
            "" => format!("i2c-{}", self.is.number),
            name => format!("i2c-{} ({name})", self.is.number),
        }
    }

    fn blocks(&self) -> bool {
        true
    }

    fn max_messages(&self) -> usize {
        self.max_messages
    }

    fn transfer(&mut self, messages: &mut [Message]) -> Result<(), Failure> {
        if messages.is_empty() {
            return Ok(());
        }
        let result = match self.adapter() {
            Ok(adapter) => adapter.transfer(messages),
            Err(error) => Err(error.into()),
        };
        result.map_err(|broken| self.explain(messages, broken))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direction;
    use super::*;

    /// The bus of an adapter that was removed, and whose number no other has.
    fn removed() -> LinuxBus {
        LinuxBus {
            is: find::Adapter {
                number: 4_000_000,
                name: "test".into(),
            },
            path: "/dev/i2c-4000000".into(),
            timeout: Duration::from_secs(1),
            max_messages: 42,
            adapter: None,
        }
    }

    fn message(address: Address) -> Message {
        let direction = Direction::Write;
        Message {
            address,
            direction,
            data: vec![1],
        }
    }

    #[test]
    fn errors_name_the_bus_the_address_and_the_cause() {
        let messages = [message(Address::Seven(0x48)), message(Address::Ten(0x150))];
        let table = [
            (0, Errno::NXIO, io::ErrorKind::NotFound, "0x48: not acknowledged"),
            (
                1,
                Errno::REMOTEIO,
                io::ErrorKind::NotFound,
                "0x150 (10 bits): not acknowledged",
            ),
            (
                0,
                Errno::BUSY,
                io::ErrorKind::ResourceBusy,
                "0x48: in use by a driver of the host",
            ),
            (0, Errno::NODEV, io::ErrorKind::NotFound, "0x48: no such device"),
            (
                0,
                Errno::TIMEDOUT,
                io::ErrorKind::TimedOut,
                "0x48: Connection timed out",
            ),
        ];
        for (done, errno, kind, text) in table {
            let error = errno.into();
            let failure = removed().explain(&messages, Broken { done, error });
            assert_eq!((failure.done, failure.error.kind()), (done, kind));
            let said = failure.error.to_string();
            assert!(said.starts_with(&format!("i2c-4000000: {text}")), "{said}");
        }
    }

    #[test]
    fn an_adapter_that_is_gone_is_an_error_each_time() {
        let mut bus = removed();
        for _ in 0..2 {
            let failure = bus.transfer(&mut [message(Address::Seven(0x48))]).unwrap_err();
            assert_eq!(failure.done, 0);
            assert_eq!(failure.error.kind(), io::ErrorKind::NotConnected);
            assert_eq!(
                failure.error.to_string(),
                "i2c-4000000: 0x48: the adapter was removed"
            );
        }
        assert!(bus.transfer(&mut []).is_ok());
    }
}
