// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest with one process that has one connection: buffers, packets and credit as Linux's driver has them.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vu_testkit::chains::Descriptor;
use vu_testkit::devices::vsock::{HEADER, Header, RX, TX, op};
use vu_testkit::event::wait_readable;
use vu_testkit::guest::Lane;

use crate::bench::pair::Bench;

/// Entries of Linux's rings.
const RING: usize = 128;
/// What a buffer for a packet holds beside the header.
const BUFFER: u32 = 4096;
/// The longest payload of a packet.
pub(super) const MAX_PAYLOAD: u32 = 64 << 10;
/// What the guest has room for on each connection.
const BUF_ALLOC: u32 = 256 << 10;
/// Packets are two descriptors.
const MAX_PACKETS: usize = RING / 2;
/// Both directions of a shutdown.
const SHUTDOWN: u32 = 3;
const HEADER_LEN: u32 = HEADER as u32;

/// The two queues of packets, and where the host listens.
pub(super) struct Driver<'a> {
    rx: &'a mut Lane,
    tx: &'a mut Lane,
    path: PathBuf,
}

/// The guest's side of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    port: u32,
    host_port: u32,
    sent: u32,
    received: u32,
    /// What of `received` the device knows.
    told: u32,
    /// Room of the device, and what it has passed on.
    room: (u32, u32),
}

impl Connection {
    pub(super) fn credit(&self) -> u32 {
        let (buf_alloc, fwd_cnt) = self.room;
        buf_alloc.saturating_sub(self.sent.wrapping_sub(fwd_cnt))
    }

    /// Bytes that came, modulo 2^32.
    pub(super) fn received(&self) -> u32 {
        self.received
    }

    fn header(&mut self, op: u16) -> Header {
        self.told = self.received;
        Header {
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.received,
            ..Header::new(op, self.port, self.host_port)
        }
    }
}

impl<'a> Driver<'a> {
    pub(super) fn new(bench: &'a mut Bench) -> Result<Self> {
        let path = PathBuf::from(format!("{}.v", bench.daemon.socket().display()));
        let [rx, tx, ..] = &mut bench.guest.lanes[..] else {
            bail!("the device has fewer than two queues")
        };
        debug_assert_eq!((rx.queue.index, tx.queue.index), (u32::from(RX), u32::from(TX)));
        let mut driver = Self { rx, tx, path };
        driver.refill();
        Ok(driver)
    }

    /// A process of the host listens for `port` of the host.
    pub(super) fn listen(&self, port: u32) -> Result<Listener> {
        let path = PathBuf::from(format!("{}_{port}", self.path.display()));
        let socket = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
        Ok(Listener { socket, port, path })
    }

    /// Connections from ports of the guest to a process of the host, all of them at once.
    pub(super) fn open(
        &mut self,
        listener: &Listener,
        ports: std::ops::Range<u32>,
    ) -> Result<(Vec<Connection>, Vec<UnixStream>)> {
        let connection = |port| Connection {
            port,
            host_port: listener.port,
            sent: 0,
            received: 0,
            told: 0,
            room: (0, 0),
        };
        let mut connections: Vec<_> = ports.map(connection).collect();
        for connection in &mut connections {
            let header = connection.header(op::REQUEST);
            self.send(&header)?;
        }
        self.submit();
        let mut streams = Vec::new();
        for _ in &connections {
            streams.push(listener.accept(self.rx.end())?);
        }
        self.await_answers(&mut connections, op::RESPONSE)?;
        Ok((connections, streams))
    }

    /// The guest's process closes all of its connections; the ends of the host's are seen.
    pub(super) fn close(&mut self, connections: &mut [Connection], streams: &[UnixStream]) -> Result<()> {
        for connection in connections.iter_mut() {
            let header = Header {
                flags: SHUTDOWN,
                ..connection.header(op::SHUTDOWN)
            };
            self.send(&header)?;
        }
        self.submit();
        self.await_answers(connections, op::RST)?;
        for mut stream in streams {
            ensure!(
                wait_readable(stream.as_fd(), self.rx.end()),
                "the host sees no end"
            );
            ensure!(stream.read(&mut [0])? == 0, "bytes after the end of a connection");
        }
        Ok(())
    }

    /// Each of these gets this answer; what else comes says nothing but credit.
    fn await_answers(&mut self, connections: &mut [Connection], op: u16) -> Result<()> {
        let first = connections.first().map_or(0, |connection| connection.port);
        let mut missing = connections.len();
        while missing > 0 {
            self.wait(None)?;
            while let Some(header) = self.pop()? {
                let at = header.dst_port.wrapping_sub(first) as usize;
                if let Some(connection) = connections.get_mut(at) {
                    connection.room = (header.buf_alloc, header.fwd_cnt);
                    missing -= usize::from(header.op == op);
                }
            }
            self.refill();
        }
        Ok(())
    }

    /// Takes all packets that are there; whether there was any. Tells its room when it is asked and when half of it was used.
    pub(super) fn receive(&mut self, connection: &mut Connection) -> Result<bool> {
        let (mut any, mut asked) = (false, false);
        while let Some(header) = self.pop()? {
            any = true;
            if header.dst_port != connection.port {
                continue;
            }
            connection.room = (header.buf_alloc, header.fwd_cnt);
            if header.op == op::RW {
                connection.received = connection.received.wrapping_add(header.len);
            }
            asked |= header.op == op::CREDIT_REQUEST;
            ensure!(header.op != op::RST, "the device has reset the connection");
        }
        if asked || connection.received.wrapping_sub(connection.told) >= BUF_ALLOC / 2 {
            let header = connection.header(op::CREDIT_UPDATE);
            self.send(&header)?;
            self.submit();
        }
        // Linux gives the device new buffers when it has lost half of them.
        if self.rx.queue.outstanding() < RING / 2 {
            self.refill();
        }
        Ok(any)
    }

