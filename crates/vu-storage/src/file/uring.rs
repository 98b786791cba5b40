// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine on `io_uring`: one ring per thread, one system call for each batch.
//!
//! Reads, writes and flushes go through the ring. Writes that the kernel would not do without waiting are carried
//! out at once, as long as they do not wait (see [`Uring::writes_itself`]). What the kernel would hand to one of its threads anyway, and
//! what needs more than one call or a bounce buffer, goes to the disk's pool; the ring polls its eventfd, so
//! that there is one descriptor to wait for.
//!
//! UNSAFETY: tells the kernel to read and write memory after the call returns. The memory is held by the
//! slot of its request until the kernel has answered.
#![allow(
    unsafe_code,
    reason = "requests refer to memory by raw pointers; see the module's text"
)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};
use vu_common::Segments;

use super::pool::{Pool, Threads};
use super::raw::RawFile;
use super::sys::{Direction, MAX_PIECES};
use crate::{Completion, Engine, Op, Request};

/// The file of the disk, among those that are registered.
const FILE: Fixed = Fixed(0);
/// The pool's eventfd there.
const EVENT: Fixed = Fixed(1);
/// `IORING_UNREGISTER_FILES` of linux/io_uring.h.
const UNREGISTER_FILES: u8 = 3;
/// Name of the poll of the pool's eventfd; slots have smaller ones.
const POOL: u64 = u64::MAX;
/// Most bytes that a system call moves (`MAX_RW_COUNT`).
const MOST: usize = 0x7fff_f000;
/// Longest write that is carried out on the thread that submits it.
const LONGEST_WRITE: usize = 64 << 10;
/// A write to the page cache that takes longer has waited for the disk.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long writes are then left to others.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether this process may have a ring.
///
/// # Errors
/// Why not: `ENOSYS` without it, `EPERM` where it is forbidden.
pub(super) fn permitted() -> io::Result<()> {
    ring(1).map(drop)
}

/// A ring used by this thread only, that is not enabled yet, which is not interrupted by completions while it runs. (Deferring them
/// until they are asked for would batch better, but such a ring's descriptor does not become readable by
/// them.) Kernels before 6.0 do not know that.
fn ring(entries: u32) -> io::Result<IoUring> {
    let ours = IoUring::builder()
        .setup_clamp()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_r_disabled()
        .build(entries);
    match ours {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_clamp().setup_r_disabled().build(entries)
        }
        result => result,
    }
}

/// Enables a ring for what an engine does and nothing else: it moves the bytes of registered files, and opens or reaches
/// nothing. That cannot be taken back.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let operations = [
        opcode::Read::CODE,
        opcode::Readv::CODE,
        opcode::Write::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
        opcode::PollAdd::CODE,
    ];
    let mut restrictions = Vec::from(operations.map(Restriction::sqe_op));
    restrictions.push(Restriction::sqe_flags_allowed(
        (Flags::FIXED_FILE | Flags::ASYNC).bits(),
    ));
    restrictions.push(Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()));
    restrictions.push(Restriction::register_op(UNREGISTER_FILES));
    ring.submitter().register_restrictions(&mut restrictions)?;
    ring.submitter().register_enable_rings()
}

/// A request on its way through the ring, and the memory that the kernel may touch until it answers.
struct Slot {
    request: Request,
    /// Bytes moved.
    done: usize,
    /// What is left of the memory, once some were moved.
    rest: Segments,
}

pub(super) struct Uring {
    // First, so that it is closed before the memory goes.
    ring: IoUring,
    file: Arc<RawFile>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    pool: Threads,
    /// The ring watches the pool's eventfd.
    polls: bool,
    /// Entries that are not in the kernel yet.
    queued: usize,
    /// Entries for what was done in part.
    again: Vec<Entry>,
    /// Done at once.
    done: Vec<Completion>,
    /// Until then writes are left to the kernel's threads, since one had to wait.
    waits: Option<Instant>,
}

impl Uring {
    pub(super) fn new(file: Arc<RawFile>, pool: Arc<Pool>, depth: usize) -> io::Result<Self> {
        // One more than requests, for the poll.
        let entries = u32::try_from(depth).unwrap_or(u32::MAX).saturating_add(1);
        let ring = ring(entries)?;
        let pool = Threads::new(pool, 0)?;
        let files = [file.fd().as_raw_fd(), pool.event().as_raw_fd()];
        ring.submitter().register_files(&files)?;
        restrict(&ring)?;
        Ok(Self {
            ring,
            file,
            slots: Vec::with_capacity(depth),
            free: Vec::with_capacity(depth),
            pool,
            polls: false,
            queued: 0,
            again: Vec::new(),
            done: Vec::new(),
            waits: None,
        })
    }

