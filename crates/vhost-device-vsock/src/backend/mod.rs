// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host side: who is behind context id 2.

pub mod unix;
pub mod vsock;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::request::Kind;

/// A socket on its way to somebody of the host.
#[derive(Debug)]
pub enum Connect {
    /// It is connected.
    Done(OwnedFd),
    /// It is writable once that has succeeded or failed.
    Started(OwnedFd),
}

/// Somebody of the host who wants to speak to the guest.
#[derive(Debug)]
pub struct Arrival {
    /// The connected socket; it does not block.
    pub fd: OwnedFd,
    /// Its type.
    pub kind: Kind,
    /// The port of the guest that it is for; `None` if it has yet to say so by `CONNECT <port>\n`.
    pub port: Option<u32>,
}

/// The host, as one guest sees it. Nothing here blocks.
pub trait Host: Send {
    /// Connects to whoever listens for `port`.
    ///
    /// # Errors
    /// Nobody does, or the host refused.
    fn connect(&mut self, port: u32, kind: Kind) -> io::Result<Connect>;

    /// Sockets that are readable when somebody wants to speak to the guest.
    fn listeners(&self) -> Vec<BorrowedFd<'_>>;

    /// Takes the next one from listener number `listener`.
    ///
    /// # Errors
    /// `WouldBlock` if there is nobody, else what the host refused.
    fn accept(&mut self, listener: usize) -> io::Result<Arrival>;
}
