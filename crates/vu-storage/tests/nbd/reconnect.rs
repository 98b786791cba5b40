// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Servers that are killed, stopped and started again while they are in use.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use vu_common::Segments;
use vu_storage::nbd::Options;
use vu_storage::{Completion, Disk, Engine, Op};

use crate::server::{Dir, Server, have};
use crate::support::{DEADLINE, Driver, Random, bytes_of, on_range, request};

const STRIPE: u64 = 64 << 10;
const STRIPES: u64 = 16;
/// What one engine works on.
const PART: u64 = STRIPE * STRIPES;

/// Batches of verified reads and writes on one part of the disk until `stop`; returns what it has to hold.
fn load(disk: &dyn Disk, part: u64, stop: &AtomicBool) -> Vec<u8> {
    let mut driver = Driver::new(disk, STRIPES as usize);
    let mut random = Random(part);
    let base = part * PART;
    let mut model = vec![0; PART as usize];
    while !stop.load(Ordering::Relaxed) {
        let mut reads = HashMap::new();
        for stripe in 0..STRIPES {
            let start = stripe * STRIPE + random.below(STRIPE / 512) * 512;
            let len = 512 * (1 + random.below((stripe + 1) * STRIPE - start) / 512);
            let len = len.min((stripe + 1) * STRIPE - start) as usize;
            let range = start as usize..start as usize + len;
            let id = stripe as u32;
            driver.submit(match random.below(5) {
                0 | 1 => {
                    reads.insert(id, range);
                    request(id, Op::Read, base + start, Segments::from(vec![0xa5; len]))
                }
                2 => {
                    model[range].fill(0);
                    let (unmap, durable) = (random.below(2) == 0, false);
                    on_range(id, Op::WriteZeroes { unmap, durable }, base + start, len as u64)
                }
                choice => {
                    let bytes = random.bytes(len);
                    model[range].copy_from_slice(&bytes);
                    let op = Op::Write { durable: choice == 4 };
                    request(id, op, base + start, Segments::from(bytes))
                }
            });
        }
        for done in driver.wait(STRIPES as usize) {
            done.result.unwrap();
            if let Some(range) = reads.remove(&done.id) {
                assert!(
                    bytes_of(&done.data) == model[range],
                    "part {part}: a read is not what was written"
                );
            }
        }
        if random.below(8) == 0 {
            driver.range(Op::Flush, 0, 0).unwrap();
        }
    }
    model
}

/// Kills the server again and again under three engines; nothing is lost, in the server's file either.
fn survive(server: &mut Server, image: &std::path::Path) {
    let disk = server.open("");
    let stop = AtomicBool::new(false);
    let models: Vec<_> = thread::scope(|scope| {
        let (disk, stop) = (&*disk, &stop);
        let loads: Vec<_> = (0..3)
            .map(|part| scope.spawn(move || load(disk, part, stop)))
            .collect();
        let mut random = Random(4);
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(100 + random.below(200)));
            server.kill();
            server.restart();
        }
        // The last connection has to serve some more, too.
        drop(server.open_with(&Options::new(server.uri("").parse().unwrap())));
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    let mut driver = Driver::new(&*disk, 1);
    driver.range(Op::Flush, 0, 0).unwrap();
    let file = std::fs::File::open(image).unwrap();
    for (part, model) in models.iter().enumerate() {
        let base = part as u64 * PART;
        assert!(
            driver.read(base, PART as usize).unwrap() == *model,
            "part {part} by the server"
        );
        let mut bytes = vec![0; PART as usize];
        file.read_exact_at(&mut bytes, base).unwrap();
        assert!(bytes == *model, "part {part} in the file");
    }
}

#[test]
fn qemu_nbd_killed_under_load_loses_nothing() {
    if !have("qemu-nbd", "qemu_nbd_killed_under_load_loses_nothing") {
        return;
    }
    let dir = Dir::new();
    let image = dir.image("image", 4 * PART);
    survive(&mut Server::qemu(&dir, &image, &["--shared=0"]), &image);
}