    /// Whether a write is carried out by a call on this thread: where the ring could only hand it to the
    /// kernel's threads, which cost more than copying to the page cache does. When the page cache is full such a
    /// call waits, and for a while writes go through the ring all the same.
    fn writes_itself(&self, request: &Request) -> bool {
        self.file.slow_writes
            && request.op == (Op::Write { durable: false })
            && request.data.len() <= LONGEST_WRITE
            && self.waits.is_none_or(|end| Instant::now() >= end)
    }

    fn write(&mut self, request: Request) {
        let start = Instant::now();
        let result = self.file.execute(&request);
        let end = Instant::now();
        self.waits = (end.duration_since(start) > PATIENCE).then(|| end + PAUSE);
        self.done.push(Completion {
            id: request.id,
            data: request.data,
            result,
        });
    }

    /// Whether the ring does it, rather than the pool.
    fn does(&self, request: &Request) -> bool {
        match request.op {
            Op::Read | Op::Write { .. } => !request.data.is_empty() && self.file.takes(&request.data),
            Op::Flush => true,
            Op::Discard | Op::WriteZeroes { .. } | Op::SecureErase => false,
        }
    }

    /// Puts a request into a slot; returns its name.
    fn keep(&mut self, request: Request) -> u32 {
        if let Some(name) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(name as usize)
        {
            (slot.request, slot.done) = (request, 0);
            return name;
        }
        self.slots.push(Slot {
            request,
            done: 0,
            rest: Segments::default(),
        });
        self.slots.len().wrapping_sub(1) as u32
    }

    fn in_flight(&self) -> usize {
        self.slots.len().wrapping_sub(self.free.len())
    }

    fn push(&mut self, entry: &Entry) {
        // SAFETY: what the entry refers to is in a slot until its answer has come.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.enter();
        }
        self.queued = self.queued.wrapping_add(1);
    }

    /// Watches the pool while it has something of ours.
    fn watch_pool(&mut self) {
        if self.polls || self.pool.in_flight() == 0 {
            return;
        }
        self.push(
            &opcode::PollAdd::new(EVENT, libc::POLLIN as u32)
                .build()
                .user_data(POOL),
        );
        self.polls = true;
    }

    /// Gives the kernel what was queued.
    fn enter(&mut self) {
        while self.queued > 0 {
            match self.ring.submit() {
                Ok(taken) => self.queued = self.queued.saturating_sub(taken),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Short of memory, or of room for answers: let others run.
                    Some(libc::EAGAIN | libc::EBUSY) => std::thread::yield_now(),
                    _ => {
                        log::error!("{}: io_uring refuses: {error}", self.file.path.display());
                        return;
                    }
                },
            }
        }
    }

    /// Takes the kernel's answers. What they leave to do goes to `again`.
    fn settle(&mut self, done: &mut Vec<Completion>) {
        let (submitter, queue, mut answers) = self.ring.split();
        if queue.taskrun() || queue.cq_overflow() {
            // What it could not do will be asked of it again: the descriptor stays readable.
            submitter.submit().ok();
            answers.sync();
        }
        for answer in answers {
            let name = answer.user_data();
            if name == POOL {
                self.polls = false;
                continue;
            }
            let Some(slot) = self.slots.get_mut(name as usize) else {
                continue;
            };
            match step(&self.file, slot, answer.result()) {
                Step::Done(result) => {
                    self.free.push(name as u32);
                    done.push(Completion {
                        id: slot.request.id,
                        data: mem::take(&mut slot.request.data),
                        result,
                    });
                }
                Step::Again(flags) => self.again.push(entry(slot, name as u32).flags(flags)),
            }
        }
    }
}

impl Engine for Uring {
    fn submit(&mut self, request: Request) {
        if self.writes_itself(&request) {
            return self.write(request);
        }
        if !self.does(&request) {
            return self.pool.submit(request);
        }
        let name = self.keep(request);
        if let Some(slot) = self.slots.get(name as usize) {
            let entry = entry(slot, name);
            self.push(&entry);
        }
    }

    fn commit(&mut self) {
        self.pool.commit();
        self.watch_pool();
        self.enter();
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
        self.settle(done);
        if self.pool.in_flight() > 0 && !self.polls {
            self.pool.reap(done);
            self.watch_pool();
        }
        while let Some(entry) = self.again.pop() {
            self.push(&entry);
        }
        self.enter();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring is open as long as `self`.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }
}

