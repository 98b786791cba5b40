// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path of one thread: looks places up in the [`Map`](super::map::Map), hands the data to the engines of
//! the files, and asks the metadata thread for the rest.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fd::OwnedFd;
use vu_common::Segments;

use super::Owner;
use super::gate::Pass;
use super::map::{Place, Source};
use super::meta::{Answer, Job, Mailbox, Reply};
use super::slab::Slab;
use crate::{Completion, Disk, Engine, Op, Request};

/// A request that was taken over.
#[derive(Debug)]
struct Open {
    request: Request,
    /// Parts of it that are under way; each of them may be at a file, at the metadata thread, or put off.
    left: usize,
    /// The first that failed.
    failed: Option<io::Error>,
    /// The metadata thread was asked once already.
    asked: bool,
    /// The tables that tell where its data is are in the file.
    kept: bool,
}

/// What a file's engine has of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of its data, which is moved there and back.
    Whole,
    /// A range of it.
    Range,
    /// A flush, which has no place.
    Flush,
}

/// The engine of a file.
struct File {
    engine: Box<dyn Engine>,
    in_flight: usize,
    /// Submitted since the last commit.
    uncommitted: bool,
    /// What it has no room for yet.
    backlog: VecDeque<Request>,
}

pub(super) struct Qcow2Engine {
    owner: Arc<Owner>,
    mailbox: Arc<Mailbox>,
    asked: usize,
    pass: Pass,
    /// By [`Source`].
    files: [Option<File>; 2],
    depth: usize,
    epoll: OwnedFd,
    open: Slab<Open>,
    parts: Slab<(usize, Part)>,
    /// Requests to go on with, from an offset for a length, when nothing is in flight any more.
    put_off: VecDeque<(usize, u64, u64)>,
    done: Vec<Completion>,
    scratch: Vec<Completion>,
    /// Room for ranges of data.
    spare: Vec<Segments>,
}

