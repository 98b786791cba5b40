// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The metadata thread of a disk: alone in reading and changing the tables of the image.
//!
//! Engines send it [`Job`]s for what they cannot do by the [`Map`] alone, and it answers to their [`Mailbox`].

use std::io;
use std::iter;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use imago::{FormatAccess, Mapping};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use vu_common::Segments;

use super::gate::Gate;
use super::map::{Map, Place, Source};
use super::storage::Storage;
use crate::{Engine, Op, Request};

/// Most bytes that are read or zeroed by way of a buffer at once.
const CHUNK: u64 = 1 << 20;
/// Most jobs that are done before the tables are flushed for those that changed them.
const BATCH: usize = 64;

/// What all threads of a disk share.
pub(super) struct Shared {
    pub(super) map: Map,
    pub(super) gate: Arc<Gate>,
    /// Tables were changed since they were last flushed. Set before the map tells of the change.
    pub(super) dirty: AtomicBool,
}

/// Work for the metadata thread.
pub(super) struct Job {
    pub(super) op: Op,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) data: Segments,
    /// Not to be answered by [`Answer::Retry`].
    pub(super) insist: bool,
    /// The engine's name for the request.
    pub(super) id: usize,
    pub(super) reply_to: Arc<Mailbox>,
}

impl Job {
    fn answer(self, result: io::Result<Answer>) {
        self.reply_to.post(Reply {
            id: self.id,
            offset: self.offset,
            len: self.len,
            result,
        });
    }
}

pub(super) struct Reply {
    pub(super) id: usize,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) result: io::Result<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// The map knows now: the engine can do it.
    Retry,
}

/// Replies to one engine.
pub(super) struct Mailbox {
    replies: Mutex<Vec<Reply>>,
    /// Readable while there are replies.
    pub(super) event: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            replies: Mutex::default(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn post(&self, reply: Reply) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if replies.is_empty() {
            // Cannot fail: the counter is 0 or 1.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
        replies.push(reply);
    }

    pub(super) fn take(&self) -> Vec<Reply> {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if !replies.is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        std::mem::take(&mut *replies)
    }
}

/// What the thread owns.
pub(super) struct Meta {
    pub(super) image: FormatAccess<Storage>,
    pub(super) storage: Storage,
    /// Writes data to clusters that no engine knows of yet.
    pub(super) engine: Box<dyn Engine>,
    pub(super) shared: Arc<Shared>,
    pub(super) cluster_bits: u32,
    pub(super) version: u32,
    pub(super) has_backing: bool,
    /// Bytes of the image file and of the backing file that their engines can read, where they do not grow.
    pub(super) readable: [u64; 2],
    /// Freed clusters are given back to the host.
    pub(super) punch: bool,
}

impl Meta {
    /// Works until all senders have gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        self.shared.gate.set_waiter();
        let mut changed = Vec::new();
        while let Ok(first) = jobs.recv() {
            for job in iter::once(first).chain(jobs.try_iter()).take(BATCH) {
                let result = self.handle(&job);
                let told = matches!(job.op, Op::Read | Op::Flush) || matches!(result, Ok(Answer::Retry));
                if told {
                    job.answer(result);
                } else {
                    changed.push((job, result));
                }
            }
            self.keep(&mut changed);
        }
        if let Err(error) = self.flush() {
            log::error!("{}: cannot flush at the end: {error}", self.storage);
        }
    }

    /// Answers what has changed the image once its tables are in the file. A guest that was told of a write
    /// would miss it if this process, which may be replaced while the guest runs, took the tables along. They
    /// are flushed rather than only written, because their order has to survive a crash of the host as well.
    fn keep(&self, changed: &mut Vec<(Job, io::Result<Answer>)>) {
        if changed.is_empty() {
            return;
        }
        let dirty = self.shared.dirty.load(Ordering::SeqCst);
        let kept = if dirty { self.flush() } else { Ok(()) };
        for (job, result) in changed.drain(..) {
            let kept = kept
                .as_ref()
                .map_err(|error| io::Error::new(error.kind(), format!("cannot write the tables: {error}")));
            job.answer(result.and_then(|answer| kept.map(|()| answer)));
        }
    }

