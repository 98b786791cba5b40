// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection: the message loop around the `vhost` crate's parser, and what happens to errors.
//!
//! Each header is looked at before the parser takes it. That tells whether a reply is owed when something
//! fails, and lets us answer the few messages that the parser does not know or whose descriptor it hides.
//! A refused setter is answered with a nack and the connection goes on, because several front ends do not
//! survive its loss. It ends on framing errors, and where the reply that is owed cannot be given.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserProtocolFeatures as Protocol};

use crate::control::Slot;
use crate::device::Device;
use crate::notify;
use crate::session::Session;
use crate::shutdown::{DRAIN, Shutdown};

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_VRING_ADDR: u32 = 9;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_CONFIG: u32 = 24;
const SET_CONFIG: u32 = 25;
/// SET_LOG_FD, SEND_RARP, NET_SET_MTU, SET_VRING_ENDIAN: known to the protocol, of no use to our devices.
const USELESS: [u32; 4] = [7, 19, 20, 23];
/// Messages that owe a reply other than an acknowledgement.
const GETTERS: [u32; 14] = [1, 6, 11, 15, 17, 24, 26, 28, 31, 36, 40, 41, 42, 43];

const F_NEED_REPLY: u32 = 8;
const REPLY: u32 = 1 | 4;
const MAX_PAYLOAD: usize = 4096;
/// Offset, size and flags in front of a configuration space.
const CONFIG_HEADER: usize = 12;
/// End of the longest configuration space that the parser takes.
const MAX_CONFIG: u32 = 4096;

/// Front ends that are connected to this process.
static CONNECTED: AtomicUsize = AtomicUsize::new(0);

/// The 12 bytes in front of each message.
#[derive(Clone, Copy)]
struct Header {
    request: u32,
    flags: u32,
    size: u32,
}

/// Whether the message loop goes on.
enum Next {
    Go,
    Close,
}

/// Serves one front end until it disconnects, breaks the protocol, or the daemon is asked to stop.
pub(crate) fn run<D: Device>(stream: UnixStream, device: &Arc<D>, shutdown: &Shutdown, slot: &Slot<D>) {
    let session = match Session::new(device.clone()) {
        Ok(session) => Arc::new(Mutex::new(session)),
        Err(e) => return log::error!("cannot make the virtqueues: {e}"),
    };
    let wire = match stream.try_clone() {
        Ok(wire) => wire,
        Err(e) => return log::error!("cannot serve a connection: {e}"),
    };
    let registered = shutdown.register(&stream);
    slot.enter(&session);
    log::info!("front end connected");
    notify::connected(CONNECTED.fetch_add(1, Ordering::Relaxed).saturating_add(1));
    let mut connection = Connection {
        parser: BackendReqHandler::from_stream(stream, session.clone()),
        wire,
        session: session.clone(),
    };
    connection.serve(shutdown);
    drop(registered);
    let patience = shutdown.asked().then_some(DRAIN);
    // A front end that sees the end closes its interrupts; until a daemon has ended it takes them.
    let connection = shutdown.asked().then_some(connection);
    {
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        session.end(patience);
        slot.leave(&session);
    }
    drop(connection);
    notify::connected(CONNECTED.fetch_sub(1, Ordering::Relaxed).saturating_sub(1));
    log::info!("front end disconnected");
}

struct Connection<D: Device> {
    parser: BackendReqHandler<Mutex<Session<D>>>,
    wire: UnixStream,
    session: Arc<Mutex<Session<D>>>,
}

impl<D: Device> Connection<D> {
    fn serve(&mut self, shutdown: &Shutdown) {
        let mut first = true;
        while let Some(header) = self.peek(shutdown) {
            // A front end that lost its former connection may go on as if it had not, and then wait for
            // replies that cannot come: better to end it at once.
            if std::mem::take(&mut first) && !header.negotiates() {
                return log::warn!(
                    "first message is {}, which is no negotiation: closing",
                    header.request
                );
            }
            match self.message(header) {
                Next::Go => {}
                Next::Close => return,
            }
        }
    }

    /// The next header, left in the socket. `None` at the end of the connection or of the daemon.
    fn peek(&self, shutdown: &Shutdown) -> Option<Header> {
        let mut bytes = [0_u8; 12];
        loop {
            if !shutdown.wait_readable(&self.wire) {
                return None;
            }
            match rustix::net::recv(&self.wire, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return None,
                Ok((_, 12)) => return Some(Header::parse(&bytes)),
                // Half a header stays readable, so there is nothing to wait for but time, or the end.
                Ok(_) if self.is_half_closed() => return None,
                Ok(_) => shutdown.pause(),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(e) => {
                    log::debug!("connection lost: {e}");
                    return None;
                }
            }
        }
    }

