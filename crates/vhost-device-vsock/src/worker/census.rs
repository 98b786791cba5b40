// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tells other threads which connections a worker has: they ask, and the worker answers when it is woken.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use vu_common::Waker;

use crate::connection::Connection;
use crate::request::Kind;

/// How long a busy worker may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Census(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// There while there is a worker.
    worker: Option<Waker>,
    asked: Vec<SyncSender<Value>>,
}

impl Census {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker begins, or ends. Those who wait are told that there is nothing.
    pub(crate) fn set_worker(&self, worker: Option<Waker>) {
        let mut inner = self.lock();
        inner.worker = worker;
        inner.asked.clear();
    }

    /// The connections, as the control socket tells them; `None` if the worker does not answer.
    pub(crate) fn take(&self) -> Option<Value> {
        let (answer, wait) = sync_channel(1);
        {
            let mut inner = self.lock();
            let Some(worker) = inner.worker.clone() else {
                return Some(json!([]));
            };
            inner.asked.push(answer);
            worker.wake();
        }
        wait.recv_timeout(PATIENCE).ok()
    }

    /// Answers those who have asked.
    pub(super) fn answer<'a>(&self, connections: impl Iterator<Item = &'a Connection>) {
        let asked = std::mem::take(&mut self.lock().asked);
        if asked.is_empty() {
            return;
        }
        let all: Value = connections.map(describe).collect();
        for answer in asked {
            // Who waits no longer has lost nothing.
            let _ = answer.try_send(all.clone());
        }
    }
}

fn describe(connection: &Connection) -> Value {
    json!({
        "guest_port": connection.flow.guest_port,
        "peer": format!("{}:{}", connection.flow.peer.cid, connection.flow.peer.port),
        "type": match connection.kind {
            Kind::Stream => "stream",
            Kind::Seqpacket => "seqpacket",
        },
        "state": format!("{:?}", connection.state).to_lowercase(),
        "waiting_for_host": connection.backlogged(),
    })
}
