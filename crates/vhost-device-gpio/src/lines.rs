// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lines of a device, and what the driver has told of each: direction, level to start with, interrupt.
//!
//! Generic over the buffers of the event queue that are parked here.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io;

use vu_common::guest_warn;

use crate::backend::{Chip, Edge, Edges};
use crate::irq::{Answer, Interrupt};
use crate::request::{Direction, Line, Trigger};

/// The chip, and the state of each line.
pub(crate) struct Lines<B> {
    chip: Box<dyn Chip>,
    states: Vec<State<B>>,
}

struct State<B> {
    /// `None` until the driver sets a direction for the first time: then it is the host's, by which a
    /// driver learns of an output without an error. Deactivated, it is `Some(None)`.
    direction: Option<Option<Direction>>,
    /// The level to start an output with.
    output: bool,
    interrupt: Interrupt<B>,
}

impl<B> Default for State<B> {
    fn default() -> Self {
        Self {
            direction: None,
            output: false,
            interrupt: Interrupt::default(),
        }
    }
}

/// A buffer to give back.
pub(crate) type Back<B> = Option<(B, Answer)>;

impl<B> Lines<B> {
    pub(crate) fn new(chip: Box<dyn Chip>) -> Self {
        let states = chip.names().iter().map(|_| State::default()).collect();
        Self { chip, states }
    }

    pub(crate) fn count(&self) -> usize {
        self.states.len()
    }

    pub(crate) fn chip(&self) -> &dyn Chip {
        &*self.chip
    }

