// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replies of a server: pure functions from bytes to what they mean for one command in flight.
//!
//! A server is not trusted. Whatever it sends is either the answer to a command, with every byte of a read
//! told exactly once and within its bounds, or a [`Violation`], which ends the connection.

use std::ops::Range;

use super::spec::{
    Fields, MAX_STRING, REPLY_FLAG_DONE, REPLY_FLAG_ERROR, REPLY_TYPE_ERROR_OFFSET, REPLY_TYPE_NONE,
    REPLY_TYPE_OFFSET_DATA, REPLY_TYPE_OFFSET_HOLE, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

const CHUNK_HEADER: usize = 20;
/// Bytes of an error chunk beside its text: error, length of the text, offset.
const ERROR_FIELDS: usize = 14;
/// Longest message that is parsed as a whole; the payload of a read comes after what is parsed.
pub(super) const MAX_MESSAGE: usize = CHUNK_HEADER + ERROR_FIELDS + MAX_STRING;

/// Separate pieces of one read that are kept apart. A server sends them in order but for a few at a time.
const MAX_RUNS: usize = 32;

/// What a server must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a reply starts with {0:#x}")]
    Magic(u32),
    #[error("a chunk of type {0} with {1} bytes")]
    Chunk(u16, u32),
    #[error("a reply to a command that is not in flight")]
    Cookie,
    #[error("a reply of a form that was not agreed on, or not for this command")]
    Form,
    #[error("data outside of what was asked for")]
    Outside,
    #[error("the same data twice")]
    Twice,
    #[error("a reply in too many pieces")]
    Pieces,
    #[error("a read without all of its data")]
    Incomplete,
}

/// A message up to its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The command that it answers.
    pub cookie: u64,
    /// It is the last one for that command.
    pub done: bool,
    /// What it says.
    pub body: Body,
    /// Bytes of it before the payload.
    pub size: usize,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// A simple reply, followed by all data if it answers a read without error; 0 is no error.
    Simple { error: u32 },
    /// Nothing but the end.
    None,
    /// `len` bytes of data from `offset` on follow.
    Data { offset: u64, len: u32 },
    /// `len` bytes from `offset` on are zero.
    Hole { offset: u64, len: u32 },
    /// The command failed.
    Error { error: u32 },
}

/// Parses the message that `bytes` start with; `None` if more of them are needed, at most [`MAX_MESSAGE`].
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Message>, Violation> {
    let mut fields = Fields(bytes);
    match fields.u32() {
        None => Ok(None),
        Some(SIMPLE_REPLY_MAGIC) => Ok(simple(fields)),
        Some(STRUCTURED_REPLY_MAGIC) => chunk(fields),
        Some(other) => Err(Violation::Magic(other)),
    }
}

fn simple(mut fields: Fields<'_>) -> Option<Message> {
    let error = fields.u32()?;
    let cookie = fields.u64()?;
    Some(Message {
        cookie,
        done: true,
        body: Body::Simple { error },
        size: 16,
    })
}

fn chunk(mut fields: Fields<'_>) -> Result<Option<Message>, Violation> {
    let header = (|| Some((fields.u16()?, fields.u16()?, fields.u64()?, fields.u32()?)))();
    let Some((flags, kind, cookie, length)) = header else {
        return Ok(None);
    };
    let done = flags & REPLY_FLAG_DONE != 0;
    let wrong = Violation::Chunk(kind, length);
    let (body, size) = match kind {
        REPLY_TYPE_NONE if length == 0 && done => (Some(Body::None), 0),
        // At least one byte of data after the offset.
        REPLY_TYPE_OFFSET_DATA if length > 8 => {
            let len = length - 8;
            (fields.u64().map(|offset| Body::Data { offset, len }), 8)
        }
        REPLY_TYPE_OFFSET_HOLE if length == 12 => {
            let hole = fields.u64().zip(fields.u32());
            if hole.is_some_and(|(_, len)| len == 0) {
                return Err(wrong);
            }
            (hole.map(|(offset, len)| Body::Hole { offset, len }), 12)
        }
        // Unknown kinds of errors start like the known ones.
        _ if kind & REPLY_FLAG_ERROR != 0 && length as usize <= ERROR_FIELDS + MAX_STRING => {
            let Some(payload) = fields.bytes(length as usize) else {
                return Ok(None);
            };
            (Some(error(kind, payload).ok_or(wrong)?), payload.len())
        }
        _ => return Err(wrong),
    };
    Ok(body.map(|body| Message {
        cookie,
        done,
        body,
        size: CHUNK_HEADER + size,
    }))
}

/// The whole payload of an error chunk; `None` if it is malformed.
fn error(kind: u16, payload: &[u8]) -> Option<Body> {
    let mut fields = Fields(payload);
    let error = fields.u32()?;
    let text = fields.u16()?;
    fields.bytes(text.into())?;
    if kind == REPLY_TYPE_ERROR_OFFSET {
        fields.u64()?;
    }
    (error != 0).then_some(Body::Error { error })
}

