// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is pressed, touched and set at a device, as the events so far tell; and the events from one such state to
//! another. That is all there is to a device that vanishes, to events that were lost, and to a guest that starts.

use std::collections::{BTreeMap, BTreeSet};

use crate::request::Event;
use crate::spec::{ABS_MT_SLOT, ABS_MT_TRACKING_ID, EV_ABS, EV_KEY, EV_SW};

/// What is pressed, touched and set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    keys: BTreeSet<u16>,
    switches: BTreeMap<u16, i32>,
    axes: BTreeMap<u16, i32>,
    /// Axes of the contacts of a touch screen, by slot.
    slots: BTreeMap<i32, BTreeMap<u16, i32>>,
    slot: i32,
}

impl State {
    /// Takes in one event.
    pub fn apply(&mut self, event: Event) {
        match event.kind {
            EV_KEY if event.value == 0 => drop(self.keys.remove(&event.code)),
            EV_KEY => drop(self.keys.insert(event.code)),
            EV_SW => drop(self.switches.insert(event.code, event.value)),
            EV_ABS if event.code == ABS_MT_SLOT => self.slot = event.value,
            EV_ABS if event.is_of_contact() => {
                let axes = self.slots.entry(self.slot).or_default();
                axes.insert(event.code, event.value);
            }
            EV_ABS => drop(self.axes.insert(event.code, event.value)),
            _ => {}
        }
    }

    /// Whether a key is down.
    #[must_use]
    pub fn is_down(&self, key: u16) -> bool {
        self.keys.contains(&key)
    }

    /// The slot that events of contacts are for.
    #[must_use]
    pub fn slot(&self) -> i32 {
        self.slot
    }

    /// Whether there is a contact in a slot.
    #[must_use]
    pub fn touches(&self, slot: i32) -> bool {
        let id = self
            .slots
            .get(&slot)
            .and_then(|axes| axes.get(&ABS_MT_TRACKING_ID));
        id.is_some_and(|id| *id >= 0)
    }

    /// The slots in which there is a contact.
    pub fn touched(&self) -> impl Iterator<Item = i32> + '_ {
        self.slots.keys().copied().filter(|slot| self.touches(*slot))
    }

    /// The events that lift every key and every contact, without the end of the frame.
    #[must_use]
    pub fn release(&self) -> Vec<Event> {
        let up = self.keys.iter().map(|key| Event::new(EV_KEY, *key, 0));
        let mut events: Vec<Event> = up.collect();
        let mut slot = self.slot;
        for next in self.touched() {
            if std::mem::replace(&mut slot, next) != next {
                events.push(Event::new(EV_ABS, ABS_MT_SLOT, next));
            }
            events.push(Event::new(EV_ABS, ABS_MT_TRACKING_ID, -1));
        }
        if slot != self.slot {
            events.push(Event::new(EV_ABS, ABS_MT_SLOT, self.slot));
        }
        events
    }

    /// All events that bring a guest in this state to that of `to`, without the end of the frame.
    ///
    /// What is the same in both is told, too: a guest that was reset in between has forgotten it, any other ignores it.
    #[must_use]
    pub fn events_to(&self, to: &Self) -> Vec<Event> {
        let mut events = self.places_to(to);
        let up = self.keys.difference(&to.keys);
        events.extend(up.map(|key| Event::new(EV_KEY, *key, 0)));
        events.extend(to.keys.iter().map(|key| Event::new(EV_KEY, *key, 1)));
        events
    }

    /// Of [`State::events_to`] those that are not of keys.
    pub(crate) fn places_to(&self, to: &Self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut slot = None;
        let mut in_slot = |events: &mut Vec<Event>, at: i32| {
            if slot.replace(at) != Some(at) {
                events.push(Event::new(EV_ABS, ABS_MT_SLOT, at));
            }
        };
        for gone in self.touched().filter(|slot| !to.slots.contains_key(slot)) {
            in_slot(&mut events, gone);
            events.push(Event::new(EV_ABS, ABS_MT_TRACKING_ID, -1));
        }
        for (at, axes) in &to.slots {
            in_slot(&mut events, *at);
            events.extend(axes.iter().map(|(code, value)| Event::new(EV_ABS, *code, *value)));
        }
        if !events.is_empty() || to.slot != self.slot {
            in_slot(&mut events, to.slot);
        }
        events.extend(
            to.axes
                .iter()
                .map(|(code, value)| Event::new(EV_ABS, *code, *value)),
        );
        events.extend(
            to.switches
                .iter()
                .map(|(code, value)| Event::new(EV_SW, *code, *value)),
        );
        events
    }
}

#[cfg(test)]
mod tests {
    use super::State;
    use crate::request::Event;
    use crate::spec::{ABS_MT_POSITION_X, ABS_MT_SLOT, ABS_MT_TRACKING_ID, ABS_X, EV_ABS, EV_KEY, EV_SW};

    fn state(events: &[Event]) -> State {
        let mut state = State::default();
        events.iter().for_each(|event| state.apply(*event));
        state
    }

    fn abs(code: u16, value: i32) -> Event {
        Event::new(EV_ABS, code, value)
    }

    /// Two contacts, a key, a lid that is shut.
    fn busy() -> State {
        state(&[
            abs(ABS_MT_TRACKING_ID, 7),
            abs(ABS_MT_POSITION_X, 70),
            abs(ABS_MT_SLOT, 3),
            abs(ABS_MT_TRACKING_ID, 8),
            abs(ABS_X, 70),
            Event::new(EV_KEY, 30, 1),
            Event::new(EV_SW, 0, 1),
        ])
    }

    #[test]
    fn the_events_to_a_state_lead_there_from_any_other() {
        let elsewhere = state(&[
            abs(ABS_MT_SLOT, 9),
            abs(ABS_MT_TRACKING_ID, 1),
            Event::new(EV_KEY, 31, 1),
        ]);
        for from in [State::default(), elsewhere, busy()] {
            let mut now = from.clone();
            from.events_to(&busy()).iter().for_each(|event| now.apply(*event));
            assert_eq!(now.slot(), 3);
            assert_eq!(now.touched().collect::<Vec<_>>(), [0, 3]);
            assert_eq!((now.is_down(30), now.is_down(31)), (true, false));
            assert_eq!(now.events_to(&busy()), busy().events_to(&busy()));
        }
    }

    #[test]
    fn a_release_lifts_keys_and_contacts_and_changes_nothing_else() {
        let mut now = busy();
        busy().release().iter().for_each(|event| now.apply(*event));
        let lifted = state(&[
            Event::new(EV_KEY, 30, 0),
            abs(ABS_MT_TRACKING_ID, -1),
            abs(ABS_MT_POSITION_X, 70),
            abs(ABS_MT_SLOT, 3),
            abs(ABS_MT_TRACKING_ID, -1),
            abs(ABS_X, 70),
            Event::new(EV_SW, 0, 1),
        ]);
        assert_eq!(now, lifted);
        assert_eq!(lifted.release(), []);
        assert_eq!(busy().release().len(), 5, "the slot is entered again");
    }

    #[test]
    fn a_device_without_slots_gets_no_events_for_them() {
        let keys = state(&[Event::new(EV_KEY, 30, 1)]);
        assert_eq!(State::default().events_to(&keys), [Event::new(EV_KEY, 30, 1)]);
        assert_eq!(keys.release(), [Event::new(EV_KEY, 30, 0)]);
    }
}