    /// Waits until `len` more bytes have come.
    pub(super) fn receive_exactly(&mut self, connection: &mut Connection, len: u32) -> Result<()> {
        let goal = connection.received.wrapping_add(len);
        while connection.received != goal {
            self.wait(None)?;
            self.receive(connection)?;
        }
        Ok(())
    }

    /// A packet of the device, and how many bytes it has; its buffer is free.
    fn pop(&mut self) -> Result<Option<Header>> {
        let Some(used) = self.rx.queue.pop()? else {
            return Ok(None);
        };
        // A buffer is one descriptor, so its head says where it is.
        let table = self.rx.queue.table();
        let at = table.load_u64(16 * used.id as usize, Ordering::Relaxed);
        let mut bytes = [0; HEADER];
        self.rx.memory.read(at, &mut bytes);
        let header = Header::parse(&bytes).context("a packet without a header")?;
        Ok(Some(header))
    }

    fn refill(&mut self) {
        while self.rx.queue.outstanding() < RING {
            let addr = self.rx.allocate(u64::from(HEADER_LEN + BUFFER), 64);
            let buffer = Descriptor::writable(addr, HEADER_LEN + BUFFER);
            self.rx.queue.add(&[buffer], None);
        }
        self.rx.queue.submit();
    }

    /// A packet without payload.
    fn send(&mut self, header: &Header) -> Result<()> {
        while !self.has_place()? {
            self.submit();
            self.tx.queue.wait(self.tx.end())?;
        }
        let header = self.place(header);
        self.tx.queue.add(&[header], None);
        Ok(())
    }

    /// A packet with `len` bytes of payload; what they are is not looked at.
    pub(super) fn send_payload(&mut self, connection: &mut Connection, len: u32) {
        let header = Header {
            len,
            ..connection.header(op::RW)
        };
        connection.sent = connection.sent.wrapping_add(len);
        let header = self.place(&header);
        let addr = self.tx.allocate(len.into(), 64);
        self.tx
            .queue
            .add(&[header, Descriptor::readable(addr, len)], None);
    }

    fn place(&mut self, header: &Header) -> Descriptor {
        let addr = self.tx.allocate(HEADER as u64, 64);
        self.tx.memory.write(addr, &header.to_bytes());
        Descriptor::readable(addr, HEADER_LEN)
    }

    pub(super) fn submit(&mut self) {
        self.tx.queue.submit();
    }

    /// Whether one more packet fits into the ring.
    pub(super) fn has_place(&mut self) -> Result<bool> {
        if self.tx.queue.outstanding() >= MAX_PACKETS {
            while self.tx.queue.pop()?.is_some() {}
        }
        Ok(self.tx.queue.outstanding() < MAX_PACKETS)
    }

    /// Waits for a packet of the device, for half of the ring of packets to it, or for the host's end.
    pub(super) fn wait(&mut self, host: Option<(&UnixStream, PollFlags)>) -> Result<()> {
        arm(self.rx, 0);
        let is_full = self.tx.queue.outstanding() >= MAX_PACKETS;
        arm(self.tx, MAX_PACKETS / 2);
        if is_used(self.rx, 0) || is_full && is_used(self.tx, MAX_PACKETS / 2) {
            return Ok(());
        }
        let (rx, tx) = (&self.rx.queue.call, &self.tx.queue.call);
        let (rx_fd, tx_fd) = (rx.fd(), tx.fd());
        let mut fds = vec![PollFd::new(&rx_fd, PollFlags::IN)];
        if is_full {
            fds.push(PollFd::new(&tx_fd, PollFlags::IN));
        }
        if let Some((stream, flags)) = host {
            fds.push(PollFd::new(stream, flags));
        }
        let left = self.rx.end().saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("the deadline")?;
        ensure!(poll(&mut fds, Some(&left))? > 0, "nothing comes from the device");
        rx.drain();
        tx.drain();
        Ok(())
    }
}

/// Asks for an interrupt when `ahead` more buffers than the next one are back.
fn arm(lane: &Lane, ahead: usize) {
    let next = next_used(lane).wrapping_add(u16::try_from(ahead).unwrap_or(0));
    lane.queue.set_used_event(next);
    fence(Ordering::SeqCst);
}

fn is_used(lane: &Lane, ahead: usize) -> bool {
    usize::from(lane.queue.used_index().wrapping_sub(next_used(lane))) > ahead
}

fn next_used(lane: &Lane) -> u16 {
    let outstanding = u16::try_from(lane.queue.outstanding()).unwrap_or(0);
    lane.queue.available_index().wrapping_sub(outstanding)
}

/// A listening process of the host.
pub(super) struct Listener {
    socket: UnixListener,
    port: u32,
    path: PathBuf,
}

impl Listener {
    fn accept(&self, end: Instant) -> Result<UnixStream> {
        ensure!(
            wait_readable(self.socket.as_fd(), end),
            "the device does not connect"
        );
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a call on a stream that does not block has moved: nothing, if it would block.
pub(super) fn moved(result: std::io::Result<usize>) -> Result<usize> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        result => Ok(result?),
    }
}

/// The process of the host, which does not block.
pub(super) fn read(mut stream: &UnixStream, buffer: &mut [u8]) -> Result<usize> {
    moved(stream.read(buffer))
}

/// The same for writing.
pub(super) fn write(mut stream: &UnixStream, bytes: &[u8]) -> Result<usize> {
    moved(stream.write(bytes))
}
