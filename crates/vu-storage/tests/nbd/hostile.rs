// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A server that lies, breaks off, and never says a word; and at last behaves.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use vu_common::Segments;
use vu_storage::nbd::{self, Options};
use vu_storage::{Disk, Op};

use crate::server::Dir;
use crate::support::{Driver, Random, bytes_of, request};

const SIZE: u64 = 1 << 20;
const READ: u16 = 0;

/// A request as a server gets it; a write's data is dropped.
#[derive(Clone, Copy, Debug)]
struct Asked {
    command: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

fn ask(stream: &mut UnixStream) -> io::Result<Asked> {
    let mut header = [0; 28];
    stream.read_exact(&mut header)?;
    let asked = Asked {
        command: u16::from_be_bytes([header[6], header[7]]),
        cookie: u64::from_be_bytes(header[8..16].try_into().unwrap()),
        offset: u64::from_be_bytes(header[16..24].try_into().unwrap()),
        len: u32::from_be_bytes(header[24..].try_into().unwrap()),
    };
    if asked.command == 1 {
        stream.read_exact(&mut vec![0; asked.len as usize])?;
    }
    Ok(asked)
}

/// A chunk of a structured reply.
fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    let len = (payload.len() as u32).to_be_bytes();
    [
        &0x668e_33ef_u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &len,
        &payload,
    ]
    .concat()
}

fn simple(error: u32, cookie: u64) -> Vec<u8> {
    [
        &0x6744_6698_u32.to_be_bytes()[..],
        &error.to_be_bytes(),
        &cookie.to_be_bytes(),
    ]
    .concat()
}

fn data(asked: Asked, done: bool, at: u64, byte: u8, len: u32) -> Vec<u8> {
    let offset = asked.offset.wrapping_add(at).to_be_bytes();
    chunk(
        done.into(),
        1,
        asked.cookie,
        &[&offset, &vec![byte; len as usize]],
    )
}

fn hole(asked: Asked, done: bool, at: u64, len: u32) -> Vec<u8> {
    let offset = asked.offset.wrapping_add(at).to_be_bytes();
    chunk(done.into(), 2, asked.cookie, &[&offset, &len.to_be_bytes()])
}

/// What the server holds everywhere.
const TRUTH: u8 = 0x42;

fn honest(asked: Asked) -> Vec<u8> {
    match asked.command {
        READ => data(asked, true, 0, TRUTH, asked.len),
        _ => simple(0, asked.cookie),
    }
}

fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    [
        &0x0003_e889_0455_65a9_u64.to_be_bytes()[..],
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &(payload.len() as u32).to_be_bytes(),
        payload,
    ]
    .concat()
}

