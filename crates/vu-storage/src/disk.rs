// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every kind of storage is to a device: [`Disk`], shared by all threads, and [`Engine`], one per thread.

use std::io;
use std::os::fd::BorrowedFd;

use vu_common::Segments;

/// An opened disk, shared by the threads of a device.
pub trait Disk: Send + Sync + 'static {
    /// The facts that do not change while it is open.
    fn limits(&self) -> Limits;

    /// Bytes that it holds now; a multiple of the logical block size. Cheap: no system call.
    fn capacity(&self) -> u64;

    /// Looks at the size anew, after it may have been changed from outside, and returns the capacity.
    ///
    /// # Errors
    /// What the host says; the old capacity stays.
    fn refresh(&self) -> io::Result<u64>;

    /// Makes it `bytes` long; what is new reads as zeroes.
    ///
    /// # Errors
    /// It cannot be done from here, would lose something, or the host refused.
    fn grow(&self, _bytes: u64) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kind of storage is made larger by its own tools",
        ))
    }

    /// What the storage says of its wear.
    fn lifetime(&self) -> Option<Lifetime> {
        None
    }

    /// Whether another process, on another host maybe, may open the storage while this one still writes to it, as
    /// the target of a live migration does. Not so if something of it is kept in memory here and there.
    fn can_be_handed_over(&self) -> bool {
        true
    }

    /// The data path of the calling thread, for at most `depth` requests in flight.
    ///
    /// # Errors
    /// What the host refused.
    fn engine(&self, depth: usize) -> io::Result<Box<dyn Engine>>;
}

/// The data path of one thread. It never blocks for longer than the fastest storage takes.
///
/// Dropping it waits until no request is in flight any more, or has made sure that none of them will touch
/// its memory.
pub trait Engine {
    /// Takes a request over. It completes by [`reap`](Self::reap), never within this call; in any order.
    ///
    /// The range has been checked against [`Disk::capacity`] and [`Limits`] by the caller, but the storage may
    /// have shrunk since: that is an error of the request. Never more than the engine's depth are in flight.
    fn submit(&mut self, request: Request);

    /// Starts what was submitted: called once after each batch. [`reap`](Self::reap) follows it: what is done
    /// at once is not told by [`fd`](Self::fd).
    fn commit(&mut self);

    /// Moves what has completed to the end of `done`. Never waits.
    fn reap(&mut self, done: &mut Vec<Completion>);

    /// A descriptor that can be read when there may be something to reap; `None` if all completes within
    /// [`commit`](Self::commit). Always the same one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// What is to be done with the bytes from [`Request::offset`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill [`Request::data`].
    Read,
    /// Write [`Request::data`] out; `durable` means that it is on stable storage before it completes.
    Write {
        /// Durable when it completes (FUA), not only after the next flush.
        durable: bool,
    },
    /// Every write that completed before this request was submitted becomes durable. Has no range.
    Flush,
    /// [`Request::len`] bytes are needed no longer; what they hold afterwards is undefined. A hint.
    Discard,
    /// [`Request::len`] bytes become zero.
    WriteZeroes {
        /// The storage may deallocate them.
        unmap: bool,
        /// Durable when it completes.
        durable: bool,
    },
    /// [`Request::len`] bytes, and all copies of them, are destroyed.
    SecureErase,
}

/// One request to an engine.
#[derive(Debug)]
pub struct Request {
    /// The caller's name for it, returned in its [`Completion`].
    pub id: u32,
    /// What to do.
    pub op: Op,
    /// First byte on the disk, a multiple of the logical block size.
    pub offset: u64,
    /// Bytes concerned: the length of `data` for reads and writes.
    pub len: u64,
    /// Where the bytes go to or come from; empty for other operations. It comes back in the completion.
    pub data: Segments,
}

/// The end of a request.
#[derive(Debug)]
pub struct Completion {
    /// [`Request::id`].
    pub id: u32,
    /// [`Request::data`], for reuse.
    pub data: Segments,
    /// All was done, or why not. A read past the end of what the storage holds now is `UnexpectedEof`,
    /// what the storage cannot do at all `Unsupported`.
    pub result: io::Result<()>,
}

/// What a disk can do and how it likes to be used. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nothing can be written.
    pub read_only: bool,
    /// Unit of addressing, a power of two of at least 512; offsets and lengths are multiples of it.
    pub logical_block: u32,
    /// Unit that is written at once without reading first, a power of two of at least `logical_block`.
    pub physical_block: u32,
    /// Smallest request without a penalty (a stripe's chunk); 0 if unknown.
    pub minimum_io: u32,
    /// Best size of a request (a full stripe); 0 if unknown.
    pub optimal_io: u32,
    /// Whether it has heads that move; `None` if unknown.
    pub rotational: Option<bool>,
    /// [`Op::Discard`], if it does something.
    pub discard: Option<Range>,
    /// [`Op::WriteZeroes`], if it is cheaper than writing zeroes. `unmap` is honoured if `discard` is `Some`.
    pub write_zeroes: Option<Range>,
    /// [`Op::SecureErase`].
    pub secure_erase: Option<Range>,
}

/// Bounds of operations on ranges. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Longest range of one request.
    pub max_len: u64,
    /// Ranges that start at and are multiples of this are wholly effective; a power of two or a multiple of
    /// the logical block size.
    pub alignment: u32,
}

/// Wear of flash storage, as virtio-blk reports it (virtio 1.3, section 5.2.6, `virtio_blk_lifetime`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// 0 undefined, 1 normal, 2 80 % of reserved blocks used, 3 90 %.
    pub pre_eol_info: u16,
    /// Lifetime used of SLC cells in steps of 10 %: 1 is up to 10 %; 11 is beyond; 0 undefined.
    pub device_lifetime_est_typ_a: u16,
    /// The same of MLC cells.
    pub device_lifetime_est_typ_b: u16,
}
