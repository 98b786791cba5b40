// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's end of a connection: a non-blocking socket, whatever its family, and what is known of it.
//!
//! Readiness is edge-triggered: `readable` and `writable` stay set until a call says that it would block.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, recvmsg,
    send, sendmsg, shutdown, sockopt,
};
use vu_common::Segments;

/// What a sibling's worker says when its guest has accepted.
const ACCEPTED: u8 = 1;

/// A message of the host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// All of it.
    Whole { bytes: Vec<u8>, eor: bool },
    /// There are no more.
    End,
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of the host that expects nothing but the bytes.
    Plain,
    /// A process of the host that said `CONNECT` and gets `OK` when the guest has accepted.
    Greeted,
    /// Another guest of ours: each message has a byte in front that tells whether it ends a record.
    Sibling,
}

/// The host's end.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    peer: Peer,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    hung_up: bool,
    reading_ended: bool,
    writing_ended: bool,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// `fd` must not block.
    pub(crate) fn new(fd: OwnedFd, peer: Peer) -> Self {
        Self {
            fd,
            peer,
            readable: false,
            writable: false,
            hung_up: false,
            reading_ended: false,
            writing_ended: false,
        }
    }

    /// The kernel told that it became ready.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable;
        self.writable |= writable;
        self.hung_up |= hung_up;
    }

    /// What there is to read is to wait until [`ready`](Self::ready) says so.
    pub(crate) fn rest(&mut self) {
        self.readable = false;
    }

    /// The other end was closed altogether.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Tells who called the guest that it has accepted; `port` is how the guest knows the caller.
    pub(crate) fn greet(&mut self, port: u32) -> io::Result<()> {
        // The first bytes of a fresh socket: there is room, or nobody is there.
        match self.peer {
            Peer::Plain => {}
            Peer::Greeted => {
                send(&self.fd, format!("OK {port}\n").as_bytes(), SendFlags::NOSIGNAL)?;
            }
            Peer::Sibling => {
                send(&self.fd, &[ACCEPTED], SendFlags::NOSIGNAL)?;
            }
        }
        Ok(())
    }

    /// Whether the other end has accepted.
    ///
    /// # Errors
    /// `WouldBlock` if that is not known yet, anything else if it has not.
    pub(crate) fn finish_connect(&mut self) -> io::Result<()> {
        if self.peer == Peer::Sibling {
            let mut mark = [0];
            let got = recv(&self.fd, &mut mark[..], RecvFlags::empty()).map(|(len, _)| len);
            return match self.after_read(got.map_err(io::Error::from))? {
                1 if mark == [ACCEPTED] => Ok(()),
                _ => Err(ErrorKind::ConnectionRefused.into()),
            };
        }
        if !self.writable {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(sockopt::socket_error(&self.fd)??)
    }

    /// Writes bytes of a stream; how many were taken.
    pub(crate) fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let result = sendmsg(
            &self.fd,
            parts,
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        );
        self.after_write(result.map_err(io::Error::from))
    }

    /// Writes bytes of the guest's memory as far as they are taken.
    pub(crate) fn write_segments(&mut self, segments: &Segments) -> io::Result<usize> {
        let result = segments.write_to(self.fd.as_fd());
        self.after_write(result)
    }

    fn after_write(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        if let Err(e) = &result
            && e.kind() == ErrorKind::WouldBlock
        {
            self.writable = false;
        }
        result
    }

    /// Writes one message.
    pub(crate) fn write_message(&mut self, parts: &[IoSlice<'_>], eor: bool) -> io::Result<usize> {
        if self.peer == Peer::Sibling {
            let mark = [u8::from(eor)];
            let mut all = vec![IoSlice::new(&mark)];
            all.extend(parts.iter().map(|part| IoSlice::new(part)));
            return self.write(&all);
        }
        let mut flags = SendFlags::NOSIGNAL;
        flags.set(SendFlags::EOR, eor);
        let result = sendmsg(&self.fd, parts, &mut SendAncillaryBuffer::default(), flags);
        self.after_write(result.map_err(io::Error::from))
    }

    /// Reads bytes of a stream into the guest's memory; 0 is the end.
    pub(crate) fn read_segments(&mut self, segments: &Segments) -> io::Result<usize> {
        let result = segments.read_from(self.fd.as_fd());
        self.after_read(result)
    }

    fn after_read(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        if let Err(e) = &result
            && e.kind() == ErrorKind::WouldBlock
        {
            self.readable = false;
        }
        result
    }

    /// Reads one message of at most `max` bytes.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, `InvalidData` if it is longer.
    pub(crate) fn read_message(&mut self, max: usize) -> io::Result<Message> {
        let look = recv(&self.fd, &mut [0; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC);
        let (_, len) = match look {
            Ok(look) => look,
            Err(e) => {
                self.after_read(Err(e.into()))?;
                return Ok(Message::End);
            }
        };
        let mark = usize::from(self.peer == Peer::Sibling);
        if len > max.saturating_add(mark) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a message that the guest has no room for",
            ));
        }
        let mut bytes = vec![0; len];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(
            &self.fd,
            &mut parts,
            &mut RecvAncillaryBuffer::default(),
            RecvFlags::empty(),
        )?;
        if got.bytes == 0 && len == 0 {
            return Ok(Message::End);
        }
        bytes.truncate(got.bytes);
        let mut eor = got.flags.contains(ReturnFlags::EOR);
        if mark == 1 {
            eor = bytes.first() == Some(&1);
            bytes.drain(..bytes.len().min(1));
        }
        Ok(Message::Whole { bytes, eor })
    }

    /// The guest sends no more.
    pub(crate) fn end_writing(&mut self) {
        if !std::mem::replace(&mut self.writing_ended, true) {
            // Fails only where the other end has gone.
            let _ = shutdown(&self.fd, Shutdown::Write);
        }
    }

    /// The guest reads no more.
    pub(crate) fn end_reading(&mut self) {
        if !std::mem::replace(&mut self.reading_ended, true) {
            let _ = shutdown(&self.fd, Shutdown::Read);
        }
    }
}
