// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests in hand, and the commands on the wire that carry them out, one at a time for each request.
//!
//! They outlive a connection: [`Commands::replay`] starts all of them anew on the next one.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use vu_common::Segments;

use super::handshake::Export;
use super::reply::Pending;
use super::spec::{
    CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES,
    FLAG_SEND_FLUSH, FLAG_SEND_FUA, FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES, REQUEST_LEN, request,
};
use super::sys::Out;
use crate::{Completion, Op, Request};

/// Longest range of a command without data: a multiple of every minimum block size.
const MAX_RANGE: u64 = u32::MAX as u64 & !0xffff;

/// Sent for servers that cannot zero a range.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
/// How many of [`ZEROES`] go into one command.
const MAX_ZEROES: u64 = 16;

/// What follows a command's header.
#[derive(Debug, Default)]
enum Payload {
    #[default]
    None,
    /// These bytes of the request's data.
    Data(Range<usize>),
    /// So many bytes from [`ZEROES`].
    Zeroes(usize),
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Data(range) => range.len(),
            Self::Zeroes(len) => *len,
        }
    }
}

/// One request, and the command that is carrying out a part of it.
#[derive(Default)]
struct Command {
    /// `None` while it is free.
    request: Option<Request>,
    owner: usize,
    /// Bytes of the request that earlier commands have done.
    done: u64,
    /// Bytes that this command does.
    part: u64,
    /// A flush has to follow.
    flush: bool,
    /// Wholly handed to the socket: the server may answer.
    sent: bool,
    generation: u32,
    header: [u8; REQUEST_LEN],
    payload: Payload,
    pending: Pending,
}

/// A command in the terms of the protocol.
struct Shape {
    command: u16,
    flags: u16,
    len: u64,
    payload: Payload,
}

