// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interrupt of one line (virtio 1.3, sections 5.18.6.6 and 5.18.7): enabled or not, masked or not, latched.
//!
//! It is unmasked for as long as a buffer of the event queue is parked here. Pure: generic over the buffer.
//!
//! A driver that unmasks it without having enabled it is told so once, and is then waited for. Linux takes "invalid"
//! for a race and unmasks again at once, for ever, if it enabled the interrupt at a daemon that has ended since.

use crate::request::Trigger;

/// What the buffer of a line goes back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `VIRTIO_GPIO_IRQ_STATUS_VALID`: the line interrupted.
    Valid,
    /// `VIRTIO_GPIO_IRQ_STATUS_INVALID`: the interrupt is not enabled.
    Invalid,
}

/// The interrupt of one line.
#[derive(Debug)]
pub(crate) struct Interrupt<B> {
    trigger: Option<Trigger>,
    latched: bool,
    buffer: Option<B>,
    /// The driver was told that it is not enabled.
    told: bool,
}

impl<B> Default for Interrupt<B> {
    fn default() -> Self {
        Self {
            trigger: None,
            latched: false,
            buffer: None,
            told: false,
        }
    }
}

impl<B> Interrupt<B> {
    /// What it waits for; `None` if it is disabled.
    pub(crate) fn trigger(&self) -> Option<Trigger> {
        self.trigger
    }

    /// Enables it. What was latched under another trigger is forgotten; a parked buffer stays.
    pub(crate) fn enable(&mut self, trigger: Trigger) {
        if self.trigger != Some(trigger) {
            self.latched = false;
        }
        (self.trigger, self.told) = (Some(trigger), false);
    }

    /// Disables it; the buffer to give back as [`Answer::Invalid`].
    pub(crate) fn disable(&mut self) -> Option<B> {
        (self.trigger, self.latched, self.told) = (None, false, false);
        self.buffer.take()
    }

    /// Unmasks it with `buffer` while the line is at `level`. Returns a buffer to give back at once: this one
    /// if there is something to tell or it is disabled, else the one that was here before, since a
    /// driver has no more than one for a line.
    pub(crate) fn unmask(&mut self, buffer: B, level: bool) -> Option<(B, Answer)> {
        match self.trigger {
            None if !std::mem::replace(&mut self.told, true) => Some((buffer, Answer::Invalid)),
            Some(trigger) if std::mem::take(&mut self.latched) || is_active(trigger, level) => {
                Some((buffer, Answer::Valid))
            }
            _ => self.buffer.replace(buffer).map(|old| (old, Answer::Invalid)),
        }
    }

    /// The line went to `level`. Returns the buffer to give back as [`Answer::Valid`], which masks it;
    /// if it is masked already, an edge is latched and a level is not.
    pub(crate) fn edge(&mut self, level: bool) -> Option<B> {
        let fires = match self.trigger? {
            Trigger::EdgeRising => level,
            Trigger::EdgeFalling => !level,
            Trigger::EdgeBoth => true,
            trigger => return self.level(trigger, level),
        };
        if !fires {
            return None;
        }
        let buffer = self.buffer.take();
        self.latched = buffer.is_none();
        buffer
    }

    fn level(&mut self, trigger: Trigger, level: bool) -> Option<B> {
        is_active(trigger, level).then(|| self.buffer.take()).flatten()
    }

    /// Takes the parked buffer, when the event queue stops.
    pub(crate) fn take_buffer(&mut self) -> Option<B> {
        self.buffer.take()
    }
}