/// What is to be done for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Nothing,
    /// These bytes of the command's data follow in the stream.
    Payload(Range<usize>),
    /// These bytes of the command's data are zero.
    Zero(Range<usize>),
}

/// One command in flight, as far as replies to it are concerned.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Its name on the wire.
    pub cookie: u64,
    /// Data is expected.
    read: bool,
    offset: u64,
    len: u32,
    told: Told,
    chunks: u32,
    error: Option<u32>,
}

impl Pending {
    /// Makes it a new command, that waits for `len` bytes from `offset` on if it is a `read`.
    pub(super) fn reset(&mut self, cookie: u64, read: bool, offset: u64, len: u32) {
        self.cookie = cookie;
        self.read = read;
        self.offset = offset;
        self.len = len;
        self.told.0.clear();
        self.chunks = 0;
        self.error = None;
    }

    /// Takes a message with this command's cookie into account. `structured` replies were agreed on or not.
    pub(super) fn accept(&mut self, message: &Message, structured: bool) -> Result<Step, Violation> {
        // As many as there are blocks in the range, and some to say what went wrong.
        self.chunks += 1;
        if self.chunks > self.len / 512 + 64 {
            return Err(Violation::Pieces);
        }
        match message.body {
            Body::Simple { .. } if structured && self.read => Err(Violation::Form),
            Body::Simple { error: 0 } if self.read => self.content(self.offset, self.len).map(Step::Payload),
            Body::Simple { error: 0 } => Ok(Step::Nothing),
            Body::Simple { error } => {
                self.error = Some(error);
                Ok(Step::Nothing)
            }
            _ if !structured => Err(Violation::Form),
            Body::None => Ok(Step::Nothing),
            Body::Error { error } => {
                self.error.get_or_insert(error);
                Ok(Step::Nothing)
            }
            Body::Data { offset, len } => self.content(offset, len).map(Step::Payload),
            Body::Hole { offset, len } => self.content(offset, len).map(Step::Zero),
        }
    }

    /// Where `len` bytes at `offset` of the disk belong in the command's data.
    fn content(&mut self, offset: u64, len: u32) -> Result<Range<usize>, Violation> {
        if !self.read {
            return Err(Violation::Form);
        }
        let start = offset.checked_sub(self.offset).ok_or(Violation::Outside)?;
        let end = start.checked_add(len.into()).ok_or(Violation::Outside)?;
        if end > self.len.into() {
            return Err(Violation::Outside);
        }
        let range = start as usize..end as usize;
        self.told.add(range.clone())?;
        Ok(range)
    }

    /// What became of the command, after its last message: the error that the server gave, if any.
    pub(super) fn outcome(&self) -> Result<Option<u32>, Violation> {
        if self.error.is_none() && self.read && !self.told.is(self.len as usize) {
            return Err(Violation::Incomplete);
        }
        Ok(self.error)
    }
}

/// Parts of a read that the server has told, in order; adjacent ones are one.
#[derive(Debug, Default)]
struct Told(Vec<Range<usize>>);

impl Told {
    fn add(&mut self, new: Range<usize>) -> Result<(), Violation> {
        let at = self.0.partition_point(|run| run.start < new.start);
        let before = at.checked_sub(1).and_then(|before| self.0.get(before));
        let after = self.0.get(at);
        if before.is_some_and(|run| run.end > new.start) || after.is_some_and(|run| run.start < new.end) {
            return Err(Violation::Twice);
        }
        let joins_before = before.is_some_and(|run| run.end == new.start);
        let joins_after = after.is_some_and(|run| run.start == new.end);
        match (joins_before, joins_after) {
            (true, true) => self.0[at - 1].end = self.0.remove(at).end,
            (true, false) => self.0[at - 1].end = new.end,
            (false, true) => self.0[at].start = new.start,
            (false, false) if self.0.len() == MAX_RUNS => return Err(Violation::Pieces),
            (false, false) => self.0.insert(at, new),
        }
        Ok(())
    }

    /// Whether it is all of `len` bytes.
    fn is(&self, len: usize) -> bool {
        matches!(self.0.as_slice(), [run] if *run == (0..len))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Body, MAX_MESSAGE, Message, Pending, Step, Violation, parse};

    const MAGIC: u32 = 0x668e_33ef;

