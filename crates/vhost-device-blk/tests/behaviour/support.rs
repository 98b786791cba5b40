// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A daemon on a file of its own, a guest, and requests in any shape.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::blk::{SECTOR, blk, header, kind, status};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};
use vu_testkit::spawn::{Daemon, Launch, TempDir};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-blk");
/// Generous: it only bounds how long a failing test takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of the usual disk.
pub(crate) const SIZE: u64 = 16 << 20;
/// Sectors of the usual disk.
pub(crate) const SECTORS: u64 = SIZE / SECTOR as u64;

pub(crate) fn spawn(args: &[&str]) -> Daemon {
    Daemon::spawn(&Launch::ours(PROGRAM, args)).unwrap()
}

/// A raw image in a directory of its own.
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    _dir: TempDir,
}

impl Image {
    /// An image full of zeroes, without blocks.
    pub(crate) fn new(len: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(len).unwrap();
        Self { path, _dir: dir }
    }

    /// An image whose every sector says where it is.
    pub(crate) fn full(len: u64) -> Self {
        let image = Self::new(len);
        fs::write(&image.path, sectors(0, len as usize / SECTOR)).unwrap();
        image
    }

    pub(crate) fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    /// What the host sees.
    pub(crate) fn read(&self, sector: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count * SECTOR];
        self.file()
            .read_exact_at(&mut bytes, sector * SECTOR as u64)
            .unwrap();
        bytes
    }

    /// A daemon on it.
    pub(crate) fn spawn(&self, args: &[&str]) -> Daemon {
        let path = self.path.to_str().unwrap();
        spawn(&[&["--blk-file", path], args].concat())
    }
}

/// Contents that tell sectors apart.
pub(crate) fn sectors(sector: u64, count: usize) -> Vec<u8> {
    vu_testkit::devices::blk::pattern(sector, count)
}

pub(crate) fn options() -> Options {
    Options {
        deadline: DEADLINE,
        ..Options::default()
    }
}

pub(crate) fn guest(socket: &Path) -> Guest {
    guest_with(socket, 1, &options())
}

pub(crate) fn guest_with(socket: &Path, queues: u16, options: &Options) -> Guest {
    Guest::boot(connect(socket), &blk().with_queues(queues), options).unwrap()
}

pub(crate) fn connect(socket: &Path) -> FrontEnd {
    // A daemon that was killed leaves its socket, at which nobody listens until the next one is ready.
    let mut front = None;
    wait_until("a connection", || {
        front = FrontEnd::connect(socket, DEADLINE).ok();
        front.is_some()
    });
    front.unwrap()
}

/// The end of a request: the last writable byte, the bytes before it, and the used length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u8,
    pub(crate) data: Vec<u8>,
    pub(crate) used: u32,
}

pub(crate) fn request(kind: u32, sector: u64, payload: &[u8], writable: usize) -> Request {
    let mut readable = header(kind, sector);
    readable.extend(payload);
    Request { readable, writable }
}

/// Sends a request as the shape says and waits for its end.
pub(crate) fn ask_as(lane: &mut Lane, request: Request, framing: Framing, placement: Placement) -> Answer {
    let pending = lane.place(request, framing, placement);
    lane.queue.submit();
    let used = lane.queue.wait(lane.end()).unwrap();
    assert_eq!(used.id, u32::from(pending.head));
    answer(lane, &pending, used.len)
}

pub(crate) fn answer(lane: &Lane, pending: &Pending, used: u32) -> Answer {
    let mut data = lane.answer(pending);
    let status = data.pop().unwrap();
    Answer { status, data, used }
}

pub(crate) fn ask(lane: &mut Lane, kind: u32, sector: u64, payload: &[u8], writable: usize) -> Answer {
    let request = request(kind, sector, payload, writable);
    ask_as(lane, request, Framing::Whole, Placement::Direct)
}

/// The status of a write.
pub(crate) fn write(lane: &mut Lane, sector: u64, data: &[u8]) -> u8 {
    ask(lane, kind::OUT, sector, data, 1).status
}

/// The bytes of a read that must succeed.
pub(crate) fn read(lane: &mut Lane, sector: u64, count: usize) -> Vec<u8> {
    let answer = try_read(lane, sector, count);
    assert_eq!(answer.status, status::OK, "{count} sectors at {sector}");
    assert_eq!(answer.used as usize, count * SECTOR + 1);
    answer.data
}

pub(crate) fn try_read(lane: &mut Lane, sector: u64, count: usize) -> Answer {
    ask(lane, kind::IN, sector, &[], count * SECTOR + 1)
}

pub(crate) fn flush(lane: &mut Lane) -> u8 {
    ask(lane, kind::FLUSH, 0, &[], 1).status
}

/// The proof that a bad request did no harm beyond itself.
pub(crate) fn still_serves(lane: &mut Lane) {
    let last = SECTORS - 1;
    assert_eq!(write(lane, last, &sectors(last, 1)), status::OK);
    assert_eq!(read(lane, last, 1), sectors(last, 1));
}

/// A field of the configuration space, little-endian.
pub(crate) fn config(front: &FrontEnd, offset: u32, len: u32) -> u64 {
    let mut bytes = front.get_config(offset, len).unwrap();
    bytes.resize(8, 0);
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Offsets in the configuration space.
pub(crate) mod offset {
    pub(crate) const CAPACITY: u32 = 0;
    pub(crate) const SEG_MAX: u32 = 12;
    pub(crate) const BLK_SIZE: u32 = 20;
    pub(crate) const WRITEBACK: u32 = 32;
    pub(crate) const NUM_QUEUES: u32 = 34;
    pub(crate) const MAX_DISCARD_SECTORS: u32 = 36;
    pub(crate) const MAX_DISCARD_SEG: u32 = 40;
    pub(crate) const MAX_WRITE_ZEROES_SECTORS: u32 = 48;
    pub(crate) const MAX_WRITE_ZEROES_SEG: u32 = 52;
}

/// Waits until `done` says so.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::yield_now();
    }
}

pub(crate) fn wait_for_log(daemon: &Daemon, text: &str) {
    wait_until(&format!("a log line with `{text}`"), || {
        daemon.log().tail().iter().any(|line| line.contains(text))
    });
}

/// The flags with which a daemon has a file open.
pub(crate) fn open_flags(daemon: &Daemon, path: &Path) -> u32 {
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let mut fds = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let fd = fds
        .find(|fd| fs::read_link(fd).is_ok_and(|target| target == path))
        .unwrap();
    let info = fs::read_to_string(proc.join("fdinfo").join(fd.file_name().unwrap())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    u32::from_str_radix(flags.trim(), 8).unwrap()
}
