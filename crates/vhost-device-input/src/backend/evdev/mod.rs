// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices of the host, by Linux's evdev.
//!
//! | file | what it answers |
//! |---|---|
//! | `rule.rs` | which device is meant |
//! | `find.rs` | where it is, and when it comes back |
//! | `node.rs` | what it is, how it stands, what happens at it |
//! | `hotkey.rs` | which keys let go of it |
//! | `sys.rs` | what `evdev` does not have |

mod find;
mod hotkey;
mod node;
mod rule;
mod sys;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use rustix::event::{EventfdFlags, epoll, eventfd};
use vu_common::{Access, Needs, guest_warn};

pub use hotkey::{Keys, parse_keys};
pub use rule::{BadRule, Rule};

use self::find::Arrivals;
use self::hotkey::Hotkey;
use self::node::Node;
use super::frames::{Completed, Frames};
use super::{Change, Source};
use crate::config::Description;
use crate::request::Event;
use crate::spec::{EV_LED, EV_REP, EV_SND};

/// Most reads of a device at a time.
const MAX_READS: usize = 16;

/// Whether the host sees what happens.
#[derive(Clone, Debug)]
pub struct Grab {
    /// It does not, while a driver is there.
    pub grab: bool,
    /// The keys by which it does nevertheless.
    pub hotkey: Option<Keys>,
}

/// Opens the device that `rule` means.
///
/// # Errors
/// There is none, or what the host refused.
pub fn open(rule: &Rule, grab: &Grab) -> anyhow::Result<Box<dyn Source>> {
    let node = find::open(rule).with_context(|| rule.to_string())?;
    // Devices come back there.
    Needs::default()
        .path(find::DIR, Access::ReadWrite)
        .ioctls_of(b'E')
        .system_calls(&[
            libc::SYS_inotify_init1,
            libc::SYS_inotify_add_watch,
            libc::SYS_inotify_rm_watch,
        ])
        .declare();
    let source = EvdevSource::new(rule, grab, node).with_context(|| rule.to_string())?;
    Ok(Box::new(source))
}

struct EvdevSource {
    rule: Rule,
    grab: Grab,
    description: Description,
    /// Where it was plugged in at first.
    phys: String,
    /// Can be read when one of the others can.
    epoll: OwnedFd,
    arrivals: Arrivals,
    /// Can be read when there is something to do without the device's doing.
    kick: OwnedFd,
    /// There while it is plugged in.
    node: Option<Node>,
    frames: Frames,
    hotkey: Option<Hotkey>,
    /// The guest, or its user, wants it.
    wanted: bool,
    /// The guest has it.
    given: bool,
    /// LEDs as the guest has set them.
    leds: BTreeMap<u16, i32>,
    events: Vec<Event>,
}