    /// A chunk of a structured reply.
    pub(crate) fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[&[u8]]) -> Vec<u8> {
        let payload = payload.concat();
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    pub(crate) fn simple(error: u32, cookie: u64) -> Vec<u8> {
        let mut bytes = 0x6744_6698_u32.to_be_bytes().to_vec();
        bytes.extend(error.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes
    }

    fn be(offset: u64) -> [u8; 8] {
        offset.to_be_bytes()
    }

    fn is(body: Body, done: bool, size: usize) -> Result<Option<Message>, Violation> {
        let cookie = 7;
        Ok(Some(Message {
            cookie,
            done,
            body,
            size,
        }))
    }

    #[test]
    fn messages() {
        let error = |kind, payload: &[&[u8]]| chunk(1, kind, 7, payload);
        let text = [b'x'; 4096];
        let len = [0, 0, 2, 0];
        let (data, hole) = (
            Body::Data { offset: 9, len: 3 },
            Body::Hole { offset: 9, len: 512 },
        );
        let wrong = |kind, len| Err(Violation::Chunk(kind, len));
        for (name, bytes, want) in [
            ("simple", simple(0, 7), is(Body::Simple { error: 0 }, true, 16)),
            (
                "simple error",
                simple(5, 7),
                is(Body::Simple { error: 5 }, true, 16),
            ),
            ("none", chunk(1, 0, 7, &[]), is(Body::None, true, 20)),
            (
                "unknown flags",
                chunk(0xfffe, 1, 7, &[&be(9), b"abc"]),
                is(data, false, 28),
            ),
            ("data", chunk(1, 1, 7, &[&be(9), b"abc"]), is(data, true, 28)),
            ("hole", chunk(0, 2, 7, &[&be(9), &len]), is(hole, false, 32)),
            (
                "error",
                error(0x8001, &[&[0, 0, 0, 5, 0, 2], b"no"]),
                is(Body::Error { error: 5 }, true, 28),
            ),
            (
                "error at",
                error(0x8002, &[&[0, 0, 0, 5, 0, 1], b"n", &be(1)]),
                is(Body::Error { error: 5 }, true, 35),
            ),
            (
                "other error",
                error(0xffff, &[&[0, 0, 0, 5, 0, 0], b"zz"]),
                is(Body::Error { error: 5 }, true, 28),
            ),
            (
                "long text",
                error(0x8001, &[&[0, 0, 0, 5, 16, 0], &text]),
                is(Body::Error { error: 5 }, true, 4122),
            ),
            ("magic", vec![1, 2, 3, 4], Err(Violation::Magic(0x0102_0304))),
            ("none, not done", chunk(0, 0, 7, &[]), wrong(0, 0)),
            ("none with payload", chunk(1, 0, 7, &[b"x"]), wrong(0, 1)),
            ("no data", chunk(1, 1, 7, &[&be(9)]), wrong(1, 8)),
            ("no offset", chunk(1, 1, 7, &[]), wrong(1, 0)),
            ("empty hole", chunk(1, 2, 7, &[&be(9), &[0; 4]]), wrong(2, 12)),
            ("short hole", chunk(1, 2, 7, &[&be(9)]), wrong(2, 8)),
            ("long hole", chunk(1, 2, 7, &[&be(9), &len, b"x"]), wrong(2, 13)),
            ("block status", chunk(1, 5, 7, &[&[0; 12]]), wrong(5, 12)),
            ("unknown", chunk(1, 3, 7, &[]), wrong(3, 0)),
            (
                "no error",
                error(0x8001, &[&[0, 0, 0, 0, 0, 0]]),
                wrong(0x8001, 6),
            ),
            (
                "short error",
                error(0x8001, &[&[0, 0, 0, 5, 0]]),
                wrong(0x8001, 5),
            ),
            (
                "text too long",
                error(0x8001, &[&[0, 0, 0, 5, 0, 3], b"no"]),
                wrong(0x8001, 8),
            ),
            (
                "no offset of error",
                error(0x8002, &[&[0, 0, 0, 5, 0, 1], b"n"]),
                wrong(0x8002, 7),
            ),
            (
                "huge error",
                error(0x8001, &[&[0, 0, 0, 5, 0, 0], &[0; 4105]]),
                wrong(0x8001, 4111),
            ),
        ] {
            assert_eq!(parse(&bytes), want, "{name}");
            // Byte by byte: more is asked for until it is clear, and never more than fits.
            let clear = (0..bytes.len()).find(|&len| parse(&bytes[..len]) != Ok(None));
            match want {
                Ok(Some(message)) => assert_eq!(clear.unwrap_or(bytes.len()), message.size, "{name}"),
                _ => assert!(clear.is_none_or(|len| len >= 4), "{name}"),
            }
            assert!(clear.unwrap_or(0) <= MAX_MESSAGE);
        }
    }

    /// Feeds messages to a command for 4096 bytes from 8192 on.
    fn told(
        read: bool,
        structured: bool,
        messages: &[Vec<u8>],
    ) -> Result<(Vec<Step>, Option<u32>), Violation> {
        let mut pending = Pending::default();
        pending.reset(7, read, 8192, 4096);
        let mut steps = Vec::new();
        for bytes in messages {
            let message = parse(bytes)?.expect("whole");
            steps.push(pending.accept(&message, structured)?);
        }
        Ok((steps, pending.outcome()?))
    }

    fn data(offset: u64, len: usize) -> Vec<u8> {
        chunk(0, 1, 7, &[&be(offset), &vec![0; len]])
    }

    fn hole(offset: u64, len: u32) -> Vec<u8> {
        chunk(0, 2, 7, &[&be(offset), &len.to_be_bytes()])
    }

    #[test]
    fn a_read_is_told_once_and_wholly_in_any_order() {
        let none = chunk(1, 0, 7, &[]);
        let got = told(
            true,
            true,
            &[hole(10240, 2048), data(8192, 512), data(8704, 1536), none],
        );
        let steps = vec![
            Step::Zero(2048..4096),
            Step::Payload(0..512),
            Step::Payload(512..2048),
            Step::Nothing,
        ];
        assert_eq!(got, Ok((steps, None)));
        let got = told(true, false, &[simple(0, 7)]);
        assert_eq!(got, Ok((vec![Step::Payload(0..4096)], None)));
    }

    #[test]
    fn errors_of_the_server_are_told_after_all_messages() {
        let error = |done, error| chunk(done, 0x8001, 7, &[&[0, 0, 0, error, 0, 0]]);
        for (read, structured, messages, want) in [
            (true, true, vec![error(1, 5)], 5),
            (true, true, vec![error(0, 5), data(8192, 1), error(1, 28)], 5),
            (false, true, vec![error(1, 28)], 28),
            (false, true, vec![simple(22, 7)], 22),
            (true, false, vec![simple(22, 7)], 22),
        ] {
            let got = told(read, structured, &messages).map(|(_, error)| error);
            assert_eq!(got, Ok(Some(want)), "{messages:?}");
        }
        assert_eq!(
            told(false, true, &[simple(0, 7)]),
            Ok((vec![Step::Nothing], None))
        );
        assert_eq!(
            told(false, true, &[chunk(1, 0, 7, &[])]),
            Ok((vec![Step::Nothing], None))
        );
    }

    #[test]
    fn what_ends_a_connection() {
        let many = |step: u64| (0..33).map(|i| data(8192 + i * step, 1)).collect::<Vec<_>>();
        let errors = vec![chunk(0, 0x8001, 7, &[&[0, 0, 0, 5, 0, 0]]); 73];
        for (name, read, structured, messages, want) in [
            ("before", true, true, vec![data(8191, 2)], Violation::Outside),
            ("behind", true, true, vec![data(8192, 4097)], Violation::Outside),
            (
                "far behind",
                true,
                true,
                vec![hole(8192 + 4096, 1)],
                Violation::Outside,
            ),
            ("wraps", true, true, vec![hole(u64::MAX, 512)], Violation::Outside),
            (
                "twice",
                true,
                true,
                vec![data(8192, 4096), hole(8192, 1)],
                Violation::Twice,
            ),
            (
                "overlap",
                true,
                true,
                vec![hole(8200, 8), data(8192, 9)],
                Violation::Twice,
            ),
            (
                "overlap behind",
                true,
                true,
                vec![hole(8200, 8), data(8207, 9)],
                Violation::Twice,
            ),
            (
                "inside",
                true,
                true,
                vec![hole(8192, 80), data(8200, 1)],
                Violation::Twice,
            ),
            (
                "outside in",
                true,
                true,
                vec![hole(8200, 8), data(8192, 80)],
                Violation::Twice,
            ),
            ("runs", true, true, many(2), Violation::Pieces),
            ("endless errors", true, true, errors, Violation::Pieces),
            (
                "not all",
                true,
                true,
                vec![data(8192, 4095), chunk(1, 0, 7, &[])],
                Violation::Incomplete,
            ),
            (
                "nothing",
                true,
                true,
                vec![chunk(1, 0, 7, &[])],
                Violation::Incomplete,
            ),
            (
                "a gap",
                true,
                true,
                vec![data(8192, 1), data(8194, 4094)],
                Violation::Incomplete,
            ),
            (
                "simple for a read",
                true,
                true,
                vec![simple(0, 7)],
                Violation::Form,
            ),
            (
                "chunk unagreed",
                true,
                false,
                vec![data(8192, 4096)],
                Violation::Form,
            ),
            (
                "data for a write",
                false,
                true,
                vec![data(8192, 4096)],
                Violation::Form,
            ),
            (
                "hole for a write",
                false,
                true,
                vec![hole(8192, 4096)],
                Violation::Form,
            ),
        ] {
            assert_eq!(told(read, structured, &messages), Err(want), "{name}");
        }
        assert_eq!(told(true, true, &many(1)).unwrap_err(), Violation::Incomplete);
    }
}
