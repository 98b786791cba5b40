// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices of the host, which these tests make by `uinput`. Where there is none, they say so.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use evdev::raw_stream::RawDevice;
use evdev::uinput::VirtualDevice;
use evdev::{
    AbsInfo, AbsoluteAxisCode, AttributeSet, BusType, InputEvent, InputId, KeyCode, PropType, UinputAbsSetup,
};
use vu_testkit::devices::input::{ev, select};
use vu_testkit::spawn::{Daemon, Launch};

use crate::support::{DEADLINE, Ev, PROGRAM, REPORT, Reader};

const UINPUT: &str = "/dev/uinput";
const VENDOR: u16 = 0xfede;

/// A device of the host for one test.
struct Host {
    device: VirtualDevice,
    product: u16,
}

/// Whether `test` can be run here.
fn can_run(test: &str) -> bool {
    let Err(e) = OpenOptions::new().write(true).open(UINPUT) else {
        return true;
    };
    let line = format!("SKIP {test}: {UINPUT}: {e}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("VU_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(path).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
    false
}

/// A number of its own for each test, so that they do not take each other's device.
fn number() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Host {
    fn plug_in(product: u16) -> Self {
        let keys: AttributeSet<KeyCode> = [
            KeyCode::KEY_A,
            KeyCode::KEY_B,
            KeyCode::KEY_LEFTCTRL,
            KeyCode::BTN_TOUCH,
        ]
        .into_iter()
        .collect();
        let props: AttributeSet<PropType> = [PropType::DIRECT].into_iter().collect();
        let axis = |code, max, res| UinputAbsSetup::new(code, AbsInfo::new(0, 0, max, 1, 2, res));
        let mut device = VirtualDevice::builder()
            .unwrap()
            .name(b"T\xf6st keyboard")
            .input_id(InputId::new(BusType::BUS_USB, VENDOR, product, 3))
            .with_keys(&keys)
            .unwrap()
            .with_properties(&props)
            .unwrap()
            .with_absolute_axis(&axis(AbsoluteAxisCode::ABS_X, 4000, 12))
            .unwrap()
            .with_absolute_axis(&axis(AbsoluteAxisCode::ABS_MT_SLOT, 9, 0))
            .unwrap()
            .with_absolute_axis(&axis(AbsoluteAxisCode::ABS_MT_TRACKING_ID, 65535, 0))
            .unwrap()
            .with_absolute_axis(&axis(AbsoluteAxisCode::ABS_MT_POSITION_X, 4000, 12))
            .unwrap()
            .with_absolute_axis(&axis(AbsoluteAxisCode::ABS_MT_POSITION_Y, 3000, 12))
            .unwrap()
            .build()
            .unwrap();
        let end = Instant::now() + DEADLINE;
        while !node(&mut device).is_some_and(|path| path.exists()) {
            assert!(Instant::now() < end, "the kernel makes no device");
            std::thread::yield_now();
        }
        Self { device, product }
    }

    /// A daemon that serves this device.
    fn serve(&mut self, more: &[&str]) -> Daemon {
        let rule = format!("id={VENDOR:x}:{:x}", self.product);
        let launch = Launch::ours(PROGRAM, &["--evdev-path", &rule]).with(more);
        Daemon::spawn(&launch).unwrap()
    }

    fn emit(&mut self, events: &[Ev]) {
        let events = events
            .iter()
            .map(|(kind, code, value)| InputEvent::new(*kind, *code, *value));
        self.device.emit(&events.collect::<Vec<_>>()).unwrap();
    }

    /// Another who reads the events of the device.
    fn other_reader(&mut self) -> RawDevice {
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        let path = node(&mut self.device).unwrap();
        RawDevice::try_from(options.open(path).unwrap()).unwrap()
    }
}

fn node(device: &mut VirtualDevice) -> Option<PathBuf> {
    let nodes = device.enumerate_dev_nodes_blocking().ok()?;
    nodes
        .flatten()
        .find(|path| path.to_string_lossy().contains("event"))
}

/// The guest reads frames, those of its start first, until one is `wanted`; only keys count.
fn until(reader: &mut Reader, wanted: &[Ev]) {
    loop {
        let mut frame = reader.frame();
        frame.retain(|(kind, ..)| *kind == ev::KEY);
        if frame == wanted {
            return;
        }
        assert!(frame.is_empty(), "{frame:?} instead of {wanted:?}");
    }
}

/// A guest that has the device: it got how it stands.
fn guest(daemon: &Daemon) -> Reader {
    let mut reader = Reader::of(daemon);
    let state = reader.frame();
    assert!(state.contains(&(3, 0x2f, 9)), "{state:?}");
    reader
}

fn ask(reader: &Reader, select: u8, subsel: u16) -> Vec<u8> {
    let front = &reader.guest.front;
    front.set_config(0, &[select, subsel as u8]).unwrap();
    let config = front.get_config(0, 136).unwrap();
    config[8..8 + usize::from(config[2])].to_vec()
}

#[test]
fn a_guest_finds_the_device_as_it_is() {
    if !can_run("a_guest_finds_the_device_as_it_is") {
        return;
    }
    let mut host = Host::plug_in(number());
    let daemon = host.serve(&[]);
    let reader = Reader::of(&daemon);
    assert_eq!(ask(&reader, select::ID_NAME, 0), b"T\xf6st keyboard");
    assert!(ask(&reader, select::ID_SERIAL, 0).is_empty());
    let [low, high] = host.product.to_le_bytes();
    assert_eq!(
        ask(&reader, select::ID_DEVIDS, 0),
        [3, 0, 0xde, 0xfe, low, high, 3, 0]
    );
    assert_eq!(ask(&reader, select::PROP_BITS, 0), [2]);
    assert_eq!(ask(&reader, select::EV_BITS, ev::KEY).len(), 0x14a / 8 + 1);
    let axis = [0, 4000, 1, 2, 12].map(i32::to_le_bytes).concat();
    assert_eq!(ask(&reader, select::ABS_INFO, 0x35), axis);
    assert!(ask(&reader, select::EV_BITS, ev::LED).is_empty());
}

#[test]
fn ten_fingers_arrive_whole_and_the_host_does_not_see_them() {
    if !can_run("ten_fingers_arrive_whole_and_the_host_does_not_see_them") {
        return;
    }
    let mut host = Host::plug_in(number());
    let daemon = host.serve(&[]);
    let mut reader = guest(&daemon);
    let mut other = host.other_reader();
    for round in 1..20 {
        let mut events = Vec::new();
        for slot in 0..10 {
            events.push((3, 0x2f, slot));
            if round == 1 {
                events.push((3, 0x39, 100 + slot));
            }
            events.extend([(3, 0x35, 10 * round + slot), (3, 0x36, 20 * round + slot)]);
        }
        host.emit(&events);
        // The kernel does not tell of a slot that it is in.
        events.drain(..usize::from(round == 1));
        assert_eq!(reader.frame(), events);
    }
    let seen = other.fetch_events().map(Iterator::count);
    assert!(seen.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
}

#[test]
fn without_a_grab_the_host_sees_it_too() {
    if !can_run("without_a_grab_the_host_sees_it_too") {
        return;
    }
    let mut host = Host::plug_in(number());
    let daemon = host.serve(&["--no-grab"]);
    let mut reader = guest(&daemon);
    let mut other = host.other_reader();
    host.emit(&[(1, 30, 1)]);
    until(&mut reader, &[(1, 30, 1)]);
    assert_eq!(other.fetch_events().unwrap().count(), 2);
}

#[test]
fn a_held_key_is_released_by_unplugging_and_the_device_comes_back() {
    if !can_run("a_held_key_is_released_by_unplugging_and_the_device_comes_back") {
        return;
    }
    let mut host = Host::plug_in(number());
    let product = host.product;
    // Without udev the folder of devices comes and goes with them, out of a confined daemon's sight.
    let daemon = host.serve(&["--sandbox=none"]);
    let mut reader = guest(&daemon);
    for _ in 0..3 {
        host.emit(&[(1, 30, 1)]);
        until(&mut reader, &[(1, 30, 1)]);
        drop(host);
        until(&mut reader, &[(1, 30, 0)]);
        host = Host::plug_in(product);
        let end = Instant::now() + DEADLINE;
        while daemon
            .log()
            .tail()
            .last()
            .is_none_or(|line| !line.contains("is back"))
        {
            assert!(Instant::now() < end, "{:?}", daemon.log().tail());
            std::thread::yield_now();
        }
        // Its state, with nothing pressed.
        until(&mut reader, &[]);
    }
}

#[test]
fn a_hotkey_gives_it_to_the_host_and_back() {
    if !can_run("a_hotkey_gives_it_to_the_host_and_back") {
        return;
    }
    let mut host = Host::plug_in(number());
    let daemon = host.serve(&["--grab-hotkey=leftctrl+b"]);
    let mut reader = guest(&daemon);
    let mut other = host.other_reader();
    host.emit(&[(1, 29, 1)]);
    until(&mut reader, &[(1, 29, 1)]);
    host.emit(&[(1, 48, 1)]);
    until(&mut reader, &[(1, 29, 0)]);
    // It is the host's.
    for events in [[(1, 48, 0)], [(1, 29, 0)], [(1, 30, 1)]] {
        host.emit(&events);
    }
    let end = Instant::now() + DEADLINE;
    while other
        .fetch_events()
        .is_ok_and(|mut seen| !seen.any(|event| event.code() == 30))
    {
        assert!(Instant::now() < end, "the host sees nothing");
    }
    // It is the guest's again, once nothing is held.
    host.emit(&[(1, 30, 0)]);
    host.emit(&[(1, 29, 1), (1, 48, 1)]);
    host.emit(&[(1, 29, 0), (1, 48, 0)]);
    until(&mut reader, &[]);
    host.emit(&[(1, 30, 1)]);
    until(&mut reader, &[(1, 30, 1)]);
}

#[test]
fn lost_events_are_made_good() {
    if !can_run("lost_events_are_made_good") {
        return;
    }
    let mut host = Host::plug_in(number());
    let daemon = host.serve(&[]);
    let mut reader = guest(&daemon);
    let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap();
    host.emit(&[(1, 30, 1)]);
    until(&mut reader, &[(1, 30, 1)]);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    host.emit(&[(1, 30, 0)]);
    host.emit(&[(3, 0x2f, 4), (3, 0x39, 77), (3, 0x35, 5)]);
    for x in 0..5000 {
        host.emit(&[(3, 0x35, x % 4000)]);
    }
    host.emit(&[(1, 48, 1)]);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let mut state = vhost_device_input::State::default();
    while !state.is_down(48) {
        let event = reader.events(1)[0];
        if event != REPORT {
            state.apply(vhost_device_input::Event::new(event.0, event.1, event.2));
        }
    }
    assert!(!state.is_down(30));
    assert_eq!(state.touched().collect::<Vec<_>>(), [4]);
}
