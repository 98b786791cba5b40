// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Gate`]: lets the metadata thread wait until nobody uses a place in the file any more.
//!
//! An engine looks a place up and starts I/O on it without a lock. To free a cluster, the metadata thread first
//! takes it out of the map, then opens a new generation, and waits until each engine has either nothing in
//! flight or began later. An engine with something in flight from an older generation begins nothing new
//! until that has completed, so the wait is as long as the I/O that is under way and no longer.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};

const IDLE: u64 = 0;
/// In [`Pin`]: the metadata thread wants to be woken.
const WAITED_FOR: u64 = 1;

/// Generation in which an engine began what it has in flight, times two; [`IDLE`] if it has nothing.
type Pin = AtomicU64;

#[derive(Debug)]
pub(super) struct Gate {
    generation: AtomicU64,
    pins: Mutex<Vec<Arc<Pin>>>,
    waiter: OnceLock<Thread>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            generation: AtomicU64::new(1),
            pins: Mutex::default(),
            waiter: OnceLock::new(),
        }
    }

    /// Makes the calling thread the only one that may [`wait`](Self::wait).
    pub(super) fn set_waiter(&self) {
        let _ = self.waiter.set(thread::current());
    }

    /// Returns when all I/O is over that was begun with what the map said before this call.
    pub(super) fn wait(&self) {
        let generation = self.generation.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        // Either we see that an engine has begun, or it sees the map as we left it: both have a full fence between.
        fence(Ordering::SeqCst);
        for pin in &*self.pins.lock().unwrap_or_else(PoisonError::into_inner) {
            loop {
                let state = pin.load(Ordering::SeqCst);
                if state == IDLE || state >> 1 >= generation {
                    break;
                }
                let asked = state | WAITED_FOR;
                if state == asked
                    || pin
                        .compare_exchange(state, asked, Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
                {
                    thread::park();
                }
            }
        }
    }
}

/// An engine's pass.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    pin: Arc<Pin>,
    generation: u64,
    held: usize,
}

impl Pass {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        let pin = Arc::new(Pin::new(IDLE));
        let mut pins = gate.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.push(pin.clone());
        drop(pins);
        Self {
            gate,
            pin,
            generation: 0,
            held: 0,
        }
    }

    /// Must be called before looking into the map. `true`: what the map says then is valid until
    /// [`leave`](Self::leave). `false`: try again when all have left.
    pub(super) fn enter(&mut self) -> bool {
        let now = self.gate.generation.load(Ordering::Acquire);
        if self.held == 0 {
            self.generation = now;
            self.pin.store(now << 1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        } else if now != self.generation {
            return false;
        }
        self.held = self.held.wrapping_add(1);
        true
    }

    pub(super) fn leave(&mut self) {
        self.held = self.held.saturating_sub(1);
        if self.held == 0
            && self.pin.swap(IDLE, Ordering::SeqCst) & WAITED_FOR != 0
            && let Some(waiter) = self.gate.waiter.get()
        {
            waiter.unpark();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut pins = self.gate.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|pin| !Arc::ptr_eq(pin, &self.pin));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{Gate, Pass};

    #[test]
    fn waits_for_what_began_earlier_and_lets_nothing_new_in_before() {
        let gate = Arc::new(Gate::new());
        let mut pass = Pass::new(gate.clone());
        let _idle = Pass::new(gate.clone());
        assert!(pass.enter() && pass.enter());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                gate.set_waiter();
                gate.wait();
                over.store(true, Ordering::SeqCst);
            });
            while pass.enter() {
                pass.leave();
                std::thread::yield_now();
            }
            pass.leave();
            assert!(!pass.enter(), "one is still inside");
            assert!(!over.load(Ordering::SeqCst));
            pass.leave();
        });
        assert!(over.load(Ordering::SeqCst) && pass.is_empty());
        assert!(pass.enter(), "in the new generation");
    }
}
