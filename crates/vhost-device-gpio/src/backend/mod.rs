// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host side: chips whose lines the guest gets.

pub mod linux;
pub mod sim;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::request::{Direction, Line};

/// The edges of a line that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// Low to high.
    Rising,
    /// High to low.
    Falling,
    /// Both.
    Both,
}

/// A line changed its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The line.
    pub line: Line,
    /// The level that it went to.
    pub level: bool,
}

/// The lines of one guest. Owned by its worker; nothing in it blocks for longer than the chip takes.
///
/// Every error names the chip and the line, and who else has the line if that is why.
pub trait Chip: Send {
    /// The names of the lines, in order; empty where a line has none.
    fn names(&self) -> Vec<String>;

    /// Whether the guest may drive a line.
    ///
    /// # Errors
    /// It may only be read.
    fn may_drive(&self, _line: Line) -> io::Result<()> {
        Ok(())
    }

    /// Which way a line goes now, whoever uses it; it is not taken for that.
    ///
    /// # Errors
    /// What the host refused.
    fn direction(&mut self, line: Line) -> io::Result<Direction>;

    /// Takes a line as an input, or as an output that starts at `level`.
    ///
    /// # Errors
    /// What the host refused; the line is as before, or released.
    fn set_direction(&mut self, line: Line, direction: Direction, level: bool) -> io::Result<()>;

    /// Releases a line, if it was taken; its edges are reported no longer.
    fn release(&mut self, line: Line);

    /// The level of a line. One that nobody uses is taken as it is: it keeps its direction and its level.
    ///
    /// # Errors
    /// What the host refused.
    fn value(&mut self, line: Line) -> io::Result<bool>;

    /// Sets an output.
    ///
    /// # Errors
    /// What the host refused.
    fn set_value(&mut self, line: Line, level: bool) -> io::Result<()>;

    /// Reports these edges of a line from now on, or none. A line that nobody uses becomes an input.
    ///
    /// # Errors
    /// What the host refused.
    fn watch(&mut self, line: Line, edges: Option<Edges>) -> io::Result<()>;

    /// The board that it is on, if that is simulated.
    fn board(&self) -> Option<Arc<sim::Board>> {
        None
    }

    /// Can be read while there are edges to report.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Moves the edges that were seen to the end of `edges`, in order of time.
    fn edges(&mut self, edges: &mut Vec<Edge>);
}
