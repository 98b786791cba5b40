// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The virtqueues of one thread, behind one lock.
//!
//! The worker's thread holds the lock for a whole [`Turn`](crate::turn::Turn). A [`Visit`] of the session
//! comes in between two turns, and before the next one however busy the worker is.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::chain::Done;
use crate::cx::Waker;
use crate::dirty::DirtyLog;
use crate::memory::GuestSlice;
use crate::queue::State;

/// What the lock covers.
pub(crate) struct Inner {
    pub(crate) states: Vec<State>,
    /// Empty vectors for the buffers of the chains to come.
    pub(crate) spare: Vec<Vec<GuestSlice>>,
    /// Chains that other threads answered; empty between turns.
    pub(crate) arrived: Vec<Done>,
}

/// The virtqueues of one thread: those whose index modulo the number of threads is the thread's.
pub(crate) struct Group {
    thread: usize,
    threads: usize,
    log: Arc<DirtyLog>,
    inner: Mutex<Inner>,
    /// Visits that are under way or wait for the lock.
    visitors: AtomicUsize,
    /// A visit ended.
    left: Condvar,
    /// A turn ended while a virtqueue stops.
    turned: Condvar,
    /// By slot: counted between turns, without the lock.
    kicks: Vec<AtomicU64>,
    remote: Mutex<Vec<Done>>,
    has_remote: AtomicBool,
    waker: Waker,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// The group of thread `thread` of `threads`, of a device with `queues` virtqueues.
    pub(crate) fn new(
        thread: usize,
        threads: usize,
        queues: usize,
        max_size: u16,
        log: Arc<DirtyLog>,
    ) -> io::Result<Self> {
        let mine = (thread..queues).step_by(threads.max(1));
        let kicks = mine.clone().map(|_| AtomicU64::new(0)).collect();
        let states = mine
            .map(|index| State::new(index, max_size))
            .collect::<Result<_, _>>();
        let inner = Inner {
            states: states.map_err(io::Error::other)?,
            spare: Vec::new(),
            arrived: Vec::new(),
        };
        Ok(Self {
            thread,
            threads,
            log,
            inner: Mutex::new(inner),
            visitors: AtomicUsize::new(0),
            left: Condvar::new(),
            turned: Condvar::new(),
            kicks,
            remote: Mutex::default(),
            has_remote: AtomicBool::new(false),
            waker: Waker::new()?,
        })
    }

    pub(crate) fn log(&self) -> &Arc<DirtyLog> {
        &self.log
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Place of virtqueue `index` among the states, if it is one of this thread's.
    pub(crate) fn slot(&self, index: usize) -> Option<usize> {
        let mine = index.checked_rem(self.threads) == Some(self.thread);
        mine.then(|| index.checked_div(self.threads))?
    }

    /// The driver has kicked virtqueue `index`.
    pub(crate) fn kicked(&self, index: usize) {
        if let Some(kicks) = self.slot(index).and_then(|slot| self.kicks.get(slot)) {
            kicks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often the driver has kicked virtqueue `index`.
    pub(crate) fn kicks(&self, index: usize) -> u64 {
        let kicks = self.slot(index).and_then(|slot| self.kicks.get(slot));
        kicks.map_or(0, |kicks| kicks.load(Ordering::Relaxed))
    }

    /// The lock, for a turn of the worker: once no visit is under way or waits.
    pub(crate) fn enter(&self) -> MutexGuard<'_, Inner> {
        let mut inner = lock(&self.inner);
        while self.visitors.load(Ordering::SeqCst) > 0 {
            inner = self.left.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner
    }

    /// Tells those who wait for chains to be answered that a turn has ended.
    pub(crate) fn turned(&self) {
        self.turned.notify_all();
    }

    /// Whether a visit is under way or waits.
    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        self.visitors.load(Ordering::SeqCst) > 0
    }

    /// The lock, for the session.
    pub(crate) fn visit(&self) -> Visit<'_> {
        self.visitors.fetch_add(1, Ordering::SeqCst);
        Visit {
            group: self,
            inner: Some(lock(&self.inner)),
        }
    }

    /// Hands a chain that was answered on another thread to the worker.
    pub(crate) fn send(&self, done: Done) {
        let mut remote = lock(&self.remote);
        // A worker that has stopped comes back for nothing.
        if !done.run.is_current() {
            return;
        }
        let first = remote.is_empty();
        remote.push(done);
        self.has_remote.store(true, Ordering::Release);
        drop(remote);
        if first {
            self.waker.wake();
        }
    }

    /// Takes over what other threads answered.
    pub(crate) fn receive(&self, arrived: &mut Vec<Done>) {
        if self.has_remote.load(Ordering::Acquire) {
            let mut remote = lock(&self.remote);
            std::mem::swap(&mut *remote, arrived);
            self.has_remote.store(false, Ordering::Release);
        }
    }

    /// Ends a run by `end`, and forgets the chains of ended runs that are on their way.
    pub(crate) fn disown(&self, end: impl FnOnce()) {
        let mut remote = lock(&self.remote);
        end();
        remote.retain(|done| done.run.is_current());
    }
}

/// The lock in the hands of the session.
pub(crate) struct Visit<'a> {
    group: &'a Group,
    inner: Option<MutexGuard<'a, Inner>>,
}

impl<'a> Visit<'a> {
    /// The state of virtqueue `index`.
    pub(crate) fn state(&mut self, index: usize) -> &mut State {
        let slot = self.group.slot(index);
        let inner = self.inner.as_mut().expect("a visit holds the lock");
        let state = slot.and_then(|slot| inner.states.get_mut(slot));
        state.expect("a virtqueue asks its own group")
    }

    /// Lets the worker go on until a turn has ended, or for `patience`.
    pub(crate) fn wait(mut self, patience: Duration) -> Self {
        let group: &'a Group = self.group;
        if let Some(inner) = self.inner.take() {
            group.leave();
            let waited = group.turned.wait_timeout(inner, patience);
            let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
            group.visitors.fetch_add(1, Ordering::SeqCst);
            self.inner = Some(inner);
        }
        self
    }
}

impl Group {
    /// To be called with the lock held, so that a worker that sees a visitor will be told when it has left.
    fn leave(&self) {
        self.visitors.fetch_sub(1, Ordering::SeqCst);
        self.left.notify_all();
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.inner.is_some() {
            self.group.leave();
        }
    }
}
