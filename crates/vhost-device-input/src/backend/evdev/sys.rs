// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control call of an event device that `evdev` does not have.
// UNSAFETY: an ioctl is as safe as what its number says about its argument, which only this file can know.
#![allow(unsafe_code, reason = "an ioctl that no crate we use has a safe call for")]

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Updater, ioctl, opcode};

/// Slots that are asked for; no touch screen has more fingers.
const MAX_SLOTS: usize = 64;

/// An axis, and its value in each slot.
#[repr(C)]
struct Slots {
    code: u32,
    values: [i32; MAX_SLOTS],
}

/// The values of an axis in the first `slots` slots.
pub(super) fn slot_values(fd: impl AsFd, code: u16, slots: usize) -> io::Result<Vec<i32>> {
    const EVIOCGMTSLOTS: u32 = opcode::read::<Slots>(b'E', 0x0a) as u32;
    let mut asked = Slots {
        code: code.into(),
        values: [0; MAX_SLOTS],
    };
    // SAFETY: EVIOCGMTSLOTS reads the code and writes values behind it, as many as fit into the size that is part of
    // its number, which is that of the structure.
    unsafe { ioctl(fd, Updater::<{ EVIOCGMTSLOTS as _ }, Slots>::new(&mut asked)) }?;
    Ok(asked.values.into_iter().take(slots).collect())
}
