// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the session of a device is found while there is one, and what those before it have done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::counters::Counters;
use crate::device::Device;
use crate::session::Session;

/// See the module.
pub(crate) struct Slot<D: Device>(Mutex<Inner<D>>);

struct Inner<D: Device> {
    session: Weak<Mutex<Session<D>>>,
    /// By virtqueue.
    past: Vec<Counters>,
    connections: u64,
}

impl<D: Device> Default for Slot<D> {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            session: Weak::new(),
            past: Vec::new(),
            connections: 0,
        }))
    }
}

impl<D: Device> Slot<D> {
    fn inner(&self) -> MutexGuard<'_, Inner<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has begun.
    pub(crate) fn enter(&self, session: &Arc<Mutex<Session<D>>>) {
        let mut inner = self.inner();
        inner.session = Arc::downgrade(session);
        inner.connections = inner.connections.saturating_add(1);
    }

    /// It has ended.
    pub(crate) fn leave(&self, session: &Session<D>) {
        let mut inner = self.inner();
        inner.session = Weak::new();
        // Always as many: a device does not change its virtqueues.
        inner.past.resize(session.queues.len(), Counters::default());
        for (past, queue) in inner.past.iter_mut().zip(&session.queues) {
            *past = past.plus(queue.counters());
        }
    }

    pub(crate) fn session(&self) -> Option<Arc<Mutex<Session<D>>>> {
        self.inner().session.upgrade()
    }

    /// What the sessions before this one did, on virtqueue `q`.
    pub(crate) fn past(&self, q: usize) -> Counters {
        self.inner().past.get(q).copied().unwrap_or_default()
    }

    /// How many sessions there were.
    pub(crate) fn connections(&self) -> u64 {
        self.inner().connections
    }
}
