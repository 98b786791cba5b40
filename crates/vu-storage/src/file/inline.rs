// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine that carries each request out at once, on the thread that submits it: for what is as fast as
//! memory, where any hand-over would cost more than the work.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::raw::RawFile;
use crate::{Completion, Engine, Request};

pub(super) struct Inline {
    file: Arc<RawFile>,
    done: Vec<Completion>,
}

impl Inline {
    pub(super) fn new(file: Arc<RawFile>, depth: usize) -> Self {
        Self {
            file,
            done: Vec::with_capacity(depth),
        }
    }
}

impl Engine for Inline {
    fn submit(&mut self, request: Request) {
        let result = self.file.execute(&request);
        self.done.push(Completion {
            id: request.id,
            data: request.data,
            result,
        });
    }

    fn commit(&mut self) {}

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