#[test]
fn nbdkit_killed_under_load_loses_nothing() {
    if !have("nbdkit", "nbdkit_killed_under_load_loses_nothing") {
        return;
    }
    let dir = Dir::new();
    let image = dir.image("image", 4 * PART);
    let path = image.display().to_string();
    // One connection for all, and without structured replies.
    let args = [
        "--no-sr",
        "--filter=multi-conn",
        "file",
        &path,
        "multi-conn-mode=disable",
    ];
    survive(&mut Server::nbdkit(&dir, &args), &image);
}

/// Whether `driver`'s descriptor stays silent for a moment.
fn is_silent(engine: &dyn Engine) -> bool {
    let fd = engine.fd().unwrap();
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 300_000_000,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&moment)).unwrap() == 0
}

/// Waits for `count` completions.
fn completions(engine: &mut dyn Engine, count: usize) -> Vec<Completion> {
    let (mut done, end) = (Vec::new(), Instant::now() + DEADLINE);
    while done.len() < count {
        let fd = engine.fd().unwrap();
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap();
        assert!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)).unwrap() > 0);
        engine.reap(&mut done);
    }
    assert_eq!(done.len(), count);
    done
}

/// Waits until `count` requests have completed without error.
fn wait_for(engine: &mut dyn Engine, count: usize) {
    completions(engine, count)
        .into_iter()
        .for_each(|done| done.result.unwrap());
}

#[test]
fn a_server_that_is_stopped_holds_up_nobody_else() {
    if !have("qemu-nbd", "a_server_that_is_stopped_holds_up_nobody_else") {
        return;
    }
    let dir = Dir::new();
    let server = Server::qemu(&dir, &dir.image("image", 64 << 20), &[]);
    let disk = server.open("");
    let mut engine = disk.engine(32).unwrap();
    let mut done = Vec::new();
    server.signal(Signal::STOP);
    // Far more than a socket takes.
    let data = Random(1).bytes(1 << 20);
    let start = Instant::now();
    for i in 0..16 {
        let op = Op::Write { durable: false };
        engine.submit(request(i, op, u64::from(i) << 20, Segments::from(data.clone())));
    }
    engine.commit();
    engine.reap(&mut done);
    assert!(start.elapsed() < DEADLINE / 4 && done.is_empty());
    assert!(is_silent(&*engine), "nothing to do, and no rest");
    server.signal(Signal::CONT);
    wait_for(&mut *engine, 16);
    assert!(is_silent(&*engine), "all is done, and no rest");
    drop(engine);
    let mut driver = Driver::new(&*disk, 1);
    for i in 0..16 {
        assert!(driver.read(i << 20, 1 << 20).unwrap() == data, "{i}");
    }
}

#[test]
fn an_engine_that_goes_leaves_the_others_at_work() {
    if !have("qemu-nbd", "an_engine_that_goes_leaves_the_others_at_work") {
        return;
    }
    let dir = Dir::new();
    let server = Server::qemu(&dir, &dir.image("image", 64 << 20), &[]);
    let disk = server.open("");
    let mut stays = disk.engine(4).unwrap();
    let mut goes = disk.engine(4).unwrap();
    server.signal(Signal::STOP);
    let write = |id, at: u64| {
        let data = Segments::from(vec![id as u8; 1 << 20]);
        request(id, Op::Write { durable: false }, at << 20, data)
    };
    stays.submit(write(1, 0));
    stays.commit();
    goes.submit(request(7, Op::Read, 8 << 20, Segments::from(vec![7; 1 << 20])));
    goes.submit(write(8, 9));
    goes.commit();
    stays.submit(write(2, 1));
    stays.commit();
    drop(goes);
    server.signal(Signal::CONT);
    wait_for(&mut *stays, 2);
    let mut driver = Driver::new(&*disk, 1);
    assert_eq!(
        driver.read((1 << 20) - 512, 1024).unwrap(),
        [[1; 512], [2; 512]].concat()
    );
}

