// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel tells of a device, or has told when it was recorded, cut into frames of what is for the guest.

use crate::request::Event;
use crate::spec::{EV_ABS, EV_KEY, EV_MSC, EV_REL, EV_SW, EV_SYN, SYN_DROPPED};

/// Events of a frame; one that is longer never ends.
const MAX_FRAME: usize = 4096;
/// The value of a key that the kernel repeats.
const REPEATED: i32 = 2;
/// Ends a contact where contacts have no slots.
const SYN_MT_REPORT: u16 = 2;

/// What an event completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Completed {
    /// A frame, without its end; it may be empty.
    Frame(Vec<Event>),
    /// Events were lost before this: the device has to be asked how it stands.
    Lost,
}

/// The frame that comes in.
#[derive(Debug, Default)]
pub(super) struct Frames {
    frame: Vec<Event>,
    lost: bool,
    /// The guest repeats keys itself, so what the kernel repeats would come twice.
    without_repeats: bool,
}

impl Frames {
    /// Nothing has come in. `without_repeats` if the guest repeats keys itself.
    pub(super) fn new(without_repeats: bool) -> Self {
        Self {
            without_repeats,
            ..Self::default()
        }
    }

    /// The rest of the frame will not come.
    pub(super) fn forget(&mut self) {
        self.frame.clear();
        self.lost = false;
    }

    /// Takes one event.
    pub(super) fn push(&mut self, event: Event) -> Option<Completed> {
        if event.is_report() {
            let frame = std::mem::take(&mut self.frame);
            return Some(match std::mem::take(&mut self.lost) {
                true => Completed::Lost,
                false => Completed::Frame(frame),
            });
        }
        if (event.kind, event.code) == (EV_SYN, SYN_DROPPED) || self.frame.len() >= MAX_FRAME {
            self.lost = true;
        } else if self.is_for_guest(event) {
            self.frame.push(event);
        }
        if self.lost {
            self.frame.clear();
        }
        None
    }

    /// LEDs and sounds come back from the device when they were set; the guest, which did that, knows of them.
    fn is_for_guest(&self, event: Event) -> bool {
        match event.kind {
            EV_KEY => event.value != REPEATED || !self.without_repeats,
            EV_REL | EV_ABS | EV_MSC | EV_SW => true,
            _ => (event.kind, event.code) == (EV_SYN, SYN_MT_REPORT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Completed, Frames, MAX_FRAME};
    use crate::request::Event;

    fn completed(frames: &mut Frames, events: &[(u16, u16, i32)]) -> Vec<Completed> {
        let event = |(kind, code, value): &(u16, u16, i32)| frames.push(Event::new(*kind, *code, *value));
        events.iter().filter_map(event).collect()
    }

    #[test]
    fn a_frame_ends_with_its_report_and_has_what_is_for_the_guest() {
        let frames = &mut Frames::default();
        let events = [
            (4, 4, 30),
            (1, 30, 1),
            (0x11, 1, 1),
            (0x12, 2, 440),
            (0x15, 1, 1),
            (0, 0, 0),
            (2, 0, 5),
        ];
        let frame = vec![Event::new(4, 4, 30), Event::new(1, 30, 1)];
        assert_eq!(completed(frames, &events), [Completed::Frame(frame)]);
        let rest = Completed::Frame(vec![Event::new(2, 0, 5)]);
        assert_eq!(completed(frames, &[(0, 0, 0)]), [rest]);
    }

    #[test]
    fn repeats_are_left_to_a_guest_that_repeats() {
        let repeat = [(1, 30, 2), (0, 0, 1)];
        let mut frames = Frames::default();
        let kept = Completed::Frame(vec![Event::new(1, 30, 2)]);
        assert_eq!(completed(&mut frames, &repeat), [kept]);
        frames.without_repeats = true;
        assert_eq!(completed(&mut frames, &repeat), [Completed::Frame(vec![])]);
    }

    #[test]
    fn after_lost_events_the_rest_of_the_frame_counts_for_nothing() {
        let frames = &mut Frames::default();
        let events = [
            (1, 30, 1),
            (0, 3, 0),
            (1, 31, 1),
            (0, 0, 0),
            (1, 32, 1),
            (0, 0, 0),
        ];
        let next = Completed::Frame(vec![Event::new(1, 32, 1)]);
        assert_eq!(completed(frames, &events), [Completed::Lost, next]);
    }

    #[test]
    fn what_a_device_began_before_it_went_is_no_part_of_what_comes() {
        let frames = &mut Frames::default();
        assert_eq!(completed(frames, &[(1, 30, 1)]), []);
        frames.forget();
        let next = Completed::Frame(vec![Event::new(1, 31, 1)]);
        assert_eq!(completed(frames, &[(1, 31, 1), (0, 0, 0)]), [next]);
    }

    #[test]
    fn a_frame_without_an_end_is_lost() {
        let frames = &mut Frames::default();
        let mut events = vec![(1, 30, 1); MAX_FRAME * 3];
        events.push((0, 0, 0));
        assert_eq!(completed(frames, &events), [Completed::Lost]);
        assert!(frames.frame.is_empty());
    }
}