/// The server's side of the handshake.
fn shake(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let len = u32::from_be_bytes(header[12..].try_into().unwrap());
        stream.read_exact(&mut vec![0; len as usize])?;
        match header[11] {
            8 => stream.write_all(&option_reply(8, 1, &[]))?,
            7 => {
                // Flush, FUA, trim and zeroes.
                let export = [&[0, 0][..], &SIZE.to_be_bytes(), &[0, 0x6d]].concat();
                stream.write_all(&option_reply(7, 3, &export))?;
                return stream.write_all(&option_reply(7, 1, &[]));
            }
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

/// Serves one client honestly to its end.
fn behave(mut stream: UnixStream) {
    if shake(&mut stream).is_ok() {
        while let Ok(asked) = ask(&mut stream) {
            if asked.command == 2 || stream.write_all(&honest(asked)).is_err() {
                return;
            }
        }
    }
}

/// What a bad server does in place of its answer to the first request.
type Trick = fn(Asked) -> Vec<u8>;

/// Waits until the other side has hung up.
fn until_hung_up(stream: &mut UnixStream) {
    let _ = io::copy(stream, &mut io::sink());
}

/// Serves one client that way: it plays `trick` and waits for it to hang up, or hangs up itself.
fn misbehave(mut stream: UnixStream, trick: Trick, hangs_up: bool) {
    shake(&mut stream).unwrap();
    let asked = ask(&mut stream).unwrap();
    let _ = stream.write_all(&trick(asked));
    if !hangs_up {
        until_hung_up(&mut stream);
    }
}

fn open(socket: &Path) -> std::sync::Arc<dyn Disk> {
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    nbd::open(&Options::new(uri.parse().unwrap())).unwrap_or_else(|error| panic!("{error}"))
}

/// A read on which a server misbehaves is answered by the next one, and no byte beside it is touched.
fn survives(name: &str, trick: Trick, hangs_up: bool) {
    let dir = Dir::new();
    let socket = dir.path("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        misbehave(listener.accept().unwrap().0, trick, hangs_up);
        behave(listener.accept().unwrap().0);
    });
    let disk = open(&socket);
    let mut driver = Driver::new(&*disk, 2);
    // A part of memory whose rest stays visible.
    let whole = Segments::from(vec![0xa5; 4096]);
    let mut part = Segments::default();
    whole.part(512..2560, &mut part);
    let (result, got) = driver.run(request(1, Op::Read, 8192, part));
    result.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(bytes_of(&got) == [TRUTH; 2048], "{name}");
    let memory = bytes_of(&whole);
    let beside = memory[..512].iter().chain(&memory[2560..]);
    assert!(beside.clone().all(|byte| *byte == 0xa5), "{name}: wrote outside");
    driver.write(0, &[1; 512]).unwrap();
    drop(driver);
    drop(disk);
    server.join().unwrap();
}

#[test]
fn replies_that_break_the_protocol() {
    let tricks: [(&str, Trick); 21] = [
        ("garbage", |_| b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ("zeroes", |_| vec![0; 1000]),
        ("another cookie", |asked| {
            honest(Asked {
                cookie: asked.cookie + 1,
                ..asked
            })
        }),
        ("another generation", |asked| {
            honest(Asked {
                cookie: asked.cookie ^ 1 << 40,
                ..asked
            })
        }),
        ("far cookie", |asked| {
            honest(Asked {
                cookie: u64::MAX,
                ..asked
            })
        }),
        ("too much", |asked| data(asked, true, 0, 1, asked.len + 1)),
        ("far too much", |asked| data(asked, true, 0, 1, 1 << 20)),
        ("before", |asked| {
            data(asked, true, 512_u64.wrapping_neg(), 1, 512)
        }),
        ("behind", |asked| data(asked, true, 2048, 1, 512)),
        ("hole behind", |asked| hole(asked, true, 0, 4096)),
        ("huge hole", |asked| hole(asked, true, 0, u32::MAX)),
        ("hole at the end of all", |asked| {
            hole(asked, true, u64::MAX - asked.offset, 512)
        }),
        ("twice", |asked| {
            [data(asked, false, 0, 1, 2048), data(asked, true, 0, 2, 2048)].concat()
        }),
        ("overlap", |asked| {
            [data(asked, false, 0, 1, 1024), hole(asked, true, 1000, 1048)].concat()
        }),
        ("not all", |asked| data(asked, true, 0, 1, 2047)),
        ("nothing", |asked| chunk(1, 0, asked.cookie, &[])),
        ("a simple reply", |asked| {
            [simple(0, asked.cookie), vec![1; 2048]].concat()
        }),
        ("block status", |asked| chunk(1, 5, asked.cookie, &[&[0; 12]])),
        ("an error without end", |asked| {
            let mut bytes = chunk(1, 0x8001, asked.cookie, &[&[0, 0, 0, 5, 0, 0]]);
            bytes[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
            [bytes, vec![b'x'; 1 << 16]].concat()
        }),
        ("errors without end", |asked| {
            chunk(0, 0x8001, asked.cookie, &[&[0, 0, 0, 5, 0, 2], b"no"]).repeat(5000)
        }),
        ("going down", |asked| {
            chunk(1, 0x8001, asked.cookie, &[&[0, 0, 0, 108, 0, 0]])
        }),
    ];
    for (name, trick) in tricks {
        survives(name, trick, false);
    }
}

#[test]
fn a_server_that_breaks_off_anywhere() {
    let cuts: [(&str, Trick); 6] = [
        ("at once", |_| vec![]),
        ("in the header", |asked| honest(asked)[..11].to_vec()),
        ("before the offset", |asked| honest(asked)[..20].to_vec()),
        ("before the data", |asked| honest(asked)[..28].to_vec()),
        ("in the data", |asked| {
            data(asked, true, 0, 9, 2048)[..1000].to_vec()
        }),
        ("before the end", |asked| data(asked, false, 0, 9, 2048)),
    ];
    for (name, cut) in cuts {
        survives(name, cut, true);
    }
}

/// The first client is served; those after it meet `tricks` in place of a handshake, and at last a good server.
#[test]
fn handshakes_that_break_the_protocol_on_the_way_back() {
    let tricks: [&[u8]; 5] = [
        b"",
        b"NBDMAGIC",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"NBDMAGICIHAVEOPT\0\x03\0\0\0\0",
        b"NBDMAGICIHAVEOPT\0\x03\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\xff\xff\xff\xff",
    ];
    let dir = Dir::new();
    let socket = dir.path("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        misbehave(listener.accept().unwrap().0, |_| vec![], true);
        for trick in tricks {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(trick);
        }
        behave(listener.accept().unwrap().0);
    });
    let disk = open(&socket);
    let mut driver = Driver::new(&*disk, 1);
    assert_eq!(driver.read(0, 4096).unwrap(), [TRUTH; 4096]);
    drop((driver, disk));
    server.join().unwrap();
}

#[test]
fn a_server_without_a_word_is_given_up_in_time() {
    let dir = Dir::new();
    let socket = dir.path("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // A byte now and then does not count as an answer.
        for byte in b"NBDMAGICIHAVEOPT" {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_secs(1));
        }
        until_hung_up(&mut stream);
    });
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let start = Instant::now();
    let error = nbd::open(&Options::new(uri.parse().unwrap()))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), format!("{uri}: no answer in time"));
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    server.join().unwrap();
}

