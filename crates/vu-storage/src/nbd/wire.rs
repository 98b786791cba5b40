// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection in its transmission phase: commands go out and replies come in, never waiting.
//!
//! Data of reads goes straight from the socket into the guest's memory, but for what arrives together with the
//! header before it: one call takes in the rest of the data that is expected, and then whatever follows, into
//! a buffer. So a batch of small replies costs one call and a copy that is cheaper than the calls it saves.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::commands::Commands;
use super::connect::disconnect;
use super::handshake::{Export, plain};
use super::reply::{Body, MAX_MESSAGE, Message, Step, Violation, parse};
use super::sys::{self, Scratch};

/// Bytes that are received ahead of being parsed.
const AHEAD: usize = 64 << 10;
const _: () = assert!(AHEAD > 2 * MAX_MESSAGE);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the server hung up")]
    HungUp,
    #[error("the server is shutting down")]
    ShutDown,
    #[error("{}", plain(.0))]
    Io(#[from] io::Error),
    #[error("the server does not keep to the protocol: {0}")]
    Violation(#[from] Violation),
    /// The memory of this request cannot be read or written.
    #[error("guest memory is gone")]
    Fault(usize),
    #[error("requests were abandoned")]
    Abandoned,
    #[error("the size has changed")]
    Resized,
}

/// Data of a read that is to come next.
struct Expected {
    index: usize,
    /// Of the command's data.
    range: Range<usize>,
    /// It is the end of the reply.
    done: bool,
}

/// An established connection.
pub(super) struct Wire {
    pub socket: OwnedFd,
    pub export: Export,
    pub since: Instant,
    /// A command has been carried out.
    pub useful: bool,
    /// Bytes of the first command to be sent that have gone out.
    sent: usize,
    expected: Option<Expected>,
    ahead: Box<[u8]>,
    /// The part of `ahead` that was received and not looked at. Empty if data is expected.
    unread: Range<usize>,
    scratch: Scratch,
}

impl Wire {
    pub(super) fn new(socket: OwnedFd, export: Export) -> Self {
        Self {
            socket,
            export,
            since: Instant::now(),
            useful: false,
            sent: 0,
            expected: None,
            ahead: vec![0; AHEAD].into(),
            unread: 0..0,
            scratch: Scratch::default(),
        }
    }

    /// Sends what is queued; `true` if the socket takes no more of it now.
    pub(super) fn send(&mut self, commands: &mut Commands) -> Result<bool, Lost> {
        while commands.is_queued() {
            let socket = self.socket.as_fd();
            match sys::send(socket, &mut self.scratch, self.sent, commands.outgoing()) {
                Ok((bytes, all)) => {
                    self.sent = commands.went_out(self.sent + bytes);
                    if !all {
                        return Ok(true);
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(true),
                    Some(libc::EINTR) => {}
                    Some(libc::EFAULT) => return Err(fault(commands.first_write(), error)),
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(false)
    }

    /// Receives what there is and carries it to the requests.
    pub(super) fn receive(&mut self, commands: &mut Commands) -> Result<(), Lost> {
        while self.fill(commands)? {}
        Ok(())
    }

    /// One call; `false` if there is no more.
    fn fill(&mut self, commands: &mut Commands) -> Result<bool, Lost> {
        let kept = self.unread.len();
        self.ahead.copy_within(self.unread.clone(), 0);
        self.unread = 0..kept;
        let expected = self.expected.as_ref();
        let place = expected.and_then(|expected| commands.place(expected.index, &expected.range));
        let (socket, room) = (self.socket.as_fd(), &mut self.ahead[kept..]);
        let (mut bytes, all) = match sys::receive(socket, &mut self.scratch, place, room) {
            Ok((0, _)) => return Err(Lost::HungUp),
            Ok(got) => got,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(false),
                Some(libc::EINTR) => return Ok(true),
                Some(libc::EFAULT) => return Err(fault(expected.map(|expected| expected.index), error)),
                _ => return Err(error.into()),
            },
        };
        if let Some(expected) = &mut self.expected {
            let straight = bytes.min(expected.range.len());
            expected.range.start += straight;
            bytes -= straight;
        }
        self.unread.end += bytes;
        self.digest(commands)?;
        Ok(all)
    }

    /// Looks at all that was received.
    fn digest(&mut self, commands: &mut Commands) -> Result<(), Lost> {
        loop {
            if let Some(mut expected) = self.expected.take() {
                self.copy(&mut expected, commands);
                if !expected.range.is_empty() {
                    self.expected = Some(expected);
                    return Ok(());
                }
                if expected.done {
                    self.answered(expected.index, commands)?;
                }
            }
            let Some(message) = parse(&self.ahead[self.unread.clone()])? else {
                return Ok(());
            };
            self.unread.start += message.size;
            self.apply(&message, commands)?;
        }
    }

    /// Moves received data to its place.
    fn copy(&mut self, expected: &mut Expected, commands: &Commands) {
        let len = self.unread.len().min(expected.range.len());
        let part = expected.range.start..expected.range.start + len;
        let from = self.unread.start;
        if let Some((data, place)) = commands.place(expected.index, &part) {
            data.copy_from(place.start, &self.ahead[from..from + len]);
        }
        self.unread.start += len;
        expected.range.start += len;
    }

    fn apply(&mut self, message: &Message, commands: &mut Commands) -> Result<(), Lost> {
        let in_flight = commands.in_flight(message.cookie);
        let (index, pending) = in_flight.ok_or(Violation::Cookie)?;
        // The server is about to go, whatever this command was.
        if let Body::Simple { error } | Body::Error { error } = message.body
            && error == libc::ESHUTDOWN as u32
        {
            return Err(Lost::ShutDown);
        }
        match pending.accept(message, self.export.structured)? {
            Step::Payload(range) => {
                let done = message.done;
                self.expected = Some(Expected { index, range, done });
                return Ok(());
            }
            Step::Zero(range) => {
                if let Some((data, place)) = commands.place(index, &range) {
                    data.zero(place);
                }
            }
            Step::Nothing => {}
        }
        if message.done {
            self.answered(index, commands)?;
        }
        Ok(())
    }

    /// The last message for a command has come.
    fn answered(&mut self, index: usize, commands: &mut Commands) -> Result<(), Lost> {
        match commands.pending(index).outcome()? {
            None => commands.advance(index, &self.export),
            Some(error) => commands.finish(index, Err(server_error(error))),
        }
        self.useful = true;
        Ok(())
    }

    /// Ends the connection in good manners, if no command is half sent.
    pub(super) fn part(self) {
        if self.sent == 0 {
            disconnect(&self.socket);
        }
    }
}

/// A system call could not reach the memory of the request `index`.
fn fault(index: Option<usize>, error: io::Error) -> Lost {
    index.map_or(Lost::Io(error), Lost::Fault)
}

/// The error that a server gave: one of those that the protocol knows, which have the numbers of Linux.
fn server_error(error: u32) -> io::Error {
    let known = [
        libc::EPERM,
        libc::ENOMEM,
        libc::EINVAL,
        libc::ENOSPC,
        libc::EOVERFLOW,
        libc::EOPNOTSUPP,
    ];
    let number = known.into_iter().find(|known| *known as u32 == error);
    io::Error::from_raw_os_error(number.unwrap_or(libc::EIO))
}
