// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a disk has to do, with real servers of many kinds.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;

use vu_common::Segments;
use vu_storage::nbd::{self, Options};
use vu_storage::{Disk, Op};

use crate::server::{Dir, Server, TcpServer, have, open_soon};
use crate::support::{Driver, Random, bytes_of, exercise, on_range, request};

const MIB: u64 = 1 << 20;

#[test]
fn qemu_nbd_with_one_client() {
    if !have("qemu-nbd", "qemu_nbd_with_one_client") {
        return;
    }
    let dir = Dir::new();
    let server = Server::qemu(&dir, &dir.image("image", 8 * MIB), &[]);
    let disk = server.open("");
    exercise(&*disk, 1);
    // Engines share the one connection.
    share(&*disk);
    assert_eq!(server.clients(), 1);
}

#[test]
fn qemu_nbd_with_several_connections() {
    if !have("qemu-nbd", "qemu_nbd_with_several_connections") {
        return;
    }
    let dir = Dir::new();
    let server = Server::qemu(&dir, &dir.image("image", 8 * MIB), &["--shared=0"]);
    let disk = server.open("");
    exercise(&*disk, 2);
    assert_eq!(server.clients(), 1);
    share(&*disk);
    let engines: Vec<_> = (0..6).map(|_| disk.engine(1).unwrap()).collect();
    assert_eq!(server.clients(), 4);
    drop(engines);
    drop(disk);
}

/// Three engines at once, on parts of their own.
fn share(disk: &dyn Disk) {
    thread::scope(|scope| {
        for part in 0..3 {
            scope.spawn(move || {
                let mut driver = Driver::new(disk, 8);
                let mut random = Random(part);
                let base = part * 2 * MIB;
                for round in 0..50 {
                    let bytes: Vec<_> = (0..8).map(|_| random.bytes(16 << 10)).collect();
                    for (i, bytes) in bytes.iter().enumerate() {
                        let data = Segments::from(bytes.clone());
                        let offset = base + i as u64 * (16 << 10);
                        driver.submit(request(
                            i as u32,
                            Op::Write {
                                durable: round % 9 == 0,
                            },
                            offset,
                            data,
                        ));
                    }
                    driver.wait(8).into_iter().for_each(|done| done.result.unwrap());
                    driver.range(Op::Flush, 0, 0).unwrap();
                    assert_eq!(driver.read(base, 128 << 10).unwrap(), bytes.concat());
                }
            });
        }
    });
}

