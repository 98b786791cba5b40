// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One event device of the host, open: what it is, how it stands, what happens at it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use evdev::InputEvent;
use evdev::raw_stream::RawDevice;
use rustix::fs::{Mode, OFlags, open};

use super::rule::Facts;
use super::sys;
use crate::config::{Axis, Bits, Description};
use crate::request::Event;
use crate::spec::{ABS_MT_SLOT, EV_ABS, EV_KEY, EV_LED, EV_MSC, EV_REL, EV_REP, EV_SND, EV_SW};
use crate::state::State;

/// An event device.
pub(super) struct Node {
    device: RawDevice,
    pub(super) facts: Facts,
}

impl Node {
    /// Opens the device at `path`, for its LEDs too if that is permitted.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = open(path, flags | OFlags::RDWR, Mode::empty());
        let fd = fd.or_else(|_| open(path, flags | OFlags::RDONLY, Mode::empty()))?;
        let device = RawDevice::from_fd(fd)?;
        let id = device.input_id();
        let facts = Facts {
            path: path.into(),
            name: device.name().unwrap_or_default().into(),
            phys: device.physical_path().unwrap_or_default().into(),
            id: (id.vendor(), id.product()),
        };
        Ok(Self { device, facts })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// What it is and can do.
    pub(super) fn description(&self) -> io::Result<Description> {
        let device = &self.device;
        let axis = |(code, info): (evdev::AbsoluteAxisCode, evdev::AbsInfo)| {
            let axis = Axis {
                min: info.minimum(),
                max: info.maximum(),
                fuzz: info.fuzz(),
                flat: info.flat(),
                res: info.resolution(),
            };
            (code.0, axis)
        };
        let id = device.input_id();
        Ok(Description {
            name: self.bytes("name", device.name()),
            serial: self.bytes("uniq", device.unique_name()),
            ids: [id.bus_type().0, id.vendor(), id.product(), id.version()],
            props: device.properties().iter().map(|prop| prop.0).collect(),
            codes: codes(device)
                .into_iter()
                .filter(|(_, codes)| *codes != Bits::default())
                .collect(),
            axes: device.get_absinfo()?.map(axis).collect(),
        })
    }

    /// A text of it as the kernel has it. `evdev` makes text of what is not UTF-8.
    fn bytes(&self, file: &str, known: Option<&str>) -> Vec<u8> {
        let name = self.facts.path.canonicalize();
        let name = name
            .ok()
            .and_then(|path| path.file_name().map(|name| name.as_bytes().to_vec()));
        let text = name.and_then(|name| {
            let name = String::from_utf8(name).ok()?;
            fs::read(format!("/sys/class/input/{name}/device/{file}")).ok()
        });
        match text {
            Some(text) => text.strip_suffix(b"\n").unwrap_or(&text).to_vec(),
            None => known.unwrap_or_default().into(),
        }
    }

    /// How it stands.
    pub(super) fn state(&self) -> io::Result<State> {
        let mut state = State::default();
        let mut is = |kind, code, value| state.apply(Event::new(kind, code, value));
        let axes: Vec<_> = self.device.get_absinfo()?.collect();
        let slot = axes.iter().find(|(code, _)| code.0 == ABS_MT_SLOT);
        let slot = slot.map(|(_, info)| (info.value(), info.maximum()));
        let (contact, rest): (Vec<_>, Vec<_>) = axes
            .into_iter()
            .map(|(code, info)| Event::new(EV_ABS, code.0, info.value()))
            .filter(|event| event.code != ABS_MT_SLOT)
            .partition(|event| event.is_of_contact());
        if let Some((current, last)) = slot {
            let slots = usize::try_from(last).unwrap_or(0).saturating_add(1);
            for Event { code, .. } in contact {
                let values = sys::slot_values(self.fd(), code, slots)?;
                for (slot, value) in (0..).zip(values) {
                    is(EV_ABS, ABS_MT_SLOT, slot);
                    is(EV_ABS, code, value);
                }
            }
            is(EV_ABS, ABS_MT_SLOT, current);
        }
        rest.iter().for_each(|event| is(EV_ABS, event.code, event.value));
        self.device
            .get_key_state()?
            .iter()
            .for_each(|key| is(EV_KEY, key.0, 1));
        if let Some(switches) = self.device.supported_switches() {
            let on = self.device.get_switch_state()?;
            switches
                .iter()
                .for_each(|switch| is(EV_SW, switch.0, on.contains(switch).into()));
        }
        Ok(state)
    }

    /// Whether some key is down.
    pub(super) fn is_held(&self) -> bool {
        let keys = self.device.get_key_state();
        keys.is_ok_and(|keys| keys.iter().next().is_some())
    }

    /// Adds what happened; nothing if there is nothing now.
    pub(super) fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        match self.device.fetch_events() {
            Ok(new) => {
                events.extend(new.map(|event| Event::new(event.event_type().0, event.code(), event.value())));
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Sets LEDs, sounds and repeats.
    pub(super) fn write(&mut self, events: &[Event]) -> io::Result<()> {
        let event = |event: &Event| InputEvent::new(event.kind, event.code, event.value);
        let events: Vec<InputEvent> = events.iter().chain([&Event::REPORT]).map(event).collect();
        self.device.send_events(&events)
    }

    pub(super) fn grab(&mut self) -> io::Result<()> {
        self.device.grab()
    }

    pub(super) fn ungrab(&mut self) {
        if let Err(e) = self.device.ungrab() {
            log::debug!("{}: not let go of: {e}", self.facts.path.display());
        }
    }
}

/// The codes of each type that it has.
fn codes(device: &RawDevice) -> [(u16, Bits); 8] {
    let keys = device.supported_keys();
    let distances = device.supported_relative_axes();
    let axes = device.supported_absolute_axes();
    let others = device.misc_properties();
    let switches = device.supported_switches();
    let leds = device.supported_leds();
    let sounds = device.supported_sounds();
    let repeats = device.get_auto_repeat().map_or(0, |_| 2);
    [
        (
            EV_KEY,
            keys.into_iter()
                .flat_map(|it| it.iter().map(|code| code.0))
                .collect(),
        ),
        (
            EV_REL,
            distances
                .into_iter()
                .flat_map(|it| it.iter().map(|code| code.0))
                .collect(),
        ),
        (
            EV_ABS,
            axes.into_iter()
                .flat_map(|it| it.iter().map(|code| code.0))
                .collect(),
        ),
        (
            EV_MSC,
            others
                .into_iter()
                .flat_map(|it| it.iter().map(|code| code.0))
                .collect(),
        ),
        (
            EV_SW,
            switches
                .into_iter()
                .flat_map(|it| it.iter().map(|code| code.0))
                .collect(),
        ),
        (
            EV_LED,
            leds.into_iter()
                .flat_map(|it| it.iter().map(|code| code.0))
                .collect(),
        ),
        (
            EV_SND,
            sounds
                .into_iter()
                .flat_map(|it| it.iter().map(|code| code.0))
                .collect(),
        ),
        (EV_REP, (0..repeats).collect()),
    ]
}