    /// Whether the front end will send nothing more, behind what is still in the socket.
    fn is_half_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.wire, PollFlags::RDHUP)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }

    fn message(&mut self, header: Header) -> Next {
        let ours = header.request == SET_BACKEND_REQ_FD
            || USELESS.contains(&header.request)
            || self.is_config_out_of_range(header)
            || self.is_misplaced_ring(header);
        if ours {
            return self.answer_ourselves(header);
        }
        match self.parser.handle_request() {
            Ok(()) => Next::Go,
            Err(Error::Disconnected) => Next::Close,
            Err(Error::ReqHandlerError(e)) if !header.owes_reply() => {
                log::warn!("message {} refused: {e}", header.request);
                Next::Go
            }
            Err(
                e @ (Error::InvalidParam
                | Error::InvalidOperation(_)
                | Error::InactiveFeature(_)
                | Error::InactiveOperation(_)
                | Error::IncorrectFds),
            ) if !header.owes_reply() => {
                log::warn!("message {} refused: {e}", header.request);
                self.acknowledge(header, false)
            }
            Err(e) => {
                log::warn!("message {}: {e}: closing the connection", header.request);
                Next::Close
            }
        }
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Session<D>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message off the socket in the parser's place.
    fn answer_ourselves(&mut self, header: Header) -> Next {
        let Some((payload, mut files)) = self.receive(header) else {
            log::warn!("message {} is malformed: closing the connection", header.request);
            return Next::Close;
        };
        if header.request == GET_CONFIG {
            log::warn!("message {GET_CONFIG} refused: beyond any configuration space");
            // A payload of size 0 is how the protocol says no.
            let mut none = payload;
            none.truncate(CONFIG_HEADER);
            none.get_mut(4..8).unwrap_or_default().fill(0);
            return self.reply(header, &none);
        }
        let offered = self.session().protocol.contains(Protocol::BACKEND_REQ);
        let done = header.request == SET_BACKEND_REQ_FD && offered && files.len() == 1;
        if done {
            self.session().config_change.connect(files.pop());
        } else {
            let why = match header.request {
                SET_VRING_ADDR => "a ring that is not aligned",
                SET_CONFIG => "beyond any configuration space",
                _ => "not offered",
            };
            log::warn!("message {} refused: {why}", header.request);
        }
        self.acknowledge(header, done)
    }

    /// The first `N` words of a message's payload, left in the socket; `None` if they are not all there.
    fn peek_payload<const N: usize>(&self) -> Option<[u32; N]> {
        let mut message = [0_u8; 12 + 40];
        let (_, got) =
            rustix::net::recv(&self.wire, &mut message, RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
        let mut words = message
            .get(12..got)?
            .chunks_exact(4)
            .map(|b| b.try_into().map_or(0, u32::from_ne_bytes));
        let mut payload = [0; N];
        for word in &mut payload {
            *word = words.next()?;
        }
        Some(payload)
    }

    /// SET_VRING_ADDR with addresses or flags over which the parser would end the connection.
    fn is_misplaced_ring(&self, header: Header) -> bool {
        if header.request != SET_VRING_ADDR || header.size != 40 {
            return false;
        }
        // Index, flags, and the low and high halves of the three addresses.
        let peeked = self.peek_payload();
        peeked.is_some_and(|[_, flags, desc, _, used, _, avail, _]| {
            flags > 1 || desc % 16 != 0 || used % 4 != 0 || avail % 2 != 0
        })
    }

    /// GET_CONFIG or SET_CONFIG with room for nothing or a range over which the parser would end the connection.
    fn is_config_out_of_range(&self, header: Header) -> bool {
        let empty = header.size == CONFIG_HEADER as u32;
        match header.request {
            GET_CONFIG if empty => return true,
            GET_CONFIG | SET_CONFIG => {}
            _ => return false,
        }
        let peeked = self.peek_payload();
        // The payload must be as long as it says, else the message is malformed and the parser's business.
        peeked.is_some_and(|[offset, size, _flags]| {
            let whole = size.checked_add(CONFIG_HEADER as u32) == Some(header.size);
            whole && offset.checked_add(size).is_none_or(|end| end > MAX_CONFIG)
        })
    }

    /// The payload and the descriptors of a message.
    fn receive(&mut self, header: Header) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let size = usize::try_from(header.size)
            .ok()
            .filter(|size| *size <= MAX_PAYLOAD)?;
        let mut message = vec![0; size.saturating_add(12)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut message)];
        let got = rustix::net::recvmsg(&self.wire, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .ok()?
            .bytes;
        let mut files = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                files.extend(fds);
            }
        }
        self.wire.read_exact(message.get_mut(got..)?).ok()?;
        Some((message.split_off(12), files))
    }

    /// Acknowledges a setter if the front end asked for that.
    fn acknowledge(&mut self, header: Header, done: bool) -> Next {
        let wanted =
            header.flags & F_NEED_REPLY != 0 && self.session().protocol.contains(Protocol::REPLY_ACK);
        if wanted {
            self.reply(header, &u64::from(!done).to_ne_bytes())
        } else {
            Next::Go
        }
    }

    fn reply(&mut self, header: Header, payload: &[u8]) -> Next {
        let mut message: Vec<u8> = [header.request, REPLY, payload.len() as u32]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        message.extend_from_slice(payload);
        match rustix::net::send(&self.wire, &message, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == message.len() => Next::Go,
            _ => Next::Close,
        }
    }
}

impl Header {
    fn parse(bytes: &[u8; 12]) -> Self {
        let word = |at: usize| {
            bytes
                .get(at..)
                .and_then(|b| b.first_chunk())
                .map_or(0, |b| u32::from_ne_bytes(*b))
        };
        Self {
            request: word(0),
            flags: word(4),
            size: word(8),
        }
    }

    fn negotiates(&self) -> bool {
        [
            GET_FEATURES,
            SET_FEATURES,
            SET_OWNER,
            GET_PROTOCOL_FEATURES,
            SET_PROTOCOL_FEATURES,
        ]
        .contains(&self.request)
    }

    fn owes_reply(&self) -> bool {
        GETTERS.contains(&self.request)
    }
}