impl EvdevSource {
    fn new(rule: &Rule, grab: &Grab, node: Node) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let arrivals = Arrivals::new(rule)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for fd in [node.fd(), arrivals.fd(), kick.as_fd()] {
            watch(&epoll, fd)?;
        }
        let description = node.description()?;
        let repeats = description.codes.contains_key(&EV_REP);
        Ok(Self {
            rule: rule.clone(),
            grab: grab.clone(),
            phys: node.facts.phys.clone(),
            description,
            epoll,
            arrivals,
            kick,
            node: Some(node),
            frames: Frames::new(repeats),
            hotkey: grab.hotkey.clone().map(Hotkey::new),
            wanted: false,
            given: false,
            leds: BTreeMap::new(),
            events: Vec::new(),
        })
    }

    /// Looks for the device, which may be elsewhere now. It has to be the same one: the guest was told what it can do.
    fn find(&mut self) {
        let (rule, phys, description) = (&self.rule, &self.phys, &self.description);
        let found = find::first(|node| {
            let may_be = rule.fits(&node.facts) || (!phys.is_empty() && *phys == node.facts.phys);
            may_be && node.description().is_ok_and(|it| it == *description)
        });
        let Some(node) = found else { return };
        if let Err(e) = watch(&self.epoll, node.fd()) {
            return log::error!("{}: cannot wait for it: {e}", self.rule);
        }
        log::info!("{}: is back, at {}", self.rule, node.facts.path.display());
        self.node = Some(node);
    }

    /// Gives it to the guest, if it is wanted there. While a key is held it is not grabbed: whoever saw the press
    /// has to see the release.
    fn give(&mut self, changes: &mut Vec<Change>) {
        let Some(node) = self.node.as_mut().filter(|_| self.wanted && !self.given) else {
            return;
        };
        if self.grab.grab {
            if node.is_held() {
                return;
            }
            if let Err(e) = node.grab() {
                log::warn!("{}: the host sees its events, too: not grabbed: {e}", self.rule);
            }
        }
        let leds: Vec<Event> = self
            .leds
            .iter()
            .map(|(led, on)| Event::new(EV_LED, *led, *on))
            .collect();
        if !leds.is_empty() {
            let _ = node.write(&leds);
        }
        match node.state() {
            Ok(state) => {
                changes.push(Change::State(state));
                self.given = true;
            }
            Err(e) => self.lose(&e, changes),
        }
    }

    /// Takes it from the guest.
    fn take(&mut self, changes: &mut Vec<Change>) {
        if let Some(node) = self.node.as_mut().filter(|_| self.given) {
            silence(node, &self.description);
            node.ungrab();
        }
        self.given = false;
        changes.push(Change::Released);
    }

    /// It has gone.
    fn lose(&mut self, why: &io::Error, changes: &mut Vec<Change>) {
        if let Some(node) = self.node.take() {
            log::warn!("{}: {} has gone: {why}", self.rule, node.facts.path.display());
            let _ = epoll::delete(&self.epoll, node.fd());
        }
        self.events.clear();
        self.frames.forget();
        self.forget_keys();
        self.given = false;
        changes.push(Change::Released);
    }

    /// One piece of what happened. False if there was nothing.
    fn read_some(&mut self, changes: &mut Vec<Change>) -> bool {
        let Some(node) = &mut self.node else { return false };
        if let Err(e) = node.read(&mut self.events) {
            self.lose(&e, changes);
            return false;
        }
        let events = std::mem::take(&mut self.events);
        for event in &events {
            match self.frames.push(*event) {
                None => {}
                Some(Completed::Frame(frame)) => self.frame(frame, changes),
                Some(Completed::Lost) => self.resync(changes),
            }
        }
        !events.is_empty()
    }

    fn frame(&mut self, frame: Vec<Event>, changes: &mut Vec<Change>) {
        let is_hotkey = self
            .hotkey
            .as_mut()
            .is_some_and(|hotkey| hotkey.completes(&frame));
        if is_hotkey {
            self.wanted = !self.wanted;
            if !self.wanted {
                self.take(changes);
            }
        } else if self.given && !frame.is_empty() {
            changes.push(Change::Frame(frame));
        }
    }

    fn forget_keys(&mut self) {
        if let Some(hotkey) = &mut self.hotkey {
            hotkey.forget();
        }
    }

    fn resync(&mut self, changes: &mut Vec<Change>) {
        self.forget_keys();
        let Some(node) = self.node.as_ref().filter(|_| self.given) else {
            return;
        };
        match node.state() {
            Ok(state) => changes.push(Change::State(state)),
            Err(e) => self.lose(&e, changes),
        }
    }
}

impl Source for EvdevSource {
    fn description(&self) -> &Description {
        &self.description
    }

    fn attach(&mut self) {
        self.wanted = true;
        // Full means that it can be read already.
        let _ = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
    }

    fn detach(&mut self) {
        self.wanted = false;
        self.take(&mut Vec::new());
        self.leds.clear();
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn read(&mut self, changes: &mut Vec<Change>) {
        let _ = rustix::io::read(&self.kick, &mut [0; 8]);
        let arrived = self.arrivals.some();
        for _ in 0..MAX_READS {
            if !self.read_some(changes) {
                break;
            }
        }
        // After the reads: it may have gone and come back in between.
        if self.node.is_none() && (arrived || !changes.is_empty()) {
            self.find();
        }
        self.give(changes);
    }

    fn waits(&self) -> bool {
        false
    }

    fn status(&mut self, events: &[Event]) {
        let leds = events
            .iter()
            .filter(|event| event.kind == EV_LED && self.description.has(EV_LED, event.code));
        self.leds.extend(leds.map(|event| (event.code, event.value)));
        if let Some(node) = self.node.as_mut().filter(|_| self.given)
            && let Err(e) = node.write(events)
        {
            guest_warn!("{}: LEDs and sounds are not passed on: {e}", self.rule);
        }
    }
}

/// Ends what sounds the guest has begun.
fn silence(node: &mut Node, description: &Description) {
    let sounds = (1..=2).filter(|sound| description.has(EV_SND, *sound));
    let events: Vec<Event> = sounds.map(|sound| Event::new(EV_SND, sound, 0)).collect();
    if !events.is_empty() {
        let _ = node.write(&events);
    }
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>) -> io::Result<()> {
    let data = epoll::EventData::new_u64(0);
    Ok(epoll::add(epoll, fd, data, epoll::EventFlags::IN)?)
}