/// Replies in the order, the pieces and the portions that suit the server least.
#[test]
fn honest_replies_of_any_shape() {
    let dir = Dir::new();
    let socket = dir.path("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        shake(&mut stream).unwrap();
        let mut random = Random(11);
        for _ in 0..40 {
            let mut replies = Vec::new();
            for _ in 0..8 {
                let asked = ask(&mut stream).unwrap();
                replies.extend(pieces(asked, &mut random));
            }
            shuffle(&mut replies, &mut random);
            let bytes: Vec<u8> = replies.into_iter().flat_map(|(_, bytes)| bytes).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let most = [40, 20_000][random.below(2) as usize];
                let len = 1 + random.below(most) as usize;
                let (now, later) = rest.split_at(len.min(rest.len()));
                stream.write_all(now).unwrap();
                rest = later;
            }
        }
        until_hung_up(&mut stream);
    });
    let disk = open(&socket);
    let mut driver = Driver::new(&*disk, 8);
    let mut random = Random(12);
    for _ in 0..40 {
        let mut offsets = Vec::new();
        for id in 0..8 {
            let (offset, len) = (random.below(1000) * 512, 512 * (1 + random.below(64)) as usize);
            offsets.push(offset);
            let data = crate::support::scattered(&mut random, &vec![0xa5; len], 1, 3);
            driver.submit(request(id, Op::Read, offset, data));
        }
        for done in driver.wait(8) {
            done.result.unwrap();
            let offset = offsets[done.id as usize];
            for (at, byte) in bytes_of(&done.data).into_iter().enumerate() {
                assert_eq!(byte, content(offset + at as u64), "byte {at} of {}", done.id);
            }
        }
    }
    drop((driver, disk));
    server.join().unwrap();
}

/// What the disk of [`honest_replies_of_any_shape`] holds: some of its blocks are holes.
fn content(offset: u64) -> u8 {
    if offset / 512 % 3 == 1 {
        0
    } else {
        (offset % 251) as u8
    }
}

/// The reply in chunks, each with the command that it belongs to.
fn pieces(asked: Asked, random: &mut Random) -> Vec<(u64, Vec<u8>)> {
    let mut chunks = Vec::new();
    let end = asked.offset + u64::from(asked.len);
    let mut at = asked.offset;
    while at < end {
        let len = (1 + random.below(1400)).min(end - at);
        let hole_end = (at / 512 + 1) * 512;
        if at / 512 % 3 == 1 && random.below(2) == 0 {
            let len = len.min(hole_end - at);
            chunks.push(hole(asked, false, at - asked.offset, len as u32));
            at += len;
        } else {
            let bytes: Vec<u8> = (at..at + len).map(content).collect();
            chunks.push(chunk(0, 1, asked.cookie, &[&at.to_be_bytes(), &bytes]));
            at += len;
        }
    }
    // Not too far out of order, as servers with several threads do.
    for i in 1..chunks.len() {
        if random.below(4) == 0 {
            chunks.swap(i - 1, i);
        }
    }
    chunks.push(chunk(1, 0, asked.cookie, &[]));
    chunks.into_iter().map(|bytes| (asked.cookie, bytes)).collect()
}

/// Mixes the replies of several commands, each of them in its order.
fn shuffle(replies: &mut [(u64, Vec<u8>)], random: &mut Random) {
    for _ in 0..replies.len() * 8 {
        let i = 1 + random.below(replies.len() as u64 - 1) as usize;
        if replies[i - 1].0 != replies[i].0 {
            replies.swap(i - 1, i);
        }
    }
}