impl Command {
    /// Goes back to the start of the request, for a server that has `export`.
    fn restart(&mut self, export: &Export, read_only: bool) -> io::Result<()> {
        self.done = 0;
        self.part = 0;
        self.flush = false;
        let Some(request) = &self.request else {
            return Ok(());
        };
        let durable = match request.op {
            Op::Read => false,
            Op::Flush => {
                self.flush = export.has(FLAG_SEND_FLUSH);
                return Ok(());
            }
            Op::Write { durable } | Op::WriteZeroes { durable, .. } => durable,
            Op::Discard if export.has(FLAG_SEND_TRIM) => false,
            Op::Discard | Op::SecureErase => return Err(io::ErrorKind::Unsupported.into()),
        };
        if read_only && request.op != Op::Read {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let end = request.offset.checked_add(request.len);
        if end.is_none_or(|end| end > export.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.flush = durable && !export.has(FLAG_SEND_FUA) && export.has(FLAG_SEND_FLUSH);
        Ok(())
    }

    /// Prepares the next command of the request; `false` if there is none left to do.
    fn next(&mut self, index: usize, export: &Export) -> bool {
        let Some(request) = &self.request else {
            return false;
        };
        self.done += self.part;
        let left = match request.op {
            Op::Flush => 0,
            _ => request.len - self.done,
        };
        let (shape, offset) = if left > 0 {
            (
                shape(request, self.done, left, export),
                request.offset + self.done,
            )
        } else if std::mem::take(&mut self.flush) {
            (range(CMD_FLUSH, 0, 0), 0)
        } else {
            return false;
        };
        self.generation = self.generation.wrapping_add(1);
        let cookie = u64::from(self.generation) << 32 | index as u64;
        self.part = shape.len;
        self.sent = false;
        self.header = self::request(shape.flags, shape.command, cookie, offset, shape.len as u32);
        self.payload = shape.payload;
        let read = shape.command == CMD_READ;
        self.pending.reset(cookie, read, offset, shape.len as u32);
        true
    }

    /// What goes to the socket.
    fn pieces(&self) -> impl Iterator<Item = Out<'_>> {
        let data = self.request.as_ref().map(|request| &request.data);
        let (data, zeroes) = match &self.payload {
            Payload::None => (None, 0),
            Payload::Data(range) => (data.map(|data| Out::Data(data, range.clone())), 0),
            Payload::Zeroes(len) => (None, *len),
        };
        let zeroes = (0..zeroes)
            .step_by(ZEROES.len())
            .map(move |at| Out::Bytes(&ZEROES[..ZEROES.len().min(zeroes - at)]));
        std::iter::once(Out::Bytes(&self.header))
            .chain(data)
            .chain(zeroes)
    }

    fn size(&self) -> usize {
        REQUEST_LEN + self.payload.len()
    }
}

/// The command for the `left` bytes of `request` from its byte `done` on, or for as many as one can do.
fn shape(request: &Request, done: u64, left: u64, export: &Export) -> Shape {
    let fua = |durable| {
        if durable && export.has(FLAG_SEND_FUA) {
            CMD_FLAG_FUA
        } else {
            0
        }
    };
    let max = u64::from(export.max_payload);
    match request.op {
        Op::Read => range(CMD_READ, 0, left.min(max)),
        Op::Write { durable } => {
            let len = left.min(max);
            Shape {
                payload: Payload::Data(done as usize..(done + len) as usize),
                ..range(CMD_WRITE, fua(durable), len)
            }
        }
        Op::WriteZeroes { unmap, durable } if export.has(FLAG_SEND_WRITE_ZEROES) => {
            let no_hole = if unmap { 0 } else { CMD_FLAG_NO_HOLE };
            range(CMD_WRITE_ZEROES, fua(durable) | no_hole, left.min(MAX_RANGE))
        }
        Op::WriteZeroes { durable, .. } => {
            let len = left.min(max).min(MAX_ZEROES * ZEROES.len() as u64);
            Shape {
                payload: Payload::Zeroes(len as usize),
                ..range(CMD_WRITE, fua(durable), len)
            }
        }
        Op::Discard | Op::Flush | Op::SecureErase => range(CMD_TRIM, 0, left.min(MAX_RANGE)),
    }
}

fn range(command: u16, flags: u16, len: u64) -> Shape {
    Shape {
        command,
        flags,
        len,
        payload: Payload::None,
    }
}

/// All requests in hand.
pub(super) struct Commands {
    all: Vec<Command>,
    free: Vec<usize>,
    /// To be sent, in this order.
    queue: VecDeque<usize>,
    /// What has ended, with its owner.
    pub finished: Vec<(usize, Completion)>,
    read_only: bool,
}

impl Commands {
    pub(super) fn new(read_only: bool) -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            finished: Vec::new(),
            read_only,
        }
    }

    /// Makes room for `depth` requests in all.
    pub(super) fn reserve(&mut self, depth: usize) {
        while self.all.len() < depth {
            self.free.push(self.all.len());
            self.all.push(Command::default());
        }
        self.queue.reserve(depth.saturating_sub(self.queue.len()));
        self.finished.reserve(depth.saturating_sub(self.finished.len()));
    }

    /// Takes a request of `owner` over.
    pub(super) fn submit(&mut self, owner: usize, mut request: Request, export: &Export) {
        if matches!(request.op, Op::Read | Op::Write { .. }) {
            request.len = request.data.len() as u64;
        }
        let index = self.free.pop().unwrap_or(self.all.len());
        if index == self.all.len() {
            self.all.push(Command::default());
        }
        let command = &mut self.all[index];
        command.owner = owner;
        command.request = Some(request);
        self.start(index, export);
    }

    fn start(&mut self, index: usize, export: &Export) {
        match self.all[index].restart(export, self.read_only) {
            Ok(()) => self.advance(index, export),
            Err(error) => self.finish(index, Err(error)),
        }
    }

    /// Goes on with a request whose command, if there was one, has been carried out.
    pub(super) fn advance(&mut self, index: usize, export: &Export) {
        if self.all[index].next(index, export) {
            self.queue.push_back(index);
        } else {
            self.finish(index, Ok(()));
        }
    }

    /// Ends a request.
    pub(super) fn finish(&mut self, index: usize, result: io::Result<()>) {
        let command = &mut self.all[index];
        command.sent = false;
        let Some(Request { id, data, .. }) = command.request.take() else {
            return;
        };
        self.finished
            .push((command.owner, Completion { id, data, result }));
        self.free.push(index);
    }

    /// Starts everything anew, for a server that has `export`.
    pub(super) fn replay(&mut self, export: &Export) {
        self.queue.clear();
        for index in 0..self.all.len() {
            self.all[index].sent = false;
            if self.all[index].request.is_some() {
                self.start(index, export);
            }
        }
    }

    /// Ends everything with errors of the kind `kind`.
    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        self.queue.clear();
        for index in 0..self.all.len() {
            self.finish(index, Err(kind.into()));
        }
    }

    /// Drops the requests of `owner` without completing them. Only while there is no connection.
    pub(super) fn forget(&mut self, owner: usize) {
        for (index, command) in self.all.iter_mut().enumerate() {
            if command.request.is_some() && command.owner == owner {
                command.request = None;
                self.free.push(index);
            }
        }
        let all = &self.all;
        self.queue.retain(|index| all[*index].request.is_some());
        self.finished.retain(|(of, _)| *of != owner);
    }

    /// Whether `owner` has requests in hand, or anyone if it is `None`.
    pub(super) fn any(&self, owner: Option<usize>) -> bool {
        let mut busy = self.all.iter().filter(|command| command.request.is_some());
        busy.any(|command| owner.is_none_or(|owner| command.owner == owner))
    }

    /// Whether there is something to send.
    pub(super) fn is_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// All that is to be sent.
    pub(super) fn outgoing(&self) -> impl Iterator<Item = Out<'_>> {
        self.queue.iter().flat_map(|index| self.all[*index].pieces())
    }

    /// The first `bytes` of [`outgoing`](Self::outgoing) have gone out. Returns how many of them belong to a
    /// command that has not gone out wholly.
    pub(super) fn went_out(&mut self, mut bytes: usize) -> usize {
        while let Some(&index) = self.queue.front() {
            let command = &mut self.all[index];
            if bytes < command.size() {
                break;
            }
            bytes -= command.size();
            command.sent = true;
            self.queue.pop_front();
        }
        bytes
    }

    /// The first command to be sent that has data of a guest.
    pub(super) fn first_write(&self) -> Option<usize> {
        let has_data = |index: &usize| matches!(self.all[*index].payload, Payload::Data(_));
        self.queue.iter().copied().find(has_data)
    }

    /// The command in flight that is called `cookie`.
    pub(super) fn in_flight(&mut self, cookie: u64) -> Option<(usize, &mut Pending)> {
        let index = (cookie & u64::from(u32::MAX)) as usize;
        let command = self.all.get_mut(index)?;
        (command.sent && command.pending.cookie == cookie).then_some((index, &mut command.pending))
    }

    /// What became of a command in flight.
    pub(super) fn pending(&self, index: usize) -> &Pending {
        &self.all[index].pending
    }

    /// Where the bytes `range` of a command's data are in its request's.
    pub(super) fn place(&self, index: usize, range: &Range<usize>) -> Option<(&Segments, Range<usize>)> {
        let command = &self.all[index];
        let base = command.done as usize;
        let data = &command.request.as_ref()?.data;
        Some((data, base + range.start..base + range.end))
    }
}