#[test]
fn nbdkit_of_many_kinds() {
    if !have("nbdkit", "nbdkit_of_many_kinds") {
        return;
    }
    let policy = [
        "blocksize-minimum=4096",
        "blocksize-preferred=64K",
        "blocksize-maximum=128K",
    ];
    let policy = [
        &[
            "--filter=blocksize-policy",
            "memory",
            "8M",
            "blocksize-error-policy=error",
        ],
        &policy[..],
    ]
    .concat();
    let kinds: [(&str, &[&str]); 6] = [
        ("file", &["file"]),
        ("simple replies", &["--no-sr", "memory", "8M"]),
        ("no way to zero", &["--filter=nozero", "memory", "8M"]),
        ("no FUA", &["--filter=fua", "memory", "8M"]),
        (
            "no FUA and no zeroing",
            &["--filter=fua", "--filter=nozero", "memory", "8M"],
        ),
        ("large blocks, small requests", &policy),
    ];
    for (seed, (name, args)) in kinds.into_iter().enumerate() {
        let dir = Dir::new();
        let image = dir.image("image", 8 * MIB).display().to_string();
        let args = if name == "file" { &["file", &image] } else { args };
        let server = Server::nbdkit(&dir, args);
        let disk = server.open("");
        let limits = disk.limits();
        println!("{name}: {limits:?}");
        assert_eq!(limits.write_zeroes.is_none(), name.contains("zero"), "{name}");
        let blocks = (limits.logical_block, limits.physical_block, limits.minimum_io);
        match name {
            "large blocks, small requests" => assert_eq!(blocks, (4096, 64 << 10, 64 << 10)),
            _ => assert_eq!(blocks.0, 512, "{name}"),
        }
        exercise(&*disk, seed as u64);
        // Larger than some of them take at once.
        let mut driver = Driver::new(&*disk, 1);
        let bytes = Random(9).bytes(MIB as usize);
        driver.write(MIB, &bytes).unwrap();
        assert_eq!(driver.read(MIB, bytes.len()).unwrap(), bytes);
        driver
            .range(
                Op::WriteZeroes {
                    unmap: false,
                    durable: true,
                },
                MIB,
                5 * MIB,
            )
            .unwrap();
        assert_eq!(driver.read(3 * MIB, 4096).unwrap(), [0; 4096]);
        assert_eq!(
            driver.range(Op::SecureErase, 0, 4096).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
}

#[test]
fn block_sizes_that_do_not_fit_are_refused() {
    if !have("nbdkit", "block_sizes_that_do_not_fit_are_refused") {
        return;
    }
    let dir = Dir::new();
    let args = [
        "--filter=blocksize-policy",
        "memory",
        "8M",
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
    ];
    let server = Server::nbdkit(&dir, &args);
    let mut options = Options::new(server.uri("").parse().unwrap());
    assert_eq!(server.open_with(&options).limits().logical_block, 4096);
    for (size, fits) in [(512, false), (5000, false), (8192, true), (1 << 17, false)] {
        options.block_size = Some(size);
        match nbd::open(&options) {
            Ok(disk) => assert!(fits && disk.limits().logical_block == size),
            Err(error) => {
                let want = format!(": block size {size}: must be a power of two from 4096 to 65536");
                assert!(!fits && error.to_string().ends_with(&want), "{error}");
            }
        }
    }
}

#[test]
fn what_is_durable_and_what_may_be_unmapped_reaches_the_server() {
    if !have(
        "nbdkit",
        "what_is_durable_and_what_may_be_unmapped_reaches_the_server",
    ) {
        return;
    }
    let native = ["Write 0", "Write 1", "Zero 0 trim=0", "Zero 1 trim=1"];
    let flushed = [
        "Write 0",
        "Write 0",
        "Flush",
        "Zero 0 trim=0",
        "Zero 0 trim=1",
        "Flush",
    ];
    for (fua, first) in [("native", &native[..]), ("none", &flushed)] {
        let dir = Dir::new();
        let log = dir.path("log");
        let logfile = format!("logfile={}", log.display());
        // The filter's default is to have no FUA.
        let mode = if fua == "none" {
            "logappend=false"
        } else {
            "fuamode=native"
        };
        let args = ["--filter=log", "--filter=fua", "memory", "8M", &logfile, mode];
        let server = Server::nbdkit(&dir, &args);
        let disk = server.open("");
        let mut driver = Driver::new(&*disk, 1);
        let write = |durable| request(1, Op::Write { durable }, 512, Segments::from(vec![1; 512]));
        driver.run(write(false)).0.unwrap();
        driver.run(write(true)).0.unwrap();
        for (unmap, durable) in [(false, false), (true, true)] {
            driver.range(Op::WriteZeroes { unmap, durable }, 0, 1024).unwrap();
        }
        driver.range(Op::Discard, 4096, 4096).unwrap();
        driver.range(Op::Flush, 0, 0).unwrap();
        let log = std::fs::read_to_string(log).unwrap();
        let calls: Vec<_> = log.lines().filter_map(logged).collect();
        assert_eq!(calls, [first, &["Trim 0", "Flush"]].concat(), "{log}");
    }
}

/// A call in a line of nbdkit's log: its name, whether it has FUA and, if it matters, whether it may trim.
fn logged(line: &str) -> Option<String> {
    let (_, call) = line.split_once(" connection=1 ")?;
    let mut words = call.split(' ');
    let mut text = words.next()?.to_owned();
    if !["Write", "Zero", "Trim", "Flush"].contains(&text.as_str()) {
        return None;
    }
    let words: Vec<_> = words.collect();
    for (key, shown) in [("fua=", ""), ("trim=", "trim=")] {
        let value = words.iter().find_map(|word| word.strip_prefix(key));
        text += &value.map_or_else(String::new, |value| format!(" {shown}{value}"));
    }
    Some(text)
}

#[test]
fn discarded_blocks_are_given_back() {
    if !have("qemu-nbd", "discarded_blocks_are_given_back") {
        return;
    }
    let dir = Dir::new();
    let image = dir.image("image", 8 * MIB);
    let server = Server::qemu(&dir, &image, &[]);
    let disk = server.open("");
    let allocated = || std::fs::metadata(&image).unwrap().blocks() * 512;
    let mut driver = Driver::new(&*disk, 1);
    driver.write(0, &vec![7; 4 << 20]).unwrap();
    driver.range(Op::Flush, 0, 0).unwrap();
    let full = allocated();
    assert!(full >= 4 * MIB, "{full}");
    driver.range(Op::Discard, MIB, 2 * MIB).unwrap();
    let less = allocated();
    assert!(less <= full - 2 * MIB, "{less} of {full}");
    driver
        .range(
            Op::WriteZeroes {
                unmap: true,
                durable: false,
            },
            3 * MIB,
            MIB,
        )
        .unwrap();
    assert!(allocated() <= less - MIB, "{} of {less}", allocated());
    driver
        .range(
            Op::WriteZeroes {
                unmap: false,
                durable: false,
            },
            0,
            MIB,
        )
        .unwrap();
    driver
        .range(
            Op::WriteZeroes {
                unmap: false,
                durable: false,
            },
            2 * MIB,
            MIB,
        )
        .unwrap();
    assert!(allocated() >= 2 * MIB, "zeroes without a hole: {}", allocated());
}

#[test]
fn exports_have_names() {
    if !have("qemu-nbd", "exports_have_names") {
        return;
    }
    let dir = Dir::new();
    let image = dir.image("image", MIB);
    let mut bytes = [0; 512];
    bytes[..5].copy_from_slice(b"hello");
    std::fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .write_all_at(&bytes, 512)
        .unwrap();
    let server = Server::qemu(&dir, &image, &["--export-name=my disk", "--shared=0"]);
    let disk = server.open("my%20disk");
    assert_eq!(disk.capacity(), MIB);
    assert_eq!(Driver::new(&*disk, 1).read(512, 512).unwrap(), bytes);
    let uri = server.uri("x%2f");
    let error = nbd::open(&Options::new(uri.parse().unwrap()))
        .map(|_| ())
        .unwrap_err();
    let want = format!(
        "{}: export 'x/' is not there (exports here: my disk)",
        uri.replace("%2f", "/")
    );
    assert_eq!(error.to_string(), want);
}

#[test]
fn read_only_by_the_server_and_by_choice() {
    if !have("qemu-nbd", "read_only_by_the_server_and_by_choice") {
        return;
    }
    for (by_server, args) in [(true, &["--read-only"][..]), (false, &[])] {
        let dir = Dir::new();
        let image = dir.image("image", MIB);
        let server = Server::qemu(&dir, &image, args);
        let mut options = Options::new(server.uri("").parse().unwrap());
        options.read_only = !by_server;
        let disk = server.open_with(&options);
        let limits = disk.limits();
        assert!(limits.read_only && limits.discard.is_none() && limits.write_zeroes.is_none());
        let mut driver = Driver::new(&*disk, 4);
        assert_eq!(driver.read(0, 512).unwrap(), [0; 512]);
        let zeroes = Op::WriteZeroes {
            unmap: true,
            durable: true,
        };
        let results = [
            driver.write(0, &[1; 512]),
            driver.range(zeroes, 0, 512),
            driver.range(Op::Discard, 0, 512),
        ];
        for result in results {
            let kind = result.unwrap_err().kind();
            assert!(
                matches!(kind, ErrorKind::ReadOnlyFilesystem | ErrorKind::Unsupported),
                "{kind}"
            );
        }
        driver.range(Op::Flush, 0, 0).unwrap();
        assert!(std::fs::read(&image).unwrap().iter().all(|byte| *byte == 0));
    }
}

/// nbdkit's pattern plugin: every eight bytes are their own offset.
fn is_pattern(offset: u64, bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut offsets = (offset..).step_by(8);
    rest.is_empty()
        && words
            .iter()
            .all(|word| offsets.next() == Some(u64::from_be_bytes(*word)))
}

#[test]
fn an_exbibyte_at_depth_128_over_tcp() {
    if !have("nbdkit", "an_exbibyte_at_depth_128_over_tcp") {
        return;
    }
    const DEPTH: usize = 128;
    let server = TcpServer::nbdkit(&["pattern", "1E"]);
    let uri = format!("nbd://127.0.0.1:{}/any", server.port);
    let disk = open_soon(&Options::new(uri.parse().unwrap())).unwrap();
    assert_eq!(disk.capacity(), 1 << 60);
    let mut driver = Driver::new(&*disk, DEPTH);
    let mut random = Random(3);
    let mut offsets = vec![0; DEPTH];
    for round in 0..20 {
        for (id, offset) in offsets.iter_mut().enumerate() {
            let blocks = 1 + random.below(if round % 4 == 0 { 256 } else { 16 });
            *offset = random.below((1 << 60) / 512 - blocks) * 512;
            let data = crate::support::scattered(&mut random, &vec![0; blocks as usize * 512], 4, id);
            driver.submit(request(id as u32, Op::Read, *offset, data));
        }
        for done in driver.wait(DEPTH) {
            done.result.unwrap();
            assert!(is_pattern(offsets[done.id as usize], &bytes_of(&done.data)));
        }
    }
    let end = driver.read((1 << 60) - 512, 512).unwrap();
    assert!(is_pattern((1 << 60) - 512, &end));
    assert_eq!(
        driver.read(1 << 60, 512).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    assert_eq!(
        driver.read(u64::MAX - 511, 512).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
}

#[test]
fn an_exbibyte_of_memory_is_written_at_its_end() {
    if !have("nbdkit", "an_exbibyte_of_memory_is_written_at_its_end") {
        return;
    }
    let dir = Dir::new();
    let server = Server::nbdkit(&dir, &["memory", "1E"]);
    let disk = server.open("");
    exercise(&*disk, 8);
    // Longer than a command can say.
    let mut driver = Driver::new(&*disk, 1);
    let end = (1 << 60) - 512;
    driver.range(Op::Discard, 0, 10 << 30).unwrap();
    driver
        .range(
            Op::WriteZeroes {
                unmap: true,
                durable: false,
            },
            end - (9 << 30),
            9 << 30,
        )
        .unwrap();
    assert_eq!(driver.read(end - (4 << 30), 4096).unwrap(), [0; 4096]);
}

#[test]
fn a_new_size_is_seen() {
    if !have("nbdkit", "a_new_size_is_seen") {
        return;
    }
    let dir = Dir::new();
    let image = dir.image("image", MIB);
    let server = Server::nbdkit(&dir, &["file", &image.display().to_string()]);
    let disk = server.open("");
    let mut first = Driver::new(&*disk, 4);
    let mut second = Driver::new(&*disk, 4);
    assert_eq!((disk.capacity(), server.clients()), (MIB, 2));
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(2 * MIB + 100).unwrap();
    assert_eq!(disk.capacity(), MIB);
    assert_eq!(disk.refresh().unwrap(), 2 * MIB);
    assert_eq!(disk.capacity(), 2 * MIB);
    for driver in [&mut first, &mut second] {
        driver.write(2 * MIB - 512, &[3; 512]).unwrap();
        assert_eq!(driver.read(2 * MIB - 512, 512).unwrap(), [3; 512]);
    }
    file.set_len(MIB).unwrap();
    assert_eq!(disk.refresh().unwrap(), MIB);
    assert_eq!(
        second.read(MIB, 512).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    assert_eq!(first.read(MIB - 512, 512).unwrap(), [0; 512]);
}

#[test]
fn errors_of_the_server_reach_their_requests_only() {
    if !have("nbdkit", "errors_of_the_server_reach_their_requests_only") {
        return;
    }
    let dir = Dir::new();
    let trigger = dir.path("fail");
    let file = format!("error-pwrite-file={}", trigger.display());
    let args = [
        "--filter=error",
        "memory",
        "8M",
        "error-pwrite=ENOSPC",
        "error-pwrite-rate=100%",
        &file,
    ];
    let server = Server::nbdkit(&dir, &args);
    let disk = server.open("");
    let mut driver = Driver::new(&*disk, 4);
    driver.write(0, &[1; 512]).unwrap();
    std::fs::File::create(&trigger).unwrap().write_all(b"x").unwrap();
    for (id, op) in [
        (1, Op::Read),
        (2, Op::Write { durable: false }),
        (3, Op::Write { durable: true }),
    ] {
        driver.submit(request(id, op, 0, Segments::from(vec![2; 512])));
    }
    driver.submit(on_range(4, Op::Flush, 0, 0));
    for done in driver.wait(4) {
        match done.id {
            2 | 3 => assert_eq!(done.result.unwrap_err().kind(), ErrorKind::StorageFull),
            _ => done.result.unwrap(),
        }
    }
    assert_eq!(driver.read(0, 512).unwrap(), [1; 512]);
}

#[test]
fn nobody_there() {
    // Reserved, and not in use by anything that a test starts.
    for (uri, want) in [
        ("nbd://127.0.0.1:1/x", "nbd://127.0.0.1:1/x: connection refused"),
        (
            "nbd+unix:///?socket=/nowhere/s",
            "nbd+unix:///?socket=/nowhere/s: no such file or directory",
        ),
    ] {
        let error = nbd::open(&Options::new(uri.parse().unwrap()))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}
