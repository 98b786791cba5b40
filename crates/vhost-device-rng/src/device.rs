// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The entropy device (virtio 1.3, section 5.4): each request is a buffer to be filled with random bytes.
//!
//! How a request is answered:
//!
//! | what happens | what the driver gets |
//! |---|---|
//! | the backend has bytes | as many as one read gives, at most [`MAX_ANSWER`] |
//! | no device-writable byte in the chain | used length 0 |
//! | over the limit, or the backend has no bytes now | it waits |
//! | the host refuses a read | it waits, the read is tried again each second |
//! | the source is at its end | used length 0 |
//!
//! It waits where it can, because a request must get at least one byte (section 5.4.6.2) and a Linux
//! driver that got none never asks again. A wait holds no chain: it goes back to its virtqueue, and
//! a timer or the file descriptor of the backend starts the next try.
#![deny(clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vu_common::{About, Chain, Cx, Device, Interest, Ready, Spec, Start, Token, Worker, guest_warn};

use crate::backend::Backend;
use crate::bucket::{Bucket, Limit};

/// The daemon, as managers and packages see it.
pub const ABOUT: About = About {
    host_devices: &["char-hwrng"],
    ..About::new("rng")
};

/// Most bytes that one request gets.
///
/// A chain may describe 4 GiB, also by one buffer many times over. The device may give less than was
/// asked for (section 5.4.6.2), so this bounds the memory and time that one request takes.
pub const MAX_ANSWER: usize = 64 * 1024;

/// Most bytes that are read ahead.
///
/// A read of the kernel's generator costs as much as some hundred bytes of it, so small requests that
/// came together share reads. It is never more than these requests have had already, and what is left
/// when the virtqueue is empty is forgotten: no byte waits for a request that may come some day.
const READ_AHEAD: usize = 4 * 1024;

/// Virtio device id (section 5.4.1).
const VIRTIO_ID_RNG: u32 = 4;
/// The only virtqueue (section 5.4.2).
const REQUESTQ: usize = 0;
/// How long to wait for a backend that has no bytes now and cannot say when it will.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long to wait after a read that the host refused.
const ERROR_INTERVAL: Duration = Duration::from_secs(1);

/// An entropy device, as one guest sees it.
#[derive(Clone)]
pub struct Rng {
    backend: Arc<dyn Backend>,
    bucket: Option<Arc<Bucket>>,
}

impl Rng {
    /// A device that gives the bytes of `backend`, within `limit` if there is one.
    pub fn new(backend: Arc<dyn Backend>, limit: Option<Limit>) -> Self {
        let bucket = limit.map(Bucket::new).map(Arc::new);
        Self { backend, bucket }
    }
}

impl Device for Rng {
    type Worker = RngWorker;

    fn spec(&self) -> Spec {
        Spec::new("rng", VIRTIO_ID_RNG, 1)
    }

    fn start(&self, _start: &Start<'_>) -> io::Result<RngWorker> {
        Ok(RngWorker {
            rng: self.clone(),
            buffer: vec![0; MAX_ANSWER].into(),
            ahead: 0..0,
            turn: 0,
            position: 0,
            waiting: None,
        })
    }
}

/// The data path of an entropy device.
pub struct RngWorker {
    rng: Rng,
    /// Where the backend puts the bytes on their way into the chain; [`MAX_ANSWER`] long.
    buffer: Box<[u8]>,
    /// What of it was read and not given yet.
    ahead: Range<usize>,
    /// How many bytes the requests of this turn got.
    turn: usize,
    /// How many bytes the guest got.
    position: u64,
    /// What starts the next try while a request waits: a timer, or the backend's descriptor.
    waiting: Option<Token>,
}

impl Worker for RngWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        while self.waiting.is_none()
            && let Some(mut chain) = cx.pop(q)
        {
            match self.answer(cx, &mut chain) {
                Ok(written) => chain.complete(written),
                Err(waiting) => {
                    self.waiting = Some(waiting);
                    cx.give_back(chain);
                }
            }
        }
        (self.ahead, self.turn) = (0..0, 0);
    }

    fn event(&mut self, cx: &mut Cx<'_>, token: Token, _ready: Ready) {
        if self.waiting == Some(token) {
            self.stop(cx, REQUESTQ);
            self.queue(cx, REQUESTQ);
        }
    }

    fn stop(&mut self, cx: &mut Cx<'_>, _q: usize) {
        if let Some(token) = self.waiting.take() {
            // It is one of the two; a token is never given twice.
            cx.cancel(token);
            cx.unwatch(token);
        }
    }
}

impl RngWorker {
    /// Fills `chain` and returns the used length, or what to wait for.
    fn answer(&mut self, cx: &mut Cx<'_>, chain: &mut Chain) -> Result<u32, Token> {
        let mut allowed = chain.writable_len().min(MAX_ANSWER);
        if allowed == 0 {
            return Ok(0);
        }
        let now = Instant::now();
        if let Some(bucket) = &self.rng.bucket {
            let allowance = bucket.allowance(allowed, now);
            allowed = allowance.map_err(|wait| cx.timer(wait))?;
        }
        let ready = self.read(allowed).map_err(|error| self.refused(cx, &error))?;
        let bytes = self.buffer.get(ready.clone()).unwrap_or_default();
        let written = chain.writer().write(bytes).unwrap_or(0);
        if let Some(bucket) = &self.rng.bucket {
            bucket.spend(written, now);
        }
        self.ahead.start = ready.end;
        self.turn = self.turn.saturating_add(written);
        self.position = self.position.wrapping_add(written as u64);
        Ok(written as u32)
    }

    /// Where in the buffer up to `len` bytes are ready; an empty place at the end of the source.
    fn read(&mut self, len: usize) -> io::Result<Range<usize>> {
        if self.ahead.len() < len {
            let more = if self.rng.backend.reads_ahead() {
                self.turn.min(READ_AHEAD)
            } else {
                0
            };
            let buffer = self.buffer.get_mut(..len.max(more)).unwrap_or_default();
            self.ahead = 0..self.rng.backend.read(self.position, buffer)?;
        }
        let end = self.ahead.end.min(self.ahead.start.saturating_add(len));
        Ok(self.ahead.start..end)
    }

    /// What to wait for after a read that gave no bytes.
    fn refused(&self, cx: &mut Cx<'_>, error: &io::Error) -> Token {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            guest_warn!("{error}; trying again in {ERROR_INTERVAL:?}");
            return cx.timer(ERROR_INTERVAL);
        }
        // Some devices cannot be watched: epoll refuses /dev/hwrng, whose driver has no poll.
        let fd = self.rng.backend.fd();
        let watch = fd.and_then(|fd| cx.watch(fd, Interest::READABLE).ok());
        watch.unwrap_or_else(|| cx.timer(POLL_INTERVAL))
    }
}