    fn state(&mut self, line: Line) -> io::Result<&mut State<B>> {
        // A `Line` is below their number.
        let state = self.states.get_mut(line.index());
        state.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn direction(&mut self, line: Line) -> io::Result<Option<Direction>> {
        match self.state(line)?.direction {
            Some(direction) => Ok(direction),
            None => self.chip.direction(line).map(Some),
        }
    }

    /// Activates a line.
    pub(crate) fn activate(&mut self, line: Line, direction: Direction) -> io::Result<()> {
        let state = self.state(line)?;
        if direction == Direction::Out && state.interrupt.trigger().is_some() {
            // Linux refuses this to its own drivers, too.
            return Err(refused(
                line,
                "its interrupt is enabled: it cannot become an output",
            ));
        }
        let output = state.output;
        self.chip.set_direction(line, direction, output)?;
        self.state(line)?.direction = Some(Some(direction));
        Ok(())
    }

    /// Deactivates a line: all state of it is discarded (section 5.18.6.8).
    pub(crate) fn deactivate(&mut self, line: Line) -> io::Result<Back<B>> {
        let state = self.state(line)?;
        let parked = state.interrupt.disable();
        *state = State {
            direction: Some(None),
            ..State::default()
        };
        self.chip.release(line);
        Ok(parked.map(invalid))
    }

    pub(crate) fn value(&mut self, line: Line) -> io::Result<bool> {
        self.chip.value(line)
    }

    /// Sets an output, or the level that it starts with if it becomes one.
    pub(crate) fn set_value(&mut self, line: Line, level: bool) -> io::Result<()> {
        self.chip.may_drive(line)?;
        if self.direction(line)? == Some(Direction::Out) {
            self.chip.set_value(line, level)?;
        }
        self.state(line)?.output = level;
        Ok(())
    }

    /// Enables the interrupt of a line. One that the driver has not activated becomes an input for it.
    pub(crate) fn enable(&mut self, line: Line, trigger: Trigger) -> io::Result<Back<B>> {
        if self.direction(line)? == Some(Direction::Out) {
            return Err(refused(line, "it is an output: it cannot interrupt"));
        }
        self.chip.watch(
            line,
            Some(match trigger {
                Trigger::EdgeRising => Edges::Rising,
                Trigger::EdgeFalling => Edges::Falling,
                // A level is read when an edge comes, and at each unmasking.
                Trigger::EdgeBoth | Trigger::LevelHigh | Trigger::LevelLow => Edges::Both,
            }),
        )?;
        self.state(line)?.interrupt.enable(trigger);
        // It may be unmasked already.
        let level = self.level(line);
        let interrupt = &mut self.state(line)?.interrupt;
        Ok(level.and_then(|level| interrupt.edge(level)).map(valid))
    }

    /// Disables the interrupt of a line. One that the driver has not activated is released.
    pub(crate) fn disable(&mut self, line: Line) -> io::Result<Back<B>> {
        let state = self.state(line)?;
        let (was_enabled, parked) = (state.interrupt.trigger().is_some(), state.interrupt.disable());
        if matches!(state.direction, None | Some(None)) {
            if was_enabled {
                self.chip.release(line);
            }
        } else if let Err(e) = self.chip.watch(line, None) {
            // Nothing is told of its edges any more, whatever the host does.
            guest_warn!("{e}");
        }
        Ok(parked.map(invalid))
    }

    /// Unmasks the interrupt of a line with `buffer`; what to give back at once.
    pub(crate) fn unmask(&mut self, line: Line, buffer: B) -> Back<B> {
        let level = self.level(line);
        match self.states.get_mut(line.index()) {
            Some(state) => state.interrupt.unmask(buffer, level.unwrap_or(false)),
            None => Some(invalid(buffer)),
        }
    }

    /// The level of a line whose trigger is one. If it cannot be read, it is taken for inactive, and the
    /// next edge tells.
    fn level(&mut self, line: Line) -> Option<bool> {
        let trigger = self.states.get(line.index())?.interrupt.trigger()?;
        let inactive = match trigger {
            Trigger::LevelHigh => false,
            Trigger::LevelLow => true,
            _ => return None,
        };
        let level = self.chip.value(line);
        Some(level.unwrap_or_else(|e| {
            guest_warn!("{e}");
            inactive
        }))
    }

    /// Moves the edges that the chip has seen to the end of `edges`.
    pub(crate) fn edges(&mut self, edges: &mut Vec<Edge>) {
        self.chip.edges(edges);
    }

    /// The buffer to give back for an edge. Of a level the line's state now counts: the edge may be old.
    pub(crate) fn edge(&mut self, edge: Edge) -> Back<B> {
        let level = self.level(edge.line).unwrap_or(edge.level);
        let state = self.states.get_mut(edge.line.index())?;
        state.interrupt.edge(level).map(valid)
    }

    /// Takes all parked buffers, when their ring ends.
    pub(crate) fn take_buffers(&mut self) -> Vec<B> {
        let states = self.states.iter_mut();
        states.filter_map(|state| state.interrupt.take_buffer()).collect()
    }

    /// Releases all lines and forgets all that the driver told.
    pub(crate) fn release(&mut self) {
        let lines = self.states.len();
        for (number, state) in (0..).zip(&mut self.states) {
            *state = State::default();
            if let Some(line) = Line::new(number, lines) {
                self.chip.release(line);
            }
        }
    }
}

fn valid<B>(buffer: B) -> (B, Answer) {
    (buffer, Answer::Valid)
}

fn invalid<B>(buffer: B) -> (B, Answer) {
    (buffer, Answer::Invalid)
}

fn refused(line: Line, why: &str) -> io::Error {
    io::Error::other(format!("{line} of the guest: {why}"))
}

#[cfg(test)]
mod tests {
    use super::{Answer, Lines};
    use crate::backend::Edge;
    use crate::backend::sim::{Board, Wiring};
    use crate::request::{Direction, Line, Trigger};

    /// Line 0, and line 1 that follows it.
    fn lines() -> (Lines<u32>, Line, Line) {
        let follower = Wiring {
            follows: Some(0),
            ..Wiring::default()
        };
        let board = Board::new(vec![Wiring::default(), follower]).unwrap();
        let line = |number| Line::new(number, 2).unwrap();
        (Lines::new(board.chip()), line(0), line(1))
    }