#[test]
fn after_the_time_to_wait_requests_fail_until_there_is_a_server() {
    if !have(
        "qemu-nbd",
        "after_the_time_to_wait_requests_fail_until_there_is_a_server",
    ) {
        return;
    }
    let dir = Dir::new();
    let mut server = Server::qemu(&dir, &dir.image("image", 1 << 20), &[]);
    let mut options = Options::new(server.uri("").parse().unwrap());
    options.reconnect = Some(Duration::from_millis(700));
    let disk = server.open_with(&options);
    let mut driver = Driver::new(&*disk, 2);
    driver.write(0, &[1; 512]).unwrap();
    server.kill();
    let start = Instant::now();
    assert_eq!(driver.read(0, 512).unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(start.elapsed() >= Duration::from_millis(700));
    let start = Instant::now();
    assert_eq!(driver.read(0, 512).unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(start.elapsed() < Duration::from_millis(700), "fails at once");
    server.restart();
    let end = Instant::now() + DEADLINE;
    loop {
        match driver.read(0, 512) {
            Ok(bytes) => break assert_eq!(bytes, [1; 512]),
            Err(error) => assert!(
                error.kind() == ErrorKind::NotConnected && Instant::now() < end,
                "{error}"
            ),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn each_loss_has_its_own_time_to_wait() {
    if !have("qemu-nbd", "each_loss_has_its_own_time_to_wait") {
        return;
    }
    const TIME: Duration = Duration::from_secs(4);
    let dir = Dir::new();
    let mut server = Server::qemu(&dir, &dir.image("image", 1 << 20), &[]);
    let mut options = Options::new(server.uri("").parse().unwrap());
    options.reconnect = Some(TIME);
    let disk = server.open_with(&options);
    let mut engine = disk.engine(1).unwrap();
    let read = || request(1, Op::Read, 0, Segments::from(vec![0; 512]));
    for idle in [false, true] {
        server.kill();
        if idle {
            // Nobody waits for anything: the descriptor tells, and a client is there again.
            server.restart();
            let end = Instant::now() + DEADLINE;
            let mut none = Vec::new();
            engine.reap(&mut none);
            while server.clients() == 0 {
                assert!(Instant::now() < end && none.is_empty());
                thread::sleep(Duration::from_millis(5));
            }
        } else {
            engine.submit(read());
            engine.commit();
            server.restart();
            wait_for(&mut *engine, 1);
        }
        // Longer than it takes to give up, counted from the loss.
        thread::sleep(TIME + Duration::from_millis(100));
        server.kill();
        let start = Instant::now();
        engine.submit(read());
        engine.commit();
        let done = completions(&mut *engine, 1).remove(0);
        assert_eq!(done.result.unwrap_err().kind(), ErrorKind::NotConnected);
        assert!(
            start.elapsed() >= TIME,
            "idle {idle}: gave up after {:?}",
            start.elapsed()
        );
        server.restart();
        let end = Instant::now() + DEADLINE;
        loop {
            engine.submit(read());
            engine.commit();
            match completions(&mut *engine, 1).remove(0).result {
                Ok(()) => break,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_server_that_comes_back_smaller_or_read_only() {
    if !have("qemu-nbd", "a_server_that_comes_back_smaller_or_read_only") {
        return;
    }
    let dir = Dir::new();
    let image = dir.image("image", 2 << 20);
    let mut server = Server::qemu(&dir, &image, &[]);
    let disk = server.open("");
    let mut driver = Driver::new(&*disk, 2);
    driver.write(1 << 20, &[1; 512]).unwrap();
    server.kill();
    std::fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    server.restart();
    driver.submit(request(1, Op::Read, 1 << 20, Segments::from(vec![0; 512])));
    driver.submit(request(2, Op::Read, 0, Segments::from(vec![0; 512])));
    for done in driver.wait(2) {
        assert_eq!(
            done.result.err().map(|error| error.kind()),
            (done.id == 1).then_some(ErrorKind::UnexpectedEof)
        );
    }
    assert_eq!(disk.capacity(), 1 << 20);

    // A read-only server is not taken: the write waits for one that can.
    server.kill();
    let (readable, writable) = (Server::qemu(&dir, &image, &["--read-only"]), server);
    let mut writable = writable;
    let mut engine = disk.engine(1).unwrap();
    engine.submit(request(
        1,
        Op::Write { durable: false },
        0,
        Segments::from(vec![5; 512]),
    ));
    engine.commit();
    drop(readable.open(""));
    assert!(is_silent(&*engine));
    drop(readable);
    writable.restart();
    wait_for(&mut *engine, 1);
}
