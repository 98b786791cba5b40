// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A daemon, a guest that speaks packets, and the paths where its host listens.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::Profile;
use vu_testkit::devices::vsock::{HEADER, Header, RX, TX, Vsock, buffer, op, vsock};
use vu_testkit::driver::Used;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};
use vu_testkit::spawn::{Daemon, Launch, TempDir};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-vsock");
/// Generous: it only bounds how long a failing test takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of payload that a buffer of the guest holds.
pub(crate) const PAYLOAD: usize = 4096;
/// The port of the guest in most tests.
pub(crate) const PORT: u32 = 5000;

/// A daemon and a guest with buffers for packets.
pub(crate) struct Rig {
    pub(crate) guest: Guest,
    pub(crate) daemon: Daemon,
    pub(crate) dir: TempDir,
    buffers: Vec<Pending>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(args: &[&str]) -> Self {
        let mut rig = Self::bare(args, &vsock());
        rig.post(16);
        rig
    }

    /// Without buffers for packets.
    pub(crate) fn bare(args: &[&str], profile: &dyn Profile) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("v");
        let args = [&["--uds-path", path.to_str().unwrap()], args].concat();
        let daemon = Daemon::spawn(&Launch::ours(PROGRAM, &args)).unwrap();
        let options = Options {
            deadline: DEADLINE,
            ..Options::default()
        };
        let front = FrontEnd::connect(&daemon.socket(), DEADLINE).unwrap();
        Self {
            guest: Guest::boot(front, profile, &options).unwrap(),
            daemon,
            dir,
            buffers: Vec::new(),
        }
    }

    /// Gives the device `count` more buffers for packets.
    pub(crate) fn post(&mut self, count: usize) {
        for _ in 0..count {
            let lane = &mut self.guest.lanes[usize::from(RX)];
            let pending = lane.place(buffer(PAYLOAD), Framing::Whole, Placement::Direct);
            self.buffers.push(pending);
            self.guest.lanes[usize::from(RX)].queue.submit();
        }
    }

    fn tx(&mut self) -> &mut Lane {
        &mut self.guest.lanes[usize::from(TX)]
    }

    /// Sends a packet and waits until the device has taken it.
    pub(crate) fn send(&mut self, packet: Request) {
        let lane = self.tx();
        let pending = lane.place(packet, Framing::Whole, Placement::Direct);
        lane.queue.submit();
        let used = lane.queue.wait(lane.end()).unwrap();
        assert_eq!((used.id, used.len), (pending.head.into(), 0));
    }

    /// Makes a packet available and does not wait.
    pub(crate) fn push(&mut self, packet: Request) {
        let lane = self.tx();
        lane.place(packet, Framing::Whole, Placement::Direct);
        lane.queue.submit();
    }

    /// The next packet of the device.
    pub(crate) fn receive(&mut self) -> (Header, Vec<u8>) {
        let lane = &mut self.guest.lanes[usize::from(RX)];
        let end = lane.end();
        let used = lane.queue.wait(end).unwrap();
        self.take_back(used)
    }

    /// The packet in a buffer that came back; the device gets another buffer for it.
    pub(crate) fn take_back(&mut self, used: Used) -> (Header, Vec<u8>) {
        let mut buffers = self.buffers.iter();
        let at = buffers.position(|pending| u32::from(pending.head) == used.id);
        let pending = self.buffers.swap_remove(at.expect("the head of a buffer"));
        let answer = self.guest.lanes[usize::from(RX)].answer(&pending);
        let header = Header::parse(&answer).unwrap();
        let len = used.len as usize;
        assert_eq!(len, HEADER + header.len as usize, "{header:?}");
        self.post(1);
        (header, answer[HEADER..len].to_vec())
    }

    /// The next packet, which must be this one.
    pub(crate) fn expect(&mut self, op: u16) -> Header {
        let (header, payload) = self.receive();
        assert_eq!(header.op, op, "{header:?} {payload:?}");
        header
    }

    /// The next `len` bytes of the connection to port 80, never more than there is credit for.
    pub(crate) fn receive_bytes(&mut self, len: usize) -> Vec<u8> {
        let mut got = Vec::new();
        let mut forwarded = 0;
        while got.len() < len {
            let (header, payload) = self.receive();
            let asked = header.op == op::CREDIT_REQUEST;
            assert!(asked || header.op == op::RW, "{header:?}");
            got.extend(payload);
            let under_way = got.len() - forwarded;
            assert!(under_way <= 65536, "{under_way} bytes without credit");
            if asked || under_way > 32768 {
                forwarded = got.len();
                let update = Header {
                    fwd_cnt: forwarded as u32,
                    ..Header::new(op::CREDIT_UPDATE, PORT, 80)
                };
                self.send(update.with(b""));
            }
        }
        got
    }

    /// No packet has come that was not waited for: a reset that must be answered is the barrier.
    pub(crate) fn quiet(&mut self) {
        self.send(Header::new(op::RW, 9999, 9999).with(b"barrier"));
        let header = self.expect(op::RST);
        assert_eq!(header.dst_port, 9999, "{header:?}");
    }

    /// Where a process of the host listens for `port`.
    pub(crate) fn path(&self, port: u32) -> PathBuf {
        self.dir.path().join(format!("v_{port}"))
    }

    pub(crate) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(port)).unwrap()
    }

    /// A connection from the guest to `port` of the host, with the host's end.
    pub(crate) fn connect(&mut self, port: u32) -> (Header, UnixStream) {
        let listener = self.listen(port);
        self.send(Header::new(op::REQUEST, PORT, port).with(b""));
        let stream = accept(&listener);
        (self.expect(op::RESPONSE), stream)
    }

    /// A process of the host that has connected to the device.
    pub(crate) fn process(&self) -> UnixStream {
        prepared(UnixStream::connect(self.dir.path().join("v")).unwrap())
    }

    /// A connection from the host to [`PORT`] of the guest: the port of the host, and its end.
    pub(crate) fn called(&mut self) -> (u32, UnixStream) {
        let mut stream = self.process();
        stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).unwrap();
        let request = self.expect(op::REQUEST);
        assert_eq!(request.dst_port, PORT);
        self.send(Header::new(op::RESPONSE, PORT, request.src_port).with(b""));
        assert_eq!(line(&stream), format!("OK {}\n", request.src_port));
        (request.src_port, stream)
    }
}

pub(crate) fn accept(listener: &UnixListener) -> UnixStream {
    prepared(listener.accept().unwrap().0)
}

fn prepared(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// One line, and not a byte more.
pub(crate) fn line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line).unwrap();
    line
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A driver that knows of streams only.
#[derive(Debug)]
pub(crate) struct StreamsOnly(pub(crate) Vsock);

impl Profile for StreamsOnly {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn virtio_id(&self) -> u32 {
        self.0.virtio_id()
    }

    fn queues(&self) -> u16 {
        self.0.queues()
    }

    fn request(&self, number: u64, size: usize) -> Request {
        self.0.request(number, size)
    }

    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        self.0.check(request, used, answer)
    }
}