    fn deliver(lines: &mut Lines<u32>) -> Vec<(u32, Answer)> {
        let mut edges: Vec<Edge> = Vec::new();
        lines.edges(&mut edges);
        edges.into_iter().filter_map(|edge| lines.edge(edge)).collect()
    }

    #[test]
    fn a_level_set_before_is_the_one_that_an_output_starts_with() {
        let (mut lines, source, _) = lines();
        lines.set_value(source, true).unwrap();
        assert!(!lines.value(source).unwrap(), "it is an input still");
        lines.activate(source, Direction::Out).unwrap();
        assert!(lines.value(source).unwrap());
        lines.deactivate(source).unwrap();
        lines.activate(source, Direction::Out).unwrap();
        assert!(!lines.value(source).unwrap(), "all state was discarded");
    }

    #[test]
    fn a_deactivated_line_has_no_direction_and_an_untouched_one_the_hosts() {
        let (mut lines, source, _) = lines();
        assert_eq!(lines.direction(source).unwrap(), Some(Direction::In));
        lines.activate(source, Direction::Out).unwrap();
        assert_eq!(lines.direction(source).unwrap(), Some(Direction::Out));
        lines.deactivate(source).unwrap();
        assert_eq!(lines.direction(source).unwrap(), None);
        lines.release();
        assert_eq!(lines.direction(source).unwrap(), Some(Direction::In));
    }

    #[test]
    fn an_output_and_an_interrupt_exclude_each_other() {
        let (mut lines, source, follower) = lines();
        lines.activate(source, Direction::Out).unwrap();
        assert!(lines.enable(source, Trigger::EdgeBoth).is_err());
        lines.enable(follower, Trigger::EdgeBoth).unwrap();
        assert!(lines.activate(follower, Direction::Out).is_err());
        lines.disable(follower).unwrap();
        lines.activate(follower, Direction::Out).unwrap();
    }

    #[test]
    fn a_line_interrupts_without_being_activated() {
        let (mut lines, source, follower) = lines();
        lines.activate(source, Direction::Out).unwrap();
        assert_eq!(lines.enable(follower, Trigger::EdgeRising).unwrap(), None);
        assert_eq!(lines.unmask(follower, 7), None);
        lines.set_value(source, true).unwrap();
        assert_eq!(deliver(&mut lines), [(7, Answer::Valid)]);
        lines.disable(follower).unwrap();
        lines.set_value(source, false).unwrap();
        lines.set_value(source, true).unwrap();
        assert_eq!(deliver(&mut lines), []);
    }

    #[test]
    fn a_level_that_is_there_when_an_unmasked_interrupt_is_enabled_counts() {
        let (mut lines, source, follower) = lines();
        lines.activate(source, Direction::Out).unwrap();
        lines.set_value(source, true).unwrap();
        lines.enable(follower, Trigger::LevelLow).unwrap();
        assert_eq!(lines.unmask(follower, 7), None);
        assert_eq!(
            lines.enable(follower, Trigger::LevelHigh).unwrap(),
            Some((7, Answer::Valid))
        );
    }

    #[test]
    fn whatever_ends_an_interrupt_gives_its_buffer_back() {
        let (mut lines, _, follower) = lines();
        let park = |lines: &mut Lines<u32>| {
            lines.enable(follower, Trigger::EdgeBoth).unwrap();
            assert_eq!(lines.unmask(follower, 7), None);
        };
        park(&mut lines);
        assert_eq!(lines.disable(follower).unwrap(), Some((7, Answer::Invalid)));
        park(&mut lines);
        assert_eq!(lines.deactivate(follower).unwrap(), Some((7, Answer::Invalid)));
        park(&mut lines);
        assert_eq!(lines.take_buffers(), [7]);
    }
}
