// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path of one thread: its batch, and its place at a [`Link`].

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::link::{Bell, Link};
use crate::{Completion, Engine, Request};

pub(super) struct NbdEngine {
    link: Arc<Link>,
    number: usize,
    bell: Arc<Bell>,
    batch: Vec<Request>,
}

impl NbdEngine {
    pub(super) fn new(link: Arc<Link>, depth: usize) -> io::Result<Self> {
        let (number, bell) = link.join(depth)?;
        Ok(Self {
            link,
            number,
            bell,
            batch: Vec::with_capacity(depth),
        })
    }
}

impl Engine for NbdEngine {
    fn submit(&mut self, request: Request) {
        self.batch.push(request);
    }

    fn commit(&mut self) {
        if !self.batch.is_empty() {
            self.link.commit(self.number, &mut self.batch);
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.link.reap(self.number, done);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.fd())
    }
}

impl Drop for NbdEngine {
    fn drop(&mut self) {
        self.link.leave(self.number);
    }
}