/// What an answer of the kernel means for its request.
enum Step {
    Done(io::Result<()>),
    Again(Flags),
}

fn step(file: &RawFile, slot: &mut Slot, result: i32) -> Step {
    let direction = match slot.request.op {
        Op::Read => Direction::Read,
        Op::Write { durable } => Direction::Write(durable),
        _ if result >= 0 => return Step::Done(Ok(())),
        _ => Direction::Read,
    };
    let Ok(moved) = usize::try_from(result) else {
        return match result.wrapping_neg() {
            libc::EINTR => Step::Again(Flags::empty()),
            // "Not now" although it may wait: by a thread of the kernel, which then does.
            libc::EAGAIN => Step::Again(Flags::ASYNC),
            errno => Step::Done(Err(io::Error::from_raw_os_error(errno))),
        };
    };
    let len = slot.request.data.len();
    match file.advance(direction, slot.done, moved, len) {
        Ok(done) if done < len => {
            slot.done = done;
            slot.request.data.part(done..len, &mut slot.rest);
            Step::Again(Flags::empty())
        }
        result => Step::Done(result.map(drop)),
    }
}

/// The entry for what is left of the request in slot `name`.
fn entry(slot: &Slot, name: u32) -> Entry {
    let request = &slot.request;
    let data = if slot.done == 0 { &request.data } else { &slot.rest };
    let at = request.offset.wrapping_add(slot.done as u64);
    let count = data.iovecs().len().min(MAX_PIECES) as u32;
    let entry = match (request.op, data.iovecs()) {
        (Op::Read, [piece]) => opcode::Read::new(FILE, piece.iov_base.cast(), length(piece))
            .offset(at)
            .build(),
        (Op::Read, pieces) => opcode::Readv::new(FILE, pieces.as_ptr(), count)
            .offset(at)
            .build(),
        (Op::Write { durable }, [piece]) => opcode::Write::new(FILE, piece.iov_base.cast(), length(piece))
            .offset(at)
            .rw_flags(dsync(durable))
            .build(),
        (Op::Write { durable }, pieces) => opcode::Writev::new(FILE, pieces.as_ptr(), count)
            .offset(at)
            .rw_flags(dsync(durable))
            .build(),
        _ => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
    };
    entry.user_data(u64::from(name))
}

fn length(piece: &libc::iovec) -> u32 {
    piece.iov_len.min(MOST) as u32
}

fn dsync(durable: bool) -> i32 {
    if durable { libc::RWF_DSYNC } else { 0 }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight() > 0 {
            self.enter();
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => {
                    // Better to lose memory than to have it written to when it is somebody else's.
                    log::error!("{}: io_uring refuses: {error}", self.file.path.display());
                    mem::forget(mem::take(&mut self.slots));
                    return;
                }
                _ => self.reap(&mut done),
            }
            done.clear();
        }
        // The kernel takes a ring apart at its leisure, and would keep the file and its locks as long.
        self.ring.submitter().unregister_files().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use io_uring::types::Fd;
    use io_uring::{opcode, squeue};

    use super::{FILE, restrict, ring};

    #[test]
    fn a_ring_takes_nothing_but_the_operations_of_an_engine_on_registered_files() {
        let file = File::open("/dev/zero").unwrap();
        let mut ring = ring(4).unwrap();
        ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
        restrict(&ring).unwrap();
        let mut bytes = [1_u8; 8];
        let here = Fd(libc::AT_FDCWD);
        let mut result = |entry: squeue::Entry| {
            // SAFETY: what the entries point to lives until this test ends, and each is waited for here.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1).unwrap();
            ring.completion().next().unwrap().result()
        };
        let (to, len) = (bytes.as_mut_ptr(), 8);
        assert_eq!(result(opcode::Read::new(FILE, to, len).build()), 8);
        assert_eq!(
            result(opcode::Read::new(Fd(file.as_raw_fd()), to, len).build()),
            -libc::EACCES
        );
        assert_eq!(
            result(opcode::OpenAt::new(here, c"/etc/passwd".as_ptr()).build()),
            -libc::EACCES
        );
        assert_eq!(
            result(opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build()),
            -libc::EACCES
        );
        assert_eq!(bytes, [0; 8]);
        let submitter = ring.submitter();
        assert!(submitter.register_files_update(0, &[file.as_raw_fd()]).is_err());
        submitter.unregister_files().unwrap();
    }
}
