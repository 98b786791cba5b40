// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replies of an NBD server to five requests in flight, beside a second reading of the same bytes that was
//! written from the specification alone.
//!
//! An input is a byte about the server (1: structured replies; the others: in what portions its bytes arrive),
//! and then what it sends.

use std::collections::HashMap;

use vu_common::Segments;
use vu_storage::nbd::fuzz::replies;
use vu_storage::{Op, Request};

/// Longest data of one command, so that the longest read takes two.
const MAX_PAYLOAD: u64 = 1024;
/// Offset and length of each request; those from [`READS`] on have no data to come.
const RANGES: [(u64, u64); 5] = [(4096, 1536), (0, 512), (8192, 512), (0, 0), (512, 512)];
const READS: usize = 2;
/// Bytes around the data of a read, which nothing may touch.
const MARGIN: usize = 64;
const CANARY: u8 = 0xa5;

fn request(id: usize, data: Segments) -> Request {
    let (offset, len) = RANGES[id];
    let op = match id {
        0 | 1 => Op::Read,
        2 => Op::Write { durable: true },
        3 => Op::Flush,
        _ => Op::Discard,
    };
    let id = id as u32;
    Request {
        id,
        op,
        offset,
        len,
        data,
    }
}

/// Where a request stands, in the second reading.
struct Standing {
    /// Commands that have been carried out for it.
    commands: u32,
    /// Replies to the command that is in flight count from this place in the stream on.
    from: usize,
    /// What of the command's range has been told.
    told: Vec<bool>,
    chunks: usize,
    error: Option<u32>,
    bytes: Vec<u8>,
}

/// A second reading.
struct Reading<'a> {
    stream: &'a [u8],
    at: usize,
    structured: bool,
    portion: usize,
    standing: HashMap<usize, Standing>,
    ended: HashMap<u32, (Option<i32>, Vec<u8>)>,
}

/// The server has broken the protocol, or says that it goes.
struct Broken;

/// Why the reading stops.
enum Stop {
    /// There is no more.
    End,
    Broken,
}

