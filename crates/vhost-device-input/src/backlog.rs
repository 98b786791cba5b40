// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames that wait for buffers of the event queue (virtio 1.3, section 5.8.6.2: a device should buffer or drop a frame
//! as a whole).
//!
//! A ring may be smaller than a frame: the guest then gets the frame in pieces, and nothing comes between them. While
//! it takes nothing:
//!
//! 1. a frame that is nothing but motion is merged into the waiting one before it, if that is too: distances are
//!    added, of positions the last one stays, for each contact its own;
//! 2. frames with presses, releases and contacts wait as they are, until [`MAX_EVENTS`] wait;
//! 3. then all that waits becomes two frames. They have each key that changed: one edge if it ended other than it
//!    began, else two, its press and its release. Of positions and contacts they have the last state.

use std::collections::{BTreeSet, VecDeque};

use crate::request::Event;
use crate::spec::{ABS_MT_SLOT, EV_ABS, EV_KEY, EV_REL};
use crate::state::State;

/// Events that wait at most, unless a frame is larger. At 1000 keystrokes per second it takes some seconds to get there.
const MAX_EVENTS: usize = 16384;
/// A backend that can wait should when so many events do.
const MANY: usize = 1024;

/// The frames that a guest has not got yet.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    events: VecDeque<Event>,
    /// The first frame has been given in part.
    begun: bool,
    /// Length of the last frame, if it is nothing but motion, else 0.
    motion: usize,
    /// The slot that the last frame begins in.
    motion_slot: i32,
    /// What the guest has been told.
    told: State,
    /// The same when it has got all.
    queued: State,
}

impl Backlog {
    /// The next event for the guest.
    pub(crate) fn first(&self) -> Option<Event> {
        self.events.front().copied()
    }

    /// The guest has got [`Backlog::first`].
    pub(crate) fn advance(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.told.apply(event);
            self.begun = !event.is_report();
        }
    }

    /// Whether a backend that can wait should.
    pub(crate) fn is_long(&self) -> bool {
        self.events.len() >= MANY
    }

    /// Adds a frame, given without its end.
    pub(crate) fn push(&mut self, frame: &[Event]) {
        if frame.is_empty() {
            return;
        }
        let motion = frame.iter().all(|event| event.is_motion());
        let before = self.queued.slot();
        frame.iter().for_each(|event| self.queued.apply(*event));
        if motion && self.motion > 0 && self.events.len() >= self.motion {
            self.merge(frame);
        } else {
            self.append(frame);
            self.motion = if motion { frame.len() + 1 } else { 0 };
            self.motion_slot = before;
        }
        if self.events.len() > MAX_EVENTS {
            self.collapse();
        }
    }

    /// Adds what brings the guest to `state`.
    pub(crate) fn bring_to(&mut self, state: &State) {
        let events = self.queued.events_to(state);
        self.push(&events);
    }

    /// Lifts all keys and contacts, since nobody knows of them any more.
    pub(crate) fn release(&mut self) {
        let events = self.queued.release();
        self.push(&events);
    }

    /// Buffers that it takes to lift what the guest was told to be pressed, with the end of the frame.
    pub(crate) fn release_len(&self) -> usize {
        match self.told.release().len() {
            0 => 0,
            len => len + 1,
        }
    }

    /// The guest stops: has it lift what it was told to be pressed instead of what waits, with at most `room` events.
    pub(crate) fn end(&mut self, room: usize) {
        self.forget();
        let mut events = self.told.release();
        events.truncate(room.saturating_sub(1));
        self.push(&events);
    }

    /// Forgets what waits: the guest stops. What it was told may be told again.
    pub(crate) fn forget(&mut self) {
        self.events.clear();
        (self.begun, self.motion) = (false, 0);
        self.queued = self.told.clone();
    }

    fn append(&mut self, frame: &[Event]) {
        self.events.extend(frame);
        self.events.push_back(Event::REPORT);
    }

    /// Merges a frame of motion into the last one, which is too.
    fn merge(&mut self, frame: &[Event]) {
        let at = self.events.len() - self.motion;
        let mut events: Vec<Event> = self.events.drain(at..).collect();
        events.extend(frame);
        let merged = merged(self.motion_slot, &events);
        self.motion = 0;
        if !merged.is_empty() {
            self.append(&merged);
            self.motion = merged.len() + 1;
        }
    }

    /// Makes two frames of all that waits, beside the rest of a frame that was begun.
    fn collapse(&mut self) {
        let waiting: Vec<Event> = self.events.drain(..).collect();
        let ends = waiting.iter().position(|event| event.is_report());
        let begun = ends.filter(|_| self.begun).map_or(0, |at| at + 1);
        let (rest, waiting) = waiting.split_at(begun);
        self.events.extend(rest);
        let mut now = self.told.clone();
        rest.iter().for_each(|event| now.apply(*event));

        let (start, mut changed) = (now.clone(), BTreeSet::new());
        for event in waiting {
            if event.kind == EV_KEY && now.is_down(event.code) != (event.value != 0) {
                changed.insert(event.code);
            }
            now.apply(*event);
        }
        let moved = |event: &&Event| event.kind == EV_REL;
        let mut first = merged(0, &waiting.iter().filter(moved).copied().collect::<Vec<_>>());
        first.extend(start.places_to(&now));
        let edge = |key: &u16, down: bool| Event::new(EV_KEY, *key, i32::from(down));
        first.extend(changed.iter().map(|key| edge(key, !start.is_down(*key))));
        let twice = changed
            .iter()
            .filter(|key| start.is_down(**key) == now.is_down(**key));
        let second: Vec<Event> = twice.map(|key| edge(key, now.is_down(*key))).collect();
        for frame in [first, second] {
            if !frame.is_empty() {
                self.append(&frame);
            }
        }
        self.motion = 0;
    }
}

/// One frame that moves as far as all `events` of motion, the first of which is for `slot`. Without its end.
fn merged(mut slot: i32, events: &[Event]) -> Vec<Event> {
    let began_in = slot;
    let mut last: Vec<(Option<i32>, Event)> = Vec::new();
    for event in events.iter().filter(|event| !event.is_report()) {
        if (event.kind, event.code) == (EV_ABS, ABS_MT_SLOT) {
            slot = event.value;
            continue;
        }
        let place = event.is_of_contact().then_some(slot);
        let same = |(at, known): &&mut (Option<i32>, Event)| {
            (*at, known.kind, known.code) == (place, event.kind, event.code)
        };
        match last.iter_mut().find(same) {
            Some((_, known)) if event.kind == EV_REL => known.value = known.value.saturating_add(event.value),
            Some((_, known)) => known.value = event.value,
            None => last.push((place, *event)),
        }
    }
    last.retain(|(_, event)| event.kind != EV_REL || event.value != 0);
    // The slot that the next frame begins in comes last.
    last.sort_by_key(|(place, _)| (place.is_none(), *place == Some(slot), *place));
    let (mut at, mut merged) = (began_in, Vec::new());
    let mut entered = false;
    for (place, event) in last {
        let next = place.unwrap_or(slot);
        if next != at || (place.is_some() && !entered) {
            merged.push(Event::new(EV_ABS, ABS_MT_SLOT, next));
        }
        (at, entered) = (next, true);
        merged.push(event);
    }
    if at != slot {
        merged.push(Event::new(EV_ABS, ABS_MT_SLOT, slot));
    }
    merged
}

#[cfg(test)]
mod tests;