fn is_active(trigger: Trigger, level: bool) -> bool {
    match trigger {
        Trigger::LevelHigh => level,
        Trigger::LevelLow => !level,
        Trigger::EdgeRising | Trigger::EdgeFalling | Trigger::EdgeBoth => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Interrupt};
    use crate::request::Trigger;

    fn enabled(trigger: Trigger) -> Interrupt<u32> {
        let mut irq = Interrupt::default();
        irq.enable(trigger);
        irq
    }

    #[test]
    fn an_edge_is_delivered_once_and_masks() {
        for (trigger, high, low) in [
            (Trigger::EdgeRising, Some(1), None),
            (Trigger::EdgeFalling, None, Some(1)),
            (Trigger::EdgeBoth, Some(1), Some(1)),
        ] {
            for (level, expected) in [(true, high), (false, low)] {
                let mut irq = enabled(trigger);
                assert_eq!(irq.unmask(1, !level), None);
                assert_eq!(irq.edge(level), expected, "{trigger:?}");
            }
        }
    }

    #[test]
    fn edges_while_masked_are_latched_as_one() {
        let mut irq = enabled(Trigger::EdgeBoth);
        assert_eq!((irq.edge(true), irq.edge(false)), (None, None));
        assert_eq!(irq.unmask(1, false), Some((1, Answer::Valid)));
        assert_eq!(irq.unmask(2, false), None);
        assert_eq!(irq.edge(true), Some(2));
    }

    #[test]
    fn disabling_forgets_what_was_latched_and_returns_the_buffer() {
        let mut irq = enabled(Trigger::EdgeRising);
        irq.edge(true);
        assert_eq!(irq.disable(), None);
        irq.enable(Trigger::EdgeRising);
        assert_eq!(irq.unmask(1, true), None);
        assert_eq!(irq.disable(), Some(1));
        assert_eq!(irq.edge(true), None);
    }

    #[test]
    fn a_level_interrupts_while_it_lasts_and_is_never_latched() {
        for (trigger, active) in [(Trigger::LevelHigh, true), (Trigger::LevelLow, false)] {
            let mut irq = enabled(trigger);
            assert_eq!((irq.edge(active), irq.edge(!active)), (None, None));
            assert_eq!(irq.unmask(1, !active), None, "not latched");
            assert_eq!(irq.edge(!active), None);
            assert_eq!(irq.edge(active), Some(1));
            assert_eq!(irq.unmask(2, active), Some((2, Answer::Valid)), "still active");
            assert_eq!(irq.unmask(3, !active), None);
        }
    }

    #[test]
    fn unmasking_a_disabled_line_returns_the_buffer_as_invalid() {
        let mut irq = Interrupt::default();
        assert_eq!(irq.unmask(1, true), Some((1, Answer::Invalid)));
        assert_eq!(irq.edge(true), None);
    }

    #[test]
    fn a_driver_that_insists_on_a_disabled_line_waits_until_it_is_enabled_or_disabled() {
        let mut irq = Interrupt::default();
        assert_eq!(irq.unmask(1, true), Some((1, Answer::Invalid)));
        assert_eq!(irq.unmask(2, true), None);
        assert_eq!(irq.edge(true), None);
        assert_eq!(irq.disable(), Some(2));
        irq.unmask(3, true);
        assert_eq!(irq.unmask(4, true), None);
        irq.enable(Trigger::EdgeRising);
        assert_eq!(irq.edge(true), Some(4));
    }

    #[test]
    fn a_second_buffer_of_a_line_sends_the_first_back() {
        let mut irq = enabled(Trigger::EdgeRising);
        assert_eq!(irq.unmask(1, false), None);
        assert_eq!(irq.unmask(2, false), Some((1, Answer::Invalid)));
        assert_eq!(irq.take_buffer(), Some(2));
    }

    #[test]
    fn another_trigger_forgets_what_the_first_latched() {
        let mut irq = enabled(Trigger::EdgeRising);
        irq.edge(true);
        irq.enable(Trigger::EdgeRising);
        assert_eq!(
            irq.unmask(1, true),
            Some((1, Answer::Valid)),
            "the same one does not"
        );
        irq.edge(true);
        irq.enable(Trigger::EdgeFalling);
        assert_eq!(irq.unmask(2, true), None);
    }
}