impl From<Broken> for Stop {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

impl Reading<'_> {
    fn new(stream: &[u8], structured: bool, portion: usize) -> Reading<'_> {
        let standing = (0..RANGES.len()).map(|id| {
            let bytes = vec![CANARY; if id < READS { RANGES[id].1 as usize } else { 0 }];
            let mut standing = Standing {
                commands: 0,
                from: 0,
                told: vec![],
                chunks: 0,
                error: None,
                bytes,
            };
            standing.told = vec![false; command(id, 0).1];
            (id, standing)
        });
        Reading {
            stream,
            at: 0,
            structured,
            portion,
            standing: standing.collect(),
            ended: HashMap::new(),
        }
    }

    fn number(&mut self, len: usize) -> Result<u64, Stop> {
        let bytes = self.stream.get(self.at..self.at + len).ok_or(Stop::End)?;
        self.at += len;
        Ok(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// Reads one message.
    fn message(&mut self) -> Result<(), Stop> {
        match self.number(4)? {
            0x6744_6698 => {
                let (error, cookie) = (self.number(4)? as u32, self.number(8)?);
                let id = self.meant(cookie)?;
                let read = id < READS;
                if error == 108 || (read && self.structured) {
                    return Err(Stop::Broken);
                }
                if error != 0 {
                    self.fail(id, error);
                } else if read {
                    let len = self.standing[&id].told.len() as u64;
                    let (offset, _) = command(id, self.standing[&id].commands);
                    self.data(id, offset, len)?;
                }
                self.end(id)
            }
            0x668e_33ef => self.chunk(),
            _ => Err(Stop::Broken),
        }
    }

    fn chunk(&mut self) -> Result<(), Stop> {
        let (flags, kind) = (self.number(2)?, self.number(2)?);
        let (cookie, len) = (self.number(8)?, self.number(4)?);
        let done = flags & 1 == 1;
        let id = match kind {
            0 if len == 0 && done => self.answered(cookie)?,
            1 if len >= 9 => {
                let offset = self.number(8)?;
                let id = self.answered(cookie)?;
                self.data(id, offset, len - 8)?;
                id
            }
            2 if len == 12 => {
                let (offset, len) = (self.number(8)?, self.number(4)?);
                if len == 0 {
                    return Err(Stop::Broken);
                }
                let id = self.answered(cookie)?;
                let place = self.place(id, offset, len)?;
                let standing = self.standing.get_mut(&id).ok_or(Broken)?;
                standing.bytes[place].fill(0);
                id
            }
            0x8000.. if len <= 4096 + 14 => {
                let end = self.at + len as usize;
                if end > self.stream.len() {
                    return Err(Stop::End);
                }
                let fixed = if kind == 0x8002 { 14 } else { 6 };
                let (error, text) = (self.number(4), self.number(2));
                let (Ok(error), Ok(text)) = (error, text) else {
                    return Err(Stop::Broken);
                };
                if error == 0 || len < fixed + text {
                    return Err(Stop::Broken);
                }
                self.at = end;
                let id = self.answered(cookie)?;
                if error == 108 {
                    return Err(Stop::Broken);
                }
                self.fail(id, error as u32);
                id
            }
            _ => return Err(Stop::Broken),
        };
        if done { self.end(id) } else { Ok(()) }
    }

    /// The request whose command in flight is `cookie`.
    fn meant(&mut self, cookie: u64) -> Result<usize, Broken> {
        let (generation, id) = ((cookie >> 32) as u32, (cookie & 0xffff_ffff) as usize);
        let at = self.at;
        let standing = self.standing.get_mut(&id).ok_or(Broken)?;
        if generation != standing.commands + 1 || at <= standing.from {
            return Err(Broken);
        }
        standing.chunks += 1;
        if standing.chunks > command(id, standing.commands).1 / 512 + 64 {
            return Err(Broken);
        }
        Ok(id)
    }

    fn answered(&mut self, cookie: u64) -> Result<usize, Broken> {
        if !self.structured {
            return Err(Broken);
        }
        self.meant(cookie)
    }

    fn fail(&mut self, id: usize, error: u32) {
        if let Some(standing) = self.standing.get_mut(&id) {
            standing.error.get_or_insert(error);
        }
    }

    /// Where content of a read belongs, told for the first time.
    fn place(&mut self, id: usize, offset: u64, len: u64) -> Result<std::ops::Range<usize>, Broken> {
        let standing = self.standing.get_mut(&id).ok_or(Broken)?;
        let (start, size) = command(id, standing.commands);
        let end = u128::from(offset) + u128::from(len);
        if id >= READS || offset < start || end > u128::from(start) + size as u128 {
            return Err(Broken);
        }
        let at = (offset - start) as usize;
        let told = &mut standing.told[at..at + len as usize];
        if told.contains(&true) {
            return Err(Broken);
        }
        told.fill(true);
        let runs = standing.told.chunk_by(|a, b| a == b).filter(|run| run[0]).count();
        if runs > 32 {
            return Err(Broken);
        }
        let base = (offset - RANGES[id].0) as usize;
        Ok(base..base + len as usize)
    }

    /// Data that follows.
    fn data(&mut self, id: usize, offset: u64, len: u64) -> Result<(), Stop> {
        let place = self.place(id, offset, len)?;
        let bytes = self.stream.get(self.at..self.at + place.len()).ok_or(Stop::End)?;
        self.at += place.len();
        let standing = self.standing.get_mut(&id).ok_or(Broken)?;
        standing.bytes[place].copy_from_slice(bytes);
        Ok(())
    }

    /// The last message for the command of a request.
    fn end(&mut self, id: usize) -> Result<(), Stop> {
        let standing = self.standing.get_mut(&id).ok_or(Broken)?;
        if standing.error.is_none() && id < READS && standing.told.contains(&false) {
            return Err(Stop::Broken);
        }
        standing.commands += 1;
        let (_, next) = command(id, standing.commands);
        if standing.error.is_none() && next > 0 {
            // It goes out when the client has read all that there was.
            standing.from = self.at.div_ceil(self.portion) * self.portion;
            standing.told = vec![false; next];
            standing.chunks = 0;
            return Ok(());
        }
        if let Some(standing) = self.standing.remove(&id) {
            let known = [1, 12, 22, 28, 75, 95];
            let error = standing
                .error
                .map(|error| if known.contains(&error) { error as i32 } else { 5 });
            self.ended.insert(id as u32, (error, standing.bytes));
        }
        Ok(())
    }
}

/// Offset and length of the command that follows `done` others of a request.
fn command(id: usize, done: u32) -> (u64, usize) {
    let (offset, len) = RANGES[id];
    let before = MAX_PAYLOAD * u64::from(done);
    (
        offset + before,
        len.saturating_sub(before).min(MAX_PAYLOAD) as usize,
    )
}

/// The target.
///
/// # Panics
/// When the client takes the replies for something else than the second reading does, or writes beside its reads.
pub(crate) fn run(input: &[u8]) {
    let Some((first, stream)) = input.split_first() else {
        return;
    };
    let structured = first & 1 == 1;
    let portion = match usize::from(first >> 1) {
        0 => stream.len().max(1),
        portion => portion * portion,
    };
    let mut wholes = vec![];
    let requests = (0..RANGES.len()).map(|id| {
        let len = if id == 2 || id < READS {
            RANGES[id].1 as usize
        } else {
            0
        };
        let whole = Segments::from(vec![CANARY; len + 2 * MARGIN]);
        let mut part = Segments::default();
        whole.part(MARGIN..MARGIN + len, &mut part);
        wholes.push(whole);
        request(id, part)
    });
    let requests = requests.collect();
    let (completions, lost) =
        replies(requests, structured, MAX_PAYLOAD as u32, stream, portion).expect("a pair of sockets");

    let mut reading = Reading::new(stream, structured, portion);
    let broken = loop {
        match reading.message() {
            Ok(()) => {}
            Err(Stop::Broken) => break true,
            Err(Stop::End) => break false,
        }
    };
    assert_eq!(lost, broken, "given up");
    assert_eq!(completions.len(), reading.ended.len(), "completed");
    for completion in completions {
        let (error, bytes) = reading.ended.remove(&completion.id).expect("one that has ended");
        let result = completion
            .result
            .map_err(|error| error.raw_os_error().expect("a number"));
        assert_eq!(result.err(), error, "of {}", completion.id);
        let mut got = vec![0; bytes.len()];
        completion.data.copy_to(0, &mut got);
        assert!(error.is_some() || got == bytes, "data of {}", completion.id);
    }
    for (id, whole) in wholes.iter().enumerate() {
        let mut bytes = vec![0; whole.len()];
        whole.copy_to(0, &mut bytes);
        let (before, rest) = bytes.split_at(MARGIN);
        let after = &rest[rest.len() - MARGIN..];
        let untouched = |bytes: &[u8]| bytes.iter().all(|byte| *byte == CANARY);
        assert!(untouched(before) && untouched(after), "beside {id}");
        assert!(
            id < READS || untouched(rest),
            "a request without data to come, {id}"
        );
    }
}