impl Qcow2Engine {
    pub(super) fn new(owner: Arc<Owner>, depth: usize) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch =
            |fd: BorrowedFd<'_>| epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        watch(mailbox.event.as_fd())?;
        let file = |disk: &Arc<dyn Disk>| -> io::Result<File> {
            let engine = disk.engine(depth)?;
            if let Some(fd) = engine.fd() {
                watch(fd)?;
            }
            Ok(File {
                engine,
                in_flight: 0,
                uncommitted: false,
                backlog: VecDeque::new(),
            })
        };
        let image = file(&owner.image)?;
        let backing = owner.backing.as_ref().map(file).transpose()?;
        Ok(Self {
            pass: Pass::new(owner.shared.gate.clone()),
            owner,
            mailbox,
            asked: 0,
            files: [Some(image), backing],
            depth,
            epoll,
            open: Slab::default(),
            parts: Slab::default(),
            put_off: VecDeque::new(),
            done: Vec::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
        })
    }

    /// Does or starts what there is to do for `len` bytes of a request, from byte `offset` of the disk on.
    fn advance(&mut self, index: usize, mut offset: u64, mut len: u64) {
        while len > 0 {
            let Some(open) = self.open.get_mut(index) else {
                return;
            };
            if !self.pass.enter() {
                open.left = open.left.wrapping_add(1);
                self.put_off.push_back((index, offset, len));
                return;
            }
            let write = open.request.op != Op::Read;
            let (place, run) = self.owner.shared.map.run(offset, len);
            match place {
                Place::At {
                    source,
                    offset: host,
                    writable,
                } if writable || !write => self.transfer(index, offset, run, source, host),
                Place::Zero if !write => {
                    self.pass.leave();
                    let start =
                        usize::try_from(offset.wrapping_sub(open.request.offset)).unwrap_or(usize::MAX);
                    let end = start.saturating_add(usize::try_from(run).unwrap_or(usize::MAX));
                    open.request.data.zero(start..end);
                }
                _ => {
                    self.pass.leave();
                    self.ask(index, offset, len);
                    return;
                }
            }
            offset = offset.saturating_add(run);
            len = len.saturating_sub(run);
        }
    }

    /// Hands `len` bytes to the engine of a file.
    fn transfer(&mut self, index: usize, offset: u64, len: u64, source: Source, host: u64) {
        let Some(open) = self.open.get_mut(index) else {
            return;
        };
        open.left = open.left.wrapping_add(1);
        open.kept = false;
        let (data, part) = if len == open.request.len {
            (mem::take(&mut open.request.data), Part::Whole)
        } else {
            let mut data = self.spare.pop().unwrap_or_default();
            cut(&open.request, offset, len, &mut data);
            (data, Part::Range)
        };
        let request = Request {
            id: id(self.parts.insert((index, part))),
            op: open.request.op,
            offset: host,
            len,
            data,
        };
        self.issue(source, request);
    }

    fn issue(&mut self, source: Source, request: Request) {
        let Some(file) = self.files.get_mut(source as usize).and_then(Option::as_mut) else {
            // The map tells of a backing file only if there is one.
            return;
        };
        if file.in_flight < self.depth {
            file.submit(request);
        } else {
            file.backlog.push_back(request);
        }
    }

    /// Leaves `len` bytes of a request to the metadata thread.
    fn ask(&mut self, index: usize, offset: u64, len: u64) {
        let Some(open) = self.open.get_mut(index) else {
            return;
        };
        let mut data = Segments::default();
        cut(&open.request, offset, len, &mut data);
        let job = Job {
            op: open.request.op,
            offset,
            len,
            data,
            insist: mem::replace(&mut open.asked, true),
            id: index,
            reply_to: self.mailbox.clone(),
        };
        if self
            .owner
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok())
        {
            open.left = open.left.wrapping_add(1);
            self.asked = self.asked.wrapping_add(1);
        } else {
            open.failed = Some(io::Error::other("the metadata thread of the image has ended"));
        }
    }

    /// One part less to wait for; completes the request if it was the last.
    fn settle(&mut self, index: usize, result: io::Result<()>) {
        let Some(open) = self.open.get_mut(index) else {
            return;
        };
        open.left = open.left.wrapping_sub(1);
        if let Err(error) = result {
            open.failed.get_or_insert(error);
        }
        self.complete_if_over(index);
    }

    fn complete_if_over(&mut self, index: usize) {
        let Some(open) = self.open.get_mut(index) else {
            return;
        };
        if open.left > 0 {
            return;
        }
        if open.failed.is_none()
            && matches!(open.request.op, Op::Write { .. })
            && !mem::replace(&mut open.kept, true)
            && self.owner.shared.dirty.load(Ordering::SeqCst)
        {
            // The data is in the file; where it is may be known to this process only.
            self.ask(index, 0, 0);
            return self.complete_if_over(index);
        }
        if let Some(Open { request, failed, .. }) = self.open.remove(index) {
            self.done.push(Completion {
                id: request.id,
                data: request.data,
                result: failed.map_or(Ok(()), Err),
            });
        }
    }

    fn file_has_done(&mut self, completion: Completion) {
        let Some((index, part)) = self.parts.remove(completion.id as usize) else {
            return;
        };
        match part {
            Part::Whole => {
                if let Some(open) = self.open.get_mut(index) {
                    open.request.data = completion.data;
                }
                self.pass.leave();
            }
            Part::Range => {
                let mut data = completion.data;
                data.clear();
                self.spare.push(data);
                self.pass.leave();
            }
            Part::Flush => {}
        }
        self.settle(index, completion.result);
    }

    fn answered(&mut self, reply: Reply) {
        self.asked = self.asked.wrapping_sub(1);
        let result = match reply.result {
            Ok(Answer::Done) => {
                if let Some(open) = self.open.get_mut(reply.id) {
                    open.kept = true;
                }
                Ok(())
            }
            Ok(Answer::Retry) => {
                self.advance(reply.id, reply.offset, reply.len);
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.settle(reply.id, result);
    }

    /// Takes in what has been done and starts what became possible by it.
    fn pump(&mut self) {
        loop {
            let mut scratch = mem::take(&mut self.scratch);
            for file in self.files.iter_mut().flatten() {
                file.reap(&mut scratch);
            }
            for completion in scratch.drain(..) {
                self.file_has_done(completion);
            }
            self.scratch = scratch;
            if self.asked > 0 {
                for reply in self.mailbox.take() {
                    self.answered(reply);
                }
            }
            if self.pass.is_empty() {
                for _ in 0..self.put_off.len() {
                    if let Some((index, offset, len)) = self.put_off.pop_front() {
                        self.advance(index, offset, len);
                        self.settle(index, Ok(()));
                    }
                }
            }
            let mut started = false;
            for file in self.files.iter_mut().flatten() {
                started |= file.go_on(self.depth);
            }
            if !started {
                return;
            }
        }
    }
}

impl Engine for Qcow2Engine {
    fn submit(&mut self, request: Request) {
        let (op, offset, len) = (request.op, request.offset, request.len);
        let index = self.open.insert(Open {
            request,
            left: 1,
            failed: None,
            asked: false,
            kept: false,
        });
        let result = match op {
            Op::Read => {
                self.advance(index, offset, len);
                Ok(())
            }
            Op::Flush if !self.owner.shared.dirty.load(Ordering::SeqCst) => {
                let id = id(self.parts.insert((index, Part::Flush)));
                if let Some(open) = self.open.get_mut(index) {
                    open.left = open.left.wrapping_add(1);
                }
                let data = Segments::default();
                let (offset, len) = (0, 0);
                self.issue(
                    Source::Image,
                    Request {
                        id,
                        op,
                        offset,
                        len,
                        data,
                    },
                );
                Ok(())
            }
            Op::Flush => {
                self.ask(index, 0, 0);
                Ok(())
            }
            _ if self.owner.limits.read_only => Err(io::ErrorKind::PermissionDenied.into()),
            Op::Write { .. } => {
                self.advance(index, offset, len);
                Ok(())
            }
            Op::Discard if self.owner.limits.discard.is_none() => Err(io::ErrorKind::Unsupported.into()),
            Op::WriteZeroes { .. } if self.owner.limits.write_zeroes.is_none() => {
                Err(io::ErrorKind::Unsupported.into())
            }
            Op::SecureErase => Err(io::ErrorKind::Unsupported.into()),
            Op::Discard | Op::WriteZeroes { .. } => {
                self.ask(index, offset, len);
                Ok(())
            }
        };
        self.settle(index, result);
    }

    fn commit(&mut self) {
        for file in self.files.iter_mut().flatten() {
            file.commit();
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.pump();
        done.append(&mut self.done);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }
}

impl Drop for Qcow2Engine {
    fn drop(&mut self) {
        self.commit();
        self.pump();
        while !self.open.is_empty() {
            let _ = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], None);
            self.pump();
        }
    }
}

impl File {
    fn submit(&mut self, request: Request) {
        self.engine.submit(request);
        self.in_flight = self.in_flight.wrapping_add(1);
        self.uncommitted = true;
    }

    fn commit(&mut self) {
        if mem::take(&mut self.uncommitted) {
            self.engine.commit();
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        if self.in_flight > 0 {
            let before = done.len();
            self.engine.reap(done);
            self.in_flight = self.in_flight.saturating_sub(done.len().wrapping_sub(before));
        }
    }

    /// Submits what there is room for now, and commits; returns whether there was anything.
    fn go_on(&mut self, depth: usize) -> bool {
        while self.in_flight < depth
            && let Some(request) = self.backlog.pop_front()
        {
            self.submit(request);
        }
        let any = self.uncommitted;
        self.commit();
        any
    }
}

/// Makes `into` the `len` bytes of the request's data that belong at `offset` of the disk.
fn cut(request: &Request, offset: u64, len: u64, into: &mut Segments) {
    let start = usize::try_from(offset.wrapping_sub(request.offset)).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
    request.data.part(start..end, into);
}

fn id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
