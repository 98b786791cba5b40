// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Storage that answers at once and keeps nothing: what the rings cost, and nothing else.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::{Completion, Disk, Engine, Limits, Range, Request};

/// A disk of `capacity` bytes and blocks of `logical_block` that does nothing: all requests succeed, and
/// what a read leaves in memory is what was there before.
pub fn open(capacity: u64, logical_block: u32) -> Arc<dyn Disk> {
    Arc::new(Null {
        capacity,
        logical_block,
    })
}

struct Null {
    capacity: u64,
    logical_block: u32,
}

impl Disk for Null {
    fn limits(&self) -> Limits {
        let any = Some(Range {
            max_len: u64::MAX,
            alignment: self.logical_block,
        });
        Limits {
            read_only: false,
            logical_block: self.logical_block,
            physical_block: self.logical_block,
            minimum_io: 0,
            optimal_io: 0,
            rotational: Some(false),
            discard: any,
            write_zeroes: any,
            secure_erase: any,
        }
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.capacity)
    }

    fn engine(&self, depth: usize) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(Done(Vec::with_capacity(depth))))
    }
}

/// What was submitted, which is done.
struct Done(Vec<Completion>);

impl Engine for Done {
    fn submit(&mut self, request: Request) {
        self.0.push(Completion {
            id: request.id,
            data: request.data,
            result: Ok(()),
        });
    }

    fn commit(&mut self) {}

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.0);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
