// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buses of the host, by its I2C character devices.

mod adapter;
mod find;
mod smbus;
mod sys;
mod watch;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::io::Errno;
use vu_common::{Access, Needs};

use self::adapter::{Adapter, Broken};
use self::watch::Watch;
use super::{Address, Bus, Failure, Message, Waits};

/// Where the host lists the devices of its buses, and their drivers.
const DEVICES: &str = "/sys/bus/i2c/devices";

/// The adapter while the host has it. Who keeps a descriptor of one that is being removed holds that up.
type Slot = Mutex<Option<Adapter>>;

struct LinuxBus {
    /// Which adapter it is, and what its driver calls it.
    is: find::Adapter,
    path: PathBuf,
    timeout: Duration,
    max_messages: usize,
    slot: Arc<Slot>,
    /// Empties the slot when the adapter is removed while nobody uses it.
    watch: Option<Watch>,
}

/// Opens the adapter that `name` means: its number, `i2c-1`, the path of its device, or what its driver calls it.
/// A transfer on it takes at most `timeout`, if its driver keeps to that.
///
/// # Errors
/// There is no such adapter, or there are several; the host refused.
pub fn open(name: &str, timeout: Duration) -> anyhow::Result<Box<dyn Bus>> {
    let (is, path) = find::find(name, Path::new(find::SYSFS))?;
    let adapter = Adapter::open(&path, timeout).with_context(|| path.display().to_string())?;
    Needs::default()
        .ioctls_of(sys::IOCTLS)
        // Who has a device, and whether the adapter is there.
        .path("/sys", Access::Read)
        .system_calls(&[libc::SYS_inotify_rm_watch])
        .declare();
    let mut bus = LinuxBus {
        is,
        path,
        timeout,
        max_messages: adapter.max_messages(),
        slot: Arc::new(Mutex::new(Some(adapter))),
        watch: None,
    };
    bus.watch();
    Ok(Box::new(bus))
}

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Adapter>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes an adapter that the host has no longer.
fn let_go(adapter: &mut Option<Adapter>, number: u32) {
    if adapter.take_if(|adapter| !adapter.is_there()).is_some() {
        log::warn!("i2c-{number}: the adapter was removed");
    }
}

impl LinuxBus {
    /// Waits for the end of the adapter, from now on.
    fn watch(&mut self) {
        let (slot, number) = (self.slot.clone(), self.is.number);
        let watch = Watch::start(&self.path, move || let_go(&mut lock(&slot), number));
        // The next transfer sees it all the same.
        let failed = |e| log::warn!("i2c-{number}: cannot watch for its removal: {e}");
        self.watch = watch.map_err(failed).ok();
    }

    fn try_transfer(&mut self, messages: &mut [Message]) -> Result<(), Broken> {
        let slot = self.slot.clone();
        let mut adapter = lock(&slot);
        // Whoever watches for its end may have to wait for this lock, so it is looked at here, too.
        if !adapter.as_ref().is_some_and(Adapter::is_fresh) {
            let_go(&mut adapter, self.is.number);
        }
        if let Some(adapter) = &mut *adapter {
            return adapter.transfer(messages);
        }
        let again = adapter.insert(reopen(&self.is, &self.path, self.timeout)?);
        log::info!("i2c-{}: the adapter is back", self.is.number);
        self.max_messages = again.max_messages();
        self.watch();
        again.transfer(messages)
    }

    fn explain(&self, messages: &[Message], broken: Broken) -> Failure {
        let Broken { done, whose, error } = broken;
        let bus = self.is.number;
        let address = whose.or_else(|| Some(messages.get(done)?.address));
        let Some(address) = address else {
            return Failure { done, error };
        };
        let (kind, text) = match Errno::from_io_error(&error) {
            Some(Errno::NXIO | Errno::REMOTEIO) => (ErrorKind::NotFound, "not acknowledged".to_owned()),
            Some(Errno::BUSY) => (ErrorKind::ResourceBusy, busy(bus, address)),
            Some(Errno::NODEV) => (ErrorKind::NotFound, "no such device".to_owned()),
            Some(Errno::TIMEDOUT) => (ErrorKind::TimedOut, "no answer in time".to_owned()),
            _ => (error.kind(), error.to_string()),
        };
        // The kernel does not always say which message failed, and then it may be for another device.
        let several = whose.is_none() && messages.iter().any(|message| message.address != address);
        let on = if several {
            " or another of the transfer"
        } else {
            ""
        };
        let error = io::Error::new(kind, format!("i2c-{bus}: {address}{on}: {text}"));
        Failure { done, error }
    }
}

/// Opens an adapter again that was removed, unless another one has its number now.
fn reopen(is: &find::Adapter, path: &Path, timeout: Duration) -> io::Result<Adapter> {
    let gone = |why: &str| io::Error::new(ErrorKind::NotConnected, format!("the adapter was removed{why}"));
    if find::name(Path::new(find::SYSFS), is.number) != is.name {
        return Err(gone(""));
    }
    let back = Adapter::open(path, timeout);
    back.map_err(|e| gone(&format!(", and cannot be opened again: {e}")))
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

    fn waits(&self) -> Waits {
        Waits::Usually
    }

    fn max_messages(&self) -> usize {
        self.max_messages
    }

    fn transfer(&mut self, messages: &mut [Message]) -> Result<(), Failure> {
        if messages.is_empty() {
            return Ok(());
        }
        let result = self.try_transfer(messages);
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
            slot: Arc::default(),
            watch: None,
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
        let (seven, ten) = (Address::Seven(0x48), Address::Ten(0x150));
        let messages = [message(seven), message(ten)];
        let refused = ErrorKind::NotFound;
        let table = [
            (0, Some(seven), Errno::NXIO, refused, "0x48: not acknowledged"),
            (
                0,
                Some(ten),
                Errno::REMOTEIO,
                refused,
                "0x150 (10 bits): not acknowledged",
            ),
            (
                0,
                None,
                Errno::NXIO,
                refused,
                "0x48 or another of the transfer: not acknowledged",
            ),
            (0, Some(seven), Errno::NODEV, refused, "0x48: no such device"),
            (
                1,
                Some(ten),
                Errno::TIMEDOUT,
                ErrorKind::TimedOut,
                "0x150 (10 bits): no answer in time",
            ),
            (
                0,
                Some(seven),
                Errno::BUSY,
                ErrorKind::ResourceBusy,
                "0x48: in use by a driver of the host",
            ),
        ];
        for (done, whose, errno, kind, text) in table {
            let error = errno.into();
            let failure = removed().explain(&messages, Broken { done, whose, error });
            assert_eq!((failure.done, failure.error.kind()), (done, kind));
            let said = failure.error.to_string();
            assert!(said.starts_with(&format!("i2c-4000000: {text}")), "{said}");
        }
        let error = Errno::NXIO.into();
        let broken = Broken {
            done: 0,
            whose: None,
            error,
        };
        let failure = removed().explain(&messages[..1], broken);
        assert_eq!(failure.error.to_string(), "i2c-4000000: 0x48: not acknowledged");
    }

    #[test]
    fn an_adapter_that_is_gone_is_an_error_each_time() {
        let mut bus = removed();
        for _ in 0..2 {
            let failure = bus.transfer(&mut [message(Address::Seven(0x48))]).unwrap_err();
            assert_eq!(failure.done, 0);
            assert_eq!(failure.error.kind(), ErrorKind::NotConnected);
            assert_eq!(
                failure.error.to_string(),
                "i2c-4000000: 0x48: the adapter was removed"
            );
        }
        assert!(bus.transfer(&mut []).is_ok());
    }
}
