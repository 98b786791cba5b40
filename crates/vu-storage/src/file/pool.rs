// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine on a bounded pool of threads, one pool for each disk; it also does for the others what can only wait.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::raw::RawFile;
use crate::{Completion, Engine, Request};

/// Most threads of a disk.
const MOST: usize = 16;
/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// The threads of one disk. They start when there is work for them and end when there has been none for a while.
#[derive(Debug)]
pub(super) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Arc<RawFile>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// No engine is left.
    closed: bool,
}

#[derive(Debug)]
struct Job {
    request: Request,
    done: Arc<Mailbox>,
}

impl Pool {
    pub(super) fn new(file: Arc<RawFile>) -> Self {
        Self(Arc::new(Shared {
            file,
            state: Mutex::default(),
            work: Condvar::new(),
        }))
    }

    fn push(&self, jobs: impl Iterator<Item = Job>) {
        let shared = &self.0;
        let mut state = lock(&shared.state);
        let before = state.jobs.len();
        state.jobs.extend(jobs);
        let new = state.jobs.len() - before;
        while state.threads < MOST && state.idle < state.jobs.len() {
            let mine = shared.clone();
            let started = thread::Builder::new()
                .name("storage".into())
                .spawn(move || mine.serve());
            match started {
                // It counts as idle from now on, so that the next one looks at what is left.
                Ok(_detached) => (state.threads, state.idle) = (state.threads + 1, state.idle + 1),
                Err(error) if state.threads == 0 => {
                    for job in state.jobs.drain(..) {
                        let error = io::Error::new(error.kind(), format!("no thread for it: {error}"));
                        job.done.put(job.request, Err(error));
                    }
                }
                Err(_) => break,
            }
        }
        let sleepers = new.min(state.idle);
        drop(state);
        // One for each: the others would only look and sleep again.
        (0..sleepers).for_each(|_| shared.work.notify_one());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    /// The life of a thread. Whoever started it has counted it as idle.
    fn serve(&self) {
        while let Some(job) = self.next() {
            let result = self.file.execute(&job.request);
            job.done.put(job.request, result);
            lock(&self.state).idle += 1;
        }
    }

    /// Waits for a job; `None` if the thread is needed no longer.
    fn next(&self) -> Option<Job> {
        let state = lock(&self.state);
        let waiting = |state: &mut State| state.jobs.is_empty() && !state.closed;
        let (mut state, _) = self
            .work
            .wait_timeout_while(state, IDLE, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        let job = state.jobs.pop_front();
        if job.is_none() {
            state.threads -= 1;
        }
        job
    }
}

/// Where the threads put what they have done for one engine.
#[derive(Debug)]
struct Mailbox {
    done: Mutex<Vec<Completion>>,
    /// Can be read whenever `done` is not empty.
    event: OwnedFd,
}

impl Mailbox {
    fn put(&self, request: Request, result: io::Result<()>) {
        let mut done = lock(&self.done);
        if done.is_empty() {
            // Cannot fail: the counter is 0.
            rustix::io::write(&self.event, &1_u64.to_ne_bytes()).ok();
        }
        done.push(Completion {
            id: request.id,
            data: request.data,
            result,
        });
    }

    fn take(&self, into: &mut Vec<Completion>) -> usize {
        let mut done = lock(&self.done);
        let count = done.len();
        if count > 0 {
            // Cannot fail: the counter is 1.
            rustix::io::read(&self.event, &mut [0; 8]).ok();
            into.append(&mut done);
        }
        count
    }
}

/// The engine of one thread on a disk's pool.
pub(super) struct Threads {
    pool: Arc<Pool>,
    mailbox: Arc<Mailbox>,
    jobs: Vec<Job>,
    in_flight: usize,
}

impl Threads {
    pub(super) fn new(pool: Arc<Pool>, depth: usize) -> io::Result<Self> {
        let mailbox = Mailbox {
            done: Mutex::new(Vec::with_capacity(depth)),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        Ok(Self {
            pool,
            mailbox: Arc::new(mailbox),
            jobs: Vec::with_capacity(depth),
            in_flight: 0,
        })
    }

    /// Requests that were started and have not been reaped.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Can be read when there is something to reap.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.mailbox.event.as_fd()
    }
}

impl Engine for Threads {
    fn submit(&mut self, request: Request) {
        self.jobs.push(Job {
            request,
            done: self.mailbox.clone(),
        });
    }

    fn commit(&mut self) {
        if !self.jobs.is_empty() {
            self.in_flight += self.jobs.len();
            self.pool.push(self.jobs.drain(..));
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        if self.in_flight > 0 {
            self.in_flight -= self.mailbox.take(done);
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight > 0 {
            poll(&mut [PollFd::new(&self.mailbox.event, PollFlags::IN)], None).ok();
            self.reap(&mut done);
        }
    }
}

/// Locks; a thread that panicked has left nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
