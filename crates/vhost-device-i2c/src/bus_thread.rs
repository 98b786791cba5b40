// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bus that may block, on a thread of its own: one transfer at a time, and nobody waits for it but by choice.
//!
//! A transfer that takes too long is given up, not ended: nothing ends a system call that a driver of the host
//! does not let go. Until it comes back by itself the bus is busy, and its late result is forgotten.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vu_common::Waker;

use crate::backend::{Bus, Failure, Message};

/// The messages of a transfer, with what was read, and how it ended.
pub(crate) type Outcome = (Vec<Message>, Result<(), Failure>);

/// Where the one transfer is.
enum Slot {
    /// There is none.
    Idle,
    /// It waits for the thread.
    Asked(Vec<Message>, Waker),
    /// It is on the bus.
    Busy,
    /// It waits to be collected, or was given up.
    Done(Outcome),
    /// There will be none any more.
    Closed,
}

struct Shared {
    slot: Mutex<Slot>,
    asked: Condvar,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next transfer; `None` at the end.
    fn next(&self) -> Option<(Vec<Message>, Waker)> {
        let mut slot = self.slot();
        loop {
            match std::mem::replace(&mut *slot, Slot::Busy) {
                Slot::Asked(messages, waker) => return Some((messages, waker)),
                Slot::Closed => return None,
                other => *slot = other,
            }
            slot = self.asked.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, outcome: Outcome) {
        let mut slot = self.slot();
        // Else it was closed meanwhile.
        if matches!(*slot, Slot::Busy) {
            *slot = Slot::Done(outcome);
        }
    }
}

/// The handle of the thread. It ends with the handle, or when its bus lets go of it after that.
pub(crate) struct BusThread(Arc<Shared>);

impl BusThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host has no thread to give.
    pub(crate) fn spawn(mut bus: Box<dyn Bus>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot::Idle),
            asked: Condvar::new(),
        });
        let its = shared.clone();
        let body = move || {
            while let Some((mut messages, waker)) = its.next() {
                let result = bus.transfer(&mut messages);
                its.finish((messages, result));
                waker.wake();
            }
        };
        // Never joined: a bus that is stuck must not hold up the end of the daemon.
        std::thread::Builder::new().name("i2c-bus".into()).spawn(body)?;
        Ok(Self(shared))
    }

    /// Starts a transfer, at whose end `waker` is called.
    ///
    /// # Errors
    /// The messages, unsent, when the bus is still busy with a transfer that was given up.
    pub(crate) fn start(&self, messages: Vec<Message>, waker: Waker) -> Result<(), Vec<Message>> {
        let mut slot = self.0.slot();
        // A transfer that is done now was given up: its worker would have collected it.
        if !matches!(*slot, Slot::Idle | Slot::Done(_)) {
            return Err(messages);
        }
        *slot = Slot::Asked(messages, waker);
        drop(slot);
        self.0.asked.notify_one();
        Ok(())
    }

    /// The outcome of the transfer that was started, if it has ended.
    pub(crate) fn collect(&self) -> Option<Outcome> {
        let mut slot = self.0.slot();
        match std::mem::replace(&mut *slot, Slot::Idle) {
            Slot::Done(outcome) => Some(outcome),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Takes back a transfer that has not reached the bus, when nobody is going to collect it.
    pub(crate) fn give_up(&self) {
        let mut slot = self.0.slot();
        if matches!(*slot, Slot::Asked(..)) {
            *slot = Slot::Idle;
        }
    }
}

impl Drop for BusThread {
    fn drop(&mut self) {
        *self.0.slot() = Slot::Closed;
        self.0.asked.notify_one();
    }
}
