// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bus that may have to wait: whoever asks does the transfer, as long as the bus keeps its time, else a thread does.
//!
//! On the thread a transfer that takes too long is given up, not ended: nothing ends a system call that a driver of
//! the host does not let go. Until it comes back by itself the bus is busy, and its late result is forgotten.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vu_common::Waker;

use crate::backend::{Bus, Failure, Message, Waits};

/// The messages of a transfer, with what was read, and how it ended.
pub(crate) type Outcome = (Vec<Message>, Result<(), Failure>);

/// What a transfer may take beyond the time for its bytes, for the next one not to be left to the thread.
const SPARE: Duration = Duration::from_millis(10);
/// The longest time for its bytes for which a transfer is not left to the thread.
const SHORT: Duration = Duration::from_millis(50);

/// Where the one transfer is.
enum Slot {
    /// There is none.
    Idle,
    /// It waits for the thread.
    Asked(Transfer),
    /// It is on the bus.
    Busy,
    /// It waits to be collected, or was given up.
    Done(Outcome),
    /// There will be none any more.
    Closed,
}

/// A transfer for the thread.
struct Transfer {
    messages: Vec<Message>,
    expected: Duration,
    waker: Waker,
}

struct Shared {
    slot: Mutex<Slot>,
    asked: Condvar,
    bus: Mutex<Box<dyn Bus>>,
    /// The last transfer took about as long as its bytes do, and the bus is one of which that means something.
    is_prompt: AtomicBool,
    waits: Waits,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next transfer; `None` at the end.
    fn next(&self) -> Option<Transfer> {
        let mut slot = self.slot();
        loop {
            match std::mem::replace(&mut *slot, Slot::Busy) {
                Slot::Asked(transfer) => return Some(transfer),
                Slot::Closed => return None,
                other => *slot = other,
            }
            slot = self.asked.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does a transfer, and looks how long it takes.
    fn transfer(&self, messages: &mut [Message], expected: Duration) -> Result<(), Failure> {
        // Nobody else has it: there is one transfer at a time.
        let mut bus = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let result = bus.transfer(messages);
        let is_prompt = self.waits == Waits::Usually && start.elapsed() <= expected.saturating_add(SPARE);
        self.is_prompt.store(is_prompt, Ordering::Relaxed);
        result
    }

    fn finish(&self, outcome: Outcome) {
        let mut slot = self.slot();
        // Else it was closed meanwhile.
        if matches!(*slot, Slot::Busy) {
            *slot = Slot::Done(outcome);
        }
    }

    fn is_busy(&self) -> bool {
        // A transfer that is done now was given up: its worker would have collected it.
        !matches!(*self.slot(), Slot::Idle | Slot::Done(_))
    }
}

/// The handle of the bus and its thread, which ends with the handle, or when the bus lets go of it after that.
pub(crate) struct BusThread(Arc<Shared>);

impl BusThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host has no thread to give.
    pub(crate) fn spawn(bus: Box<dyn Bus>) -> io::Result<Self> {
        let waits = bus.waits();
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot::Idle),
            asked: Condvar::new(),
            bus: Mutex::new(bus),
            is_prompt: AtomicBool::new(false),
            waits,
        });
        let its = shared.clone();
        let body = move || {
            while let Some(mut transfer) = its.next() {
                let result = its.transfer(&mut transfer.messages, transfer.expected);
                its.finish((transfer.messages, result));
                transfer.waker.wake();
            }
        };
        // Never joined: a bus that is stuck must not hold up the end of the daemon.
        vu_common::thread::spawn("i2c-bus", body)?;
        Ok(Self(shared))
    }

    /// Does a transfer whose bytes take as long as `expected` at once, if the bus has kept its time so far: the way
    /// to the thread and back takes longer than many a transfer.
    pub(crate) fn at_once(
        &self,
        messages: &mut [Message],
        expected: Duration,
    ) -> Option<Result<(), Failure>> {
        let prompt = expected <= SHORT && self.0.is_prompt.load(Ordering::Relaxed) && !self.0.is_busy();
        prompt.then(|| self.0.transfer(messages, expected))
    }

    /// Starts a transfer, at whose end `waker` is called.
    ///
    /// # Errors
    /// The messages, unsent, when the bus is still busy with a transfer that was given up.
    pub(crate) fn start(
        &self,
        messages: Vec<Message>,
        expected: Duration,
        waker: Waker,
    ) -> Result<(), Vec<Message>> {
        if self.0.is_busy() {
            return Err(messages);
        }
        *self.0.slot() = Slot::Asked(Transfer {
            messages,
            expected,
            waker,
        });
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
        if matches!(*slot, Slot::Asked(_)) {
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

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};
    use std::time::{Duration, Instant};

    use super::BusThread;
    use crate::backend::{Address, Bus, Direction, Failure, Message, Waits};

    /// Takes as many milliseconds as the first byte says, and answers by whether the test's own thread does it.
    struct Timed {
        test: ThreadId,
        waits: Waits,
    }

    impl Bus for Timed {
        fn name(&self) -> String {
            "timed".into()
        }

        fn waits(&self) -> Waits {
            self.waits
        }

        fn max_messages(&self) -> usize {
            1
        }

        fn transfer(&mut self, messages: &mut [Message]) -> Result<(), Failure> {
            let data = &mut messages[0].data;
            thread::sleep(Duration::from_millis(data[0].into()));
            data[0] = u8::from(thread::current().id() == self.test);
            Ok(())
        }
    }

    fn bus(waits: Waits) -> BusThread {
        let test = thread::current().id();
        BusThread::spawn(Box::new(Timed { test, waits })).unwrap()
    }

    fn message(ms: u8) -> Vec<Message> {
        vec![Message {
            address: Address::Seven(0x50),
            direction: Direction::Read,
            data: vec![ms],
        }]
    }

    /// Does a transfer on the thread, as a worker would that is woken.
    fn on_the_thread(bus: &BusThread, ms: u8) {
        let shared = bus.0.clone();
        let mut messages = message(ms);
        let done = thread::spawn(move || {
            shared.transfer(&mut messages, Duration::ZERO).unwrap();
            messages[0].data[0]
        });
        assert_eq!(done.join().unwrap(), 0);
    }

    fn at_once(bus: &BusThread, ms: u8) -> Option<u8> {
        let mut messages = message(ms);
        let result = bus.at_once(&mut messages, Duration::ZERO)?;
        result.unwrap();
        Some(messages[0].data[0])
    }

    #[test]
    fn a_bus_that_keeps_its_time_is_spared_the_thread() {
        let bus = bus(Waits::Usually);
        assert_eq!(at_once(&bus, 0), None, "nothing is known of it yet");
        // The machine may be busy: it has to be prompt once in a while.
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            on_the_thread(&bus, 0);
            match at_once(&bus, 0) {
                Some(here) => return assert_eq!(here, 1),
                None => assert!(Instant::now() < end, "never prompt"),
            }
        }
    }

    #[test]
    fn one_late_transfer_is_enough_for_the_next_to_be_left_to_the_thread() {
        let bus = bus(Waits::Usually);
        on_the_thread(&bus, 0);
        on_the_thread(&bus, 60);
        assert_eq!(at_once(&bus, 0), None);
    }

    #[test]
    fn what_may_wait_for_ever_is_always_left_to_the_thread() {
        let bus = bus(Waits::Always);
        for _ in 0..3 {
            on_the_thread(&bus, 0);
            assert_eq!(at_once(&bus, 0), None);
        }
    }

    #[test]
    fn a_long_transfer_is_left_to_the_thread() {
        let bus = bus(Waits::Usually);
        on_the_thread(&bus, 0);
        let result = bus.at_once(&mut message(0), Duration::from_millis(51));
        assert!(result.is_none());
    }
}
