// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of one process that may speak to each other: those that have a group in common.
//!
//! A connection between two of them is a pair of connected sockets, one end for each worker. So the kernel bounds and
//! paces what is under way, each worker serves its own guest only, and no lock is taken for a byte of payload.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vu_common::{Needs, Waker};

use crate::request::{Address, Kind};

/// Calls that may wait for a guest.
const MAX_CALLS: usize = 128;

/// A sibling wants to connect.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) from: Address,
    pub(crate) port: u32,
    pub(crate) kind: Kind,
    pub(crate) fd: OwnedFd,
}

/// All guests of the process that are there.
#[derive(Debug, Default)]
pub struct Network {
    members: Mutex<HashMap<u32, Member>>,
}

#[derive(Debug)]
struct Member {
    groups: Vec<String>,
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    calls: Mutex<VecDeque<Call>>,
    waker: Waker,
}

/// The place of one guest in the network, which it leaves on drop.
#[derive(Debug)]
pub(crate) struct Membership {
    network: Arc<Network>,
    cid: u32,
    groups: Vec<String>,
    inbox: Arc<Inbox>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept under these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Nobody has joined yet.
    pub fn new() -> Arc<Self> {
        Needs::default().system_calls(&[libc::SYS_socketpair]).declare();
        Arc::default()
    }

    /// The guest `cid` joins; `waker` wakes its worker when a sibling calls.
    pub(crate) fn join(self: &Arc<Self>, cid: u32, groups: &[String], waker: Waker) -> Membership {
        let inbox = Arc::new(Inbox {
            calls: Mutex::default(),
            waker,
        });
        let member = Member {
            groups: groups.to_vec(),
            inbox: inbox.clone(),
        };
        lock(&self.members).insert(cid, member);
        Membership {
            network: self.clone(),
            cid,
            groups: groups.to_vec(),
            inbox,
        }
    }
}

impl Membership {
    /// Calls a sibling from the port `from` of this guest; our end of the connection, which is not accepted yet.
    ///
    /// # Errors
    /// There is no such sibling, or too many call it, or the host has no more sockets.
    pub(crate) fn call(&self, from: u32, to: Address, kind: Kind) -> io::Result<OwnedFd> {
        let inbox = {
            let members = lock(&self.network.members);
            let member = members.get(&to.cid).filter(|_| to.cid != self.cid);
            let shared = |member: &&Member| member.groups.iter().any(|group| self.groups.contains(group));
            let member = member.filter(shared).ok_or(io::ErrorKind::NotFound)?;
            member.inbox.clone()
        };
        let socket_type = match kind {
            Kind::Stream => SocketType::STREAM,
            Kind::Seqpacket => SocketType::SEQPACKET,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, socket_type, flags, None)?;
        let mut calls = lock(&inbox.calls);
        if calls.len() >= MAX_CALLS {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        calls.push_back(Call {
            from: Address {
                cid: self.cid,
                port: from,
            },
            port: to.port,
            kind,
            fd: theirs,
        });
        drop(calls);
        inbox.waker.wake();
        Ok(ours)
    }

    /// The next sibling that calls this guest.
    pub(crate) fn next_call(&self) -> Option<Call> {
        lock(&self.inbox.calls).pop_front()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut members = lock(&self.network.members);
        // A successor may have the place already.
        let ours = members
            .get(&self.cid)
            .is_some_and(|member| Arc::ptr_eq(&member.inbox, &self.inbox));
        if ours {
            members.remove(&self.cid);
        }
        // Who called us finds the other end closed.
        lock(&self.inbox.calls).clear();
    }
}