    fn handle(&mut self, job: &Job) -> io::Result<Answer> {
        match job.op {
            Op::Read => self.read(job),
            // It waits for the tables.
            Op::Write { .. } if job.len == 0 => Ok(Answer::Done),
            Op::Write { durable } => {
                let answer = self.write(job, durable)?;
                self.settle()?;
                Ok(answer)
            }
            Op::Flush => self.flush().map(|()| Answer::Done),
            Op::Discard => self.clear(job, true, false),
            Op::WriteZeroes { unmap, durable } => {
                let answer = self.clear(job, unmap, true)?;
                if durable {
                    self.flush()?;
                }
                Ok(answer)
            }
            Op::SecureErase => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn read(&self, job: &Job) -> io::Result<Answer> {
        let place = self.look_up(job.offset)?;
        if !job.insist && !matches!(place, Place::Unknown | Place::Slow) {
            return Ok(Answer::Retry);
        }
        let mut at = 0;
        while at < job.len {
            let mut bytes = vec![0; usize::try_from((job.len - at).min(CHUNK)).unwrap_or(0)];
            self.image.read(&mut bytes[..], job.offset.saturating_add(at))?;
            job.data
                .copy_from(usize::try_from(at).unwrap_or(usize::MAX), &bytes);
            at = at.saturating_add(bytes.len() as u64);
        }
        Ok(Answer::Done)
    }

    /// Writes to clusters that have to be allocated: data first, then the mapping.
    fn write(&mut self, job: &Job, durable: bool) -> io::Result<Answer> {
        let place = self.look_up(job.offset)?;
        if !job.insist && matches!(place, Place::At { writable: true, .. }) {
            return Ok(Answer::Retry);
        }
        let mut at = 0;
        while at < job.len {
            let offset = job.offset.saturating_add(at);
            self.leave_shared_cluster(offset, job.len - at)?;
            let mapping = self.image.prepare_data_mapping(offset, job.len - at, true)?;
            let end = at.saturating_add(mapping.length());
            let mut part = Segments::default();
            let byte = |at| usize::try_from(at).unwrap_or(usize::MAX);
            job.data.part(byte(at)..byte(end), &mut part);
            write_now(self.engine.as_mut(), mapping.offset(), part, durable)?;
            if !mapping.is_nonblocking() {
                self.shared.dirty.store(true, Ordering::SeqCst);
            }
            self.image.commit_data_mapping(mapping)?;
            self.note(offset..job.offset.saturating_add(end))?;
            at = end;
        }
        Ok(Answer::Done)
    }

    /// Before a cluster that must not be written in place is replaced, and maybe freed, lets readers of it finish.
    fn leave_shared_cluster(&self, offset: u64, len: u64) -> io::Result<()> {
        let clusters = self.clusters(offset, len);
        let mut shared = false;
        for cluster in clusters {
            let place = self.place_of(cluster)?;
            let old = matches!(
                place,
                Place::At {
                    source: Source::Image,
                    writable: false,
                    ..
                }
            );
            if old {
                self.shared.map.set(cluster, Place::Unknown);
                shared = true;
            }
        }
        if shared {
            self.shared.gate.wait();
        }
        Ok(())
    }

    /// Clears what lies in whole clusters by their mapping; with `exact` also writes zeroes to the rest.
    fn clear(&mut self, job: &Job, unmap: bool, exact: bool) -> io::Result<Answer> {
        let size = self.image.size();
        let end = job.offset.saturating_add(job.len);
        if end > size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mask = (1_u64 << self.cluster_bits) - 1;
        let first = job.offset.saturating_add(mask) & !mask;
        // The last cluster of the disk is whole even if the disk ends within it.
        let last = if end == size { end } else { end & !mask };
        if first < last {
            self.clear_clusters(first..last, unmap)?;
        }
        if exact && first < last {
            self.write_zeroes(job.offset..first)?;
            self.write_zeroes(last..end)?;
        } else if exact {
            self.write_zeroes(job.offset..end)?;
        }
        self.settle()?;
        Ok(Answer::Done)
    }

    fn clear_clusters(&mut self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        for cluster in self.clusters(range.start, range.end - range.start) {
            self.shared.map.set(cluster, Place::Unknown);
        }
        self.shared.gate.wait();
        let size = 1_u64 << self.cluster_bits;
        let mut at = range.start;
        while at < range.end {
            let left = range.end - at;
            let (place, run) = self.resolve(at, left)?;
            // A run of a backing file may end within a cluster.
            let run = if run < left {
                (run & !(size - 1)).max(size)
            } else {
                run
            };
            let run = run.min(left);
            let zero = place == Place::Zero && self.resolve(at, run)?.1 == run;
            if !zero {
                self.clear_run(at, run, place, unmap)?;
            }
            at = at.saturating_add(run);
        }
        Ok(())
    }

    /// Clears whole clusters that are in one place.
    fn clear_run(&mut self, offset: u64, len: u64, place: Place, unmap: bool) -> io::Result<()> {
        self.shared.dirty.store(true, Ordering::SeqCst);
        if !unmap {
            if self.version < 3 {
                return self.write_zeroes(offset..offset.saturating_add(len));
            }
            return self.image.write_zeroes(offset, len);
        }
        // Zero or old is what the disk reads there until the new mapping is on disk, and either is allowed.
        if let Place::At {
            source: Source::Image,
            offset,
            writable: true,
        } = place
            && self.punch
        {
            let whole = len.next_multiple_of(1 << self.cluster_bits);
            self.storage.punch(offset, whole)?;
        }
        if self.has_backing {
            self.image.discard_to_zero(offset, len)
        } else {
            self.image.discard_to_backing(offset, len)
        }
    }

    /// Writes zeroes, as data, where there are none.
    fn write_zeroes(&mut self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (place, run) = self.resolve(at, (range.end - at).min(CHUNK))?;
            if place != Place::Zero {
                self.leave_shared_cluster(at, run)?;
                self.shared.dirty.store(true, Ordering::SeqCst);
                let zeroes = vec![0; usize::try_from(run).unwrap_or(0)];
                self.image.write(&zeroes[..], at)?;
                self.note(at..at.saturating_add(run))?;
            }
            at = at.saturating_add(run);
        }
        Ok(())
    }

    /// Everything becomes durable, in an order that survives a crash at any moment.
    fn flush(&self) -> io::Result<()> {
        self.storage.flush(|| self.image.flush())?;
        self.shared.dirty.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Writes the tables if they should not wait for the next flush.
    fn settle(&self) -> io::Result<()> {
        if self.storage.wants_flush() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// What the map says of a byte, after it was made to know.
    fn look_up(&self, offset: u64) -> io::Result<Place> {
        let known = self.shared.map.run(offset, 1).0;
        if known != Place::Unknown {
            return Ok(known);
        }
        let page = Map::page_of(offset >> self.cluster_bits);
        let places: io::Result<Vec<_>> = self.places(page).collect();
        self.shared.map.fill(offset >> self.cluster_bits, &places?);
        Ok(self.shared.map.run(offset, 1).0)
    }

    /// Tells the map where these bytes are now.
    fn note(&self, range: Range<u64>) -> io::Result<()> {
        let clusters = self.clusters(range.start, range.end.saturating_sub(range.start));
        for (cluster, place) in clusters.clone().zip(self.places(clusters)) {
            self.shared.map.set(cluster, place?);
        }
        Ok(())
    }

    fn clusters(&self, offset: u64, len: u64) -> Range<u64> {
        let last = offset.saturating_add(len).div_ceil(1 << self.cluster_bits);
        offset >> self.cluster_bits..last
    }

    /// Where each of these clusters is, by as few look-ups in the tables as there are runs.
    fn places(&self, clusters: Range<u64>) -> impl Iterator<Item = io::Result<Place>> + use<'_> {
        let size = 1_u64 << self.cluster_bits;
        let disk = self.image.size();
        let end = clusters.end.saturating_mul(size).min(disk);
        let mut run: Option<(Place, Range<u64>)> = None;
        clusters.map_while(move |cluster| {
            let start = cluster.saturating_mul(size);
            if start >= end {
                return None;
            }
            let whole = size.min(disk - start);
            if !run.as_ref().is_some_and(|(_, run)| run.contains(&start)) {
                match self.resolve(start, end - start) {
                    Ok((place, len)) => run = Some((place, start..start.saturating_add(len))),
                    Err(error) => return Some(Err(error)),
                }
            }
            let (place, range) = run.as_ref()?;
            let place = if range.end - start < whole {
                Place::Slow
            } else {
                self.readable_place(*place, start - range.start, whole)
            };
            Some(Ok(place))
        })
    }

    fn place_of(&self, cluster: u64) -> io::Result<Place> {
        let mut places = self.places(cluster..cluster.saturating_add(1));
        places.next().unwrap_or(Ok(Place::Unknown))
    }

    /// A place that an engine can use for `len` bytes that begin `by` bytes into it.
    fn readable_place(&self, place: Place, by: u64, len: u64) -> Place {
        let Place::At {
            source,
            offset,
            writable,
        } = place
        else {
            return place;
        };
        let offset = offset.saturating_add(by);
        let fits = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.readable[source as usize]);
        if offset.is_multiple_of(512) && (writable || fits) {
            Place::At {
                source,
                offset,
                writable,
            }
        } else {
            Place::Slow
        }
    }

    /// What the tables say of `offset`, and of how many bytes from there, at most `len` and never 0.
    fn resolve(&self, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let (mapping, run) = self.image.get_mapping(offset, len)?;
        let place = match mapping {
            Mapping::Raw {
                storage,
                offset,
                writable,
                ..
            } => Place::At {
                source: storage.source(),
                offset,
                writable,
            },
            Mapping::Zero { .. } => Place::Zero,
            Mapping::Eof { .. } => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Place::Slow,
        };
        if run == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((place, run))
    }
}

/// Writes through an engine and waits for it.
fn write_now(engine: &mut dyn Engine, offset: u64, data: Segments, durable: bool) -> io::Result<()> {
    engine.submit(Request {
        id: 0,
        op: Op::Write { durable },
        offset,
        len: data.len() as u64,
        data,
    });
    engine.commit();
    let mut done = Vec::new();
    loop {
        engine.reap(&mut done);
        if let Some(completion) = done.pop() {
            return completion.result;
        }
        if let Some(fd) = engine.fd() {
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
