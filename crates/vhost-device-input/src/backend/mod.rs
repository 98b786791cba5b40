// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host side: where events come from, and where LEDs and sounds go.

pub mod evdev;
mod frames;
mod names;
pub mod sim;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::config::Description;
use crate::request::Event;
use crate::state::State;

/// What happened at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A frame, without the `SYN_REPORT` at its end. Nothing but keys, axes, switches and what comes with them.
    Frame(Vec<Event>),
    /// Events are missing before this; so it is now.
    State(State),
    /// It has gone, or was taken away from the guest: nothing of it is pressed or touched any more.
    Released,
}

/// A device of the host, for one guest. Owned by its worker while a driver is there; nothing in it blocks.
pub trait Source: Send {
    /// What it is and can do; the same for as long as it exists.
    fn description(&self) -> &Description;

    /// A driver is there: takes the device for it. What happened before is of no interest to it, but how the device
    /// stands now is: the first of the next changes tells it.
    fn attach(&mut self);

    /// The driver has gone: lets go of the device.
    fn detach(&mut self);

    /// The desk on which it stands, if it is simulated.
    fn desk(&self) -> Option<Arc<sim::Desk>> {
        None
    }

    /// Can be read while there are changes to tell. It is the same descriptor for as long as the source exists.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Adds what happened to `changes`.
    fn read(&mut self, changes: &mut Vec<Change>);

    /// Whether it waits when it is not read, and loses nothing.
    fn waits(&self) -> bool;

    /// Passes on what the guest says of LEDs, sounds and repeats: one call for all that came at once.
    fn status(&mut self, events: &[Event]);
}
