// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the rings cost: CPU time of a worker's thread per request of a device that does nothing but read a
//! header of 16 bytes and write a status byte. `cargo bench -p vu-common`.
//!
//! The driver makes `depth` requests available at once and waits for all, so the thread's sleep and wake are
//! part of the cost, shared by that many requests.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use vu_common::{Chain, Cx, Device, Spec, Start, Worker};
use vu_testkit::chains::{Descriptor, Request};
use vu_testkit::devices::Profile;
use vu_testkit::driver::write_indirect;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{BUFFERS, Guest, Options};

const REQUESTS: u32 = 2_000_000;
/// One at a time takes longer.
const FEW_REQUESTS: u32 = 200_000;
/// As `virtio-blk` has them: a header, the data of one page, a status.
const DATA: u32 = 4096;
const DESCRIPTORS: u16 = 3;
const RING: u16 = 512;

/// Answers each request before it takes the next, or all of a turn together.
struct Null {
    collect: bool,
    poll: Duration,
    tid: AtomicI32,
}

struct NullWorker {
    collect: bool,
    held: Vec<Chain>,
}

impl Device for Null {
    type Worker = NullWorker;

    fn spec(&self) -> Spec {
        Spec {
            poll: self.poll,
            ..Spec::new("null", 2, 1)
        }
    }

    fn start(&self, _start: &Start<'_>) -> io::Result<NullWorker> {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        self.tid.store(tid, Ordering::Release);
        Ok(NullWorker {
            collect: self.collect,
            held: Vec::new(),
        })
    }
}

fn answer(mut chain: Chain) {
    let mut header = [0; 16];
    let status = chain.writable_len().saturating_sub(1);
    let read = chain.reader().read_exact(&mut header);
    let mut writer = chain.writer();
    writer.skip(status);
    let written = writer.write_all(&header[..1]);
    assert!(read.is_ok() && written.is_ok(), "a request of another shape");
    chain.complete(status as u32 + 1);
}

impl Worker for NullWorker {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        while let Some(chain) = cx.pop(q) {
            if self.collect {
                self.held.push(chain);
            } else {
                answer(chain);
            }
        }
        self.held.drain(..).for_each(answer);
    }
}

/// Only what a guest needs to start.
#[derive(Debug)]
struct Shape;

impl Profile for Shape {
    fn name(&self) -> &'static str {
        "null"
    }

    fn virtio_id(&self) -> u32 {
        2
    }

    fn queues(&self) -> u16 {
        1
    }

    fn request(&self, _number: u64, _size: usize) -> Request {
        Request::default()
    }

    fn check(&self, _request: &Request, _used: u32, _answer: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Fills the descriptor table once; returns the heads of `depth` chains.
fn place(guest: &Guest, depth: u16, indirect: bool) -> Vec<u16> {
    let queue = &guest.lanes[0].queue;
    let stride = u64::from(DATA) + 0x1000;
    let chain = |number: u16| {
        let base = BUFFERS + stride * u64::from(number);
        let data = base + 0x1000;
        let parts = [
            Descriptor::readable(base, 16),
            Descriptor::writable(data, DATA),
            Descriptor::writable(base + 64, 1),
        ];
        if indirect {
            queue.set_descriptor(number, write_indirect(&guest.memory, base + 256, &parts));
            return number;
        }
        let head = number * DESCRIPTORS;
        for (at, part) in (head..).zip(&parts) {
            let last = at + 1 == head + DESCRIPTORS;
            queue.set_descriptor(at, if last { *part } else { part.then(at + 1) });
        }
        head
    };
    (0..depth).map(chain).collect()
}

/// CPU time of one of our threads, by the scheduler's own account.
fn cpu_time(tid: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).expect("a live thread");
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.expect("a number of nanoseconds"))
}

/// CPU time of the worker's thread per request, and time per request.
fn measure(depth: u16, indirect: bool, collect: bool, poll: Duration) -> (Duration, Duration) {
    let device = Arc::new(Null {
        collect,
        poll,
        tid: AtomicI32::new(0),
    });
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let served = device.clone();
    let session = std::thread::spawn(move || vu_common::serve_stream(theirs, &served));
    let front = FrontEnd::from_stream(ours, Duration::from_secs(20)).expect("a connection");
    let options = Options {
        size: RING,
        ..Options::default()
    };
    let mut guest = Guest::boot(front, &Shape, &options).expect("it boots");
    let heads = place(&guest, depth, indirect);
    let queue = &mut guest.lanes[0].queue;
    let mut round = || {
        heads.iter().for_each(|head| queue.push_available(*head));
        queue.submit();
        while queue.used_index() != queue.available_index() {
            std::hint::spin_loop();
        }
    };
    (0..100).for_each(|_| round());
    let tid = device.tid.load(Ordering::Acquire);
    let (cpu, began) = (cpu_time(tid), Instant::now());
    let requests = if depth < 8 { FEW_REQUESTS } else { REQUESTS };
    let rounds = requests / u32::from(depth);
    (0..rounds).for_each(|_| round());
    let count = rounds * u32::from(depth);
    let result = (
        (cpu_time(tid).saturating_sub(cpu)) / count,
        began.elapsed() / count,
    );
    drop(guest);
    session.join().expect("no panic").expect("it served");
    result
}

fn main() {
    // `cargo test --all-targets` runs it as well, without this argument: then there is nothing to measure.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    println!("depth  table     answers     CPU/request  time/request");
    for depth in [32, 128] {
        for (indirect, table) in [(false, "direct"), (true, "indirect")] {
            for (collect, answers) in [(false, "one by one"), (true, "together")] {
                let (cpu, time) = measure(depth, indirect, collect, Duration::ZERO);
                println!("{depth:5}  {table:8}  {answers:10}  {cpu:>10.0?}  {time:>12.0?}");
            }
        }
    }
    println!("depth  longest poll  CPU/request  time/request");
    for depth in [1, 32, 128] {
        for poll in [Duration::ZERO, Duration::from_micros(50)] {
            let (cpu, time) = measure(depth, true, false, poll);
            println!("{depth:5}  {poll:>12.0?}  {cpu:>11.0?}  {time:>12.0?}");
        }
    }
}
