// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `struct virtio_input_event` (virtio 1.3, section 5.8.6), which both virtqueues carry, to and from bytes.
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::spec::{
    ABS_MT_FIRST, ABS_MT_LAST, ABS_MT_TRACKING_ID, EV_ABS, EV_LED, EV_MSC, EV_REL, EV_REP, EV_SND, EV_SYN,
    EVENT_LEN, MSC_TIMESTAMP, SYN_REPORT,
};

/// One event, in the terms of Linux's evdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Type: `EV_KEY`, `EV_REL`, ...
    pub kind: u16,
    /// What of that type: a key, an axis, an LED.
    pub code: u16,
    /// 1 and 0 for a key that goes down and up, a distance, a position.
    pub value: i32,
}

impl Event {
    /// The end of a frame: what came since the last one happened at once.
    pub const REPORT: Self = Self::new(EV_SYN, SYN_REPORT, 0);

    /// An event.
    #[must_use]
    pub const fn new(kind: u16, code: u16, value: i32) -> Self {
        Self { kind, code, value }
    }

    /// As it lies in guest memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; EVENT_LEN] {
        let [k0, k1] = self.kind.to_le_bytes();
        let [c0, c1] = self.code.to_le_bytes();
        let [v0, v1, v2, v3] = self.value.to_le_bytes();
        [k0, k1, c0, c1, v0, v1, v2, v3]
    }

    /// From guest memory.
    #[must_use]
    pub fn from_bytes(bytes: [u8; EVENT_LEN]) -> Self {
        let [k0, k1, c0, c1, v0, v1, v2, v3] = bytes;
        Self {
            kind: u16::from_le_bytes([k0, k1]),
            code: u16::from_le_bytes([c0, c1]),
            value: i32::from_le_bytes([v0, v1, v2, v3]),
        }
    }

    /// Whether it is for the host's device when the guest sends it.
    ///
    /// Linux also returns each `EV_MSC` that it got. Written to a device of the host, that comes back as one
    /// more event of the next frame, and so on without end.
    #[must_use]
    pub fn is_status(self) -> bool {
        matches!(self.kind, EV_LED | EV_SND | EV_REP)
    }

    /// Whether it ends a frame.
    pub(crate) fn is_report(self) -> bool {
        (self.kind, self.code) == (EV_SYN, SYN_REPORT)
    }

    /// Whether a later one may take its place, or be added to it, without a press or a contact being lost.
    pub(crate) fn is_motion(self) -> bool {
        match self.kind {
            EV_REL => true,
            EV_ABS => self.code != ABS_MT_TRACKING_ID,
            EV_MSC => self.code == MSC_TIMESTAMP,
            _ => false,
        }
    }

    /// Whether it belongs to a contact of a touch screen.
    pub(crate) fn is_of_contact(self) -> bool {
        self.kind == EV_ABS && (ABS_MT_FIRST..=ABS_MT_LAST).contains(&self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::Event;
    use crate::spec::{EV_KEY, EV_LED, EV_MSC, EV_REP, EV_SND, EV_SYN};

    #[test]
    fn an_event_is_little_endian_and_signed() {
        let event = Event::new(0x0102, 0x0304, -2);
        assert_eq!(event.to_bytes(), [2, 1, 4, 3, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(Event::from_bytes(event.to_bytes()), event);
    }

    #[test]
    fn only_leds_sounds_and_repeats_are_for_the_host() {
        let status = |kind| Event::new(kind, 0, 1).is_status();
        assert!([EV_LED, EV_SND, EV_REP].map(status) == [true; 3]);
        assert!([EV_SYN, EV_KEY, EV_MSC, 0x15, 0xffff].map(status) == [false; 5]);
    }
}
