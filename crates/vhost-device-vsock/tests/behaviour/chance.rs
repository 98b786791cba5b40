// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest and processes of the host that do anything, in any order.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use vu_testkit::devices::vsock::{Header, RX, op};
use vu_testkit::process::{open_fds, resident};

use crate::support::{PORT, Rig};

/// Numbers that come from a seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Mostly something that makes sense.
    fn header(&mut self) -> Header {
        let odd = self.below(16) == 0;
        let mut header = Header::new(
            [
                op::REQUEST,
                op::RESPONSE,
                op::RST,
                op::SHUTDOWN,
                op::RW,
                op::RW,
                op::RW,
                op::CREDIT_UPDATE,
                op::CREDIT_REQUEST,
            ][self.below(9) as usize],
            self.below(4) as u32,
            if self.below(2) == 0 {
                80
            } else {
                1 << 30 | self.below(4) as u32
            },
        );
        header.flags = self.below(4) as u32;
        header.fwd_cnt = self.below(100) as u32;
        header.kind = 1 + self.below(2) as u16;
        if odd {
            header.op = self.below(12) as u16;
            header.kind = self.below(5) as u16;
            header.buf_alloc = self.next() as u32;
            header.fwd_cnt = self.next() as u32;
            header.src_cid = self.below(5);
            header.dst_cid = self.next();
        }
        header
    }
}

/// Small writes in a row, as many as the socket takes.
fn trickle(stream: &mut UnixStream) {
    stream.set_nonblocking(true).unwrap();
    for _ in 0..64 {
        let _ = stream.write(&[7; 20]);
    }
}

/// Takes all packets that have come.
fn drain(rig: &mut Rig) {
    while let Some(used) = rig.guest.lanes[usize::from(RX)].queue.pop().unwrap() {
        rig.take_back(used);
    }
}

fn play(seed: u64) {
    let mut chance = Chance(seed | 1);
    let mut rig = Rig::with(&["--buffer-size", "4096", "--memory", "65536"]);
    let listener = rig.listen(80);
    listener.set_nonblocking(true).unwrap();
    let mut streams: Vec<UnixStream> = Vec::new();
    let before = open_fds(rig.daemon.pid()).unwrap();
    for _ in 0..3000 {
        match chance.below(8) {
            0 => streams.extend(listener.accept().ok().map(|(stream, _)| stream)),
            1 => {
                let mut stream = rig.process();
                let port = chance.below(4);
                let _ = stream.write_all(format!("CONNECT {port}\n{}", "x".repeat(port as usize)).as_bytes());
                streams.push(stream);
            }
            2 if !streams.is_empty() => {
                let at = chance.below(streams.len() as u64) as usize;
                match chance.below(5) {
                    0 => drop(streams.swap_remove(at)),
                    1 => drop(streams[at].shutdown(Shutdown::Write)),
                    2 => drop(streams[at].shutdown(Shutdown::Read)),
                    3 => trickle(&mut streams[at]),
                    _ => {
                        streams[at].set_nonblocking(true).unwrap();
                        let _ = streams[at].write(&[7; 1000]);
                        let _ = streams[at].read(&mut [0; 1000]);
                    }
                }
            }
            _ => {
                let header = chance.header();
                let payload = vec![1; chance.below(64) as usize];
                let mut packet = header.with(&payload);
                if chance.below(32) == 0 {
                    let len = chance.below(packet.readable.len() as u64).max(1);
                    packet.readable.truncate(len as usize);
                }
                rig.send(packet);
            }
        }
        drain(&mut rig);
    }
    // All of it ends with its processes and its guest's resets; then it is as good as new.
    drop((streams, listener));
    std::fs::remove_file(rig.path(80)).unwrap();
    for from in 0..4 {
        for to in std::iter::once(80).chain((0..4096).map(|port| 1 << 30 | port)) {
            rig.send(Header::new(op::RST, from, to).with(b""));
            drain(&mut rig);
        }
    }
    let after = open_fds(rig.daemon.pid()).unwrap();
    assert!(
        after <= before + 1,
        "seed {seed}: {before} descriptors before, {after} now"
    );
    let memory = resident(rig.daemon.pid()).unwrap();
    assert!(memory < 32 << 20, "seed {seed}: {memory} bytes");
    let (_, mut stream) = rig.connect(82);
    rig.send(Header::new(op::RW, PORT, 82).with(b"as good as new"));
    let mut got = [0; 14];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"as good as new");
}

#[test]
fn whatever_happens_the_daemon_goes_on_as_before() {
    for seed in 1..=6 {
        play(seed * 0x9e37_79b9);
    }
}
