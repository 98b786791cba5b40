// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is special to this device, seen by a driver over the real socket of the real daemon.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use vhost_device_rng::MAX_ANSWER;
use vhost_device_rng::backend::{Backend, Seeded};
use vu_testkit::chains::{Descriptor, Framing, Placement, Request};
use vu_testkit::devices::rng;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options};
use vu_testkit::process::cpu_time;
use vu_testkit::spawn::{Daemon, Launch, Process, TempDir};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-rng");
/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);

fn daemon(args: &[&str]) -> Daemon {
    Daemon::spawn(&Launch::ours(PROGRAM, args)).unwrap()
}

fn guest(socket: &Path) -> Guest {
    let front = FrontEnd::connect(socket, DEADLINE).unwrap();
    let options = Options {
        deadline: DEADLINE,
        ..Options::default()
    };
    Guest::boot(front, &rng(), &options).unwrap()
}

/// Submits a request for `len` bytes and returns where they will be.
fn submit(lane: &mut Lane, len: u32) -> u64 {
    let addr = lane.allocate(len.into(), 1);
    lane.queue.add(&[Descriptor::writable(addr, len)], None);
    lane.queue.submit();
    addr
}

/// Waits for the answer to the request whose bytes will be at `addr`.
fn answer(lane: &mut Lane, addr: u64) -> Vec<u8> {
    let used = lane.queue.wait(lane.end()).unwrap();
    let mut bytes = vec![0; used.len as usize];
    lane.memory.read(addr, &mut bytes);
    bytes
}

fn ask(lane: &mut Lane, len: u32) -> Vec<u8> {
    let addr = submit(lane, len);
    answer(lane, addr)
}

fn seeded(seed: u64, position: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Seeded(seed).read(position, &mut bytes).unwrap();
    bytes
}

fn wait_for_log(daemon: &Daemon, text: &str) {
    let end = Instant::now() + DEADLINE;
    while !daemon.log().tail().iter().any(|line| line.contains(text)) {
        assert!(Instant::now() < end, "no `{text}` in {:#?}", daemon.log().tail());
        std::thread::yield_now();
    }
}

fn file_source(dir: &TempDir, bytes: &[u8]) -> String {
    let path = dir.path().join("source");
    fs::write(&path, bytes).unwrap();
    format!("file:{}", path.display())
}

fn fifo(dir: &TempDir) -> (PathBuf, String) {
    let path = dir.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let source = format!("file:{}", path.display());
    (path, source)
}

/// Waits until the daemon has the kernel watch `file`: a request waits for it, and nothing polls.
fn wait_until_watched(daemon: &Daemon, file: &Path) {
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let entries = |dir: &str| {
        fs::read_dir(proc.join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let is_file = |fd: &PathBuf| fs::read_link(fd).is_ok_and(|target| target == file);
    let fd = entries("fd").find(is_file).unwrap();
    let watched = |info: PathBuf| {
        let info = fs::read_to_string(info).unwrap_or_default();
        let fds = info
            .lines()
            .filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next());
        fds.into_iter().any(|number| fd.ends_with(number))
    };
    let end = Instant::now() + DEADLINE;
    while !entries("fdinfo").any(watched) {
        assert!(Instant::now() < end, "{} is not watched", file.display());
        std::thread::yield_now();
    }
}

/// A writer that comes, writes and leaves.
fn write_to(fifo: &Path, bytes: &[u8]) {
    fs::File::options()
        .write(true)
        .open(fifo)
        .unwrap()
        .write_all(bytes)
        .unwrap();
}

#[test]
fn every_connection_gets_the_seeded_bytes_from_their_start() {
    let daemon = daemon(&["--source", "seeded:7"]);
    for _ in 0..2 {
        let mut guest = guest(&daemon.socket());
        assert_eq!(ask(guest.lane(), 100), seeded(7, 0, 100));
        assert_eq!(ask(guest.lane(), 1000), seeded(7, 100, 1000));
    }
}

#[test]
fn the_bytes_are_in_the_order_of_the_descriptors() {
    let daemon = daemon(&["--source", "seeded:7"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    let addrs = [1, 7, 500].map(|len| (lane.allocate(len, 1), len as u32));
    let descriptors = addrs.map(|(addr, len)| Descriptor::writable(addr, len));
    lane.queue.add(&descriptors, None);
    lane.queue.submit();
    assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 508);
    let mut position = 0;
    for (addr, len) in addrs {
        let mut bytes = vec![0; len as usize];
        lane.memory.read(addr, &mut bytes);
        assert_eq!(bytes, seeded(7, position, bytes.len()));
        position += u64::from(len);
    }
}

#[test]
fn device_readable_bytes_in_a_request_are_ignored() {
    let daemon = daemon(&[]);
    let mut guest = guest(&daemon.socket());
    for framing in [Framing::Whole, Framing::Pieces(1), Framing::SplitAt(11)] {
        for placement in [Placement::Direct, Placement::Indirect] {
            let request = Request {
                readable: vec![1; 5],
                writable: 20,
            };
            guest
                .lane()
                .round_trip_of(&rng(), request, framing, placement)
                .unwrap();
        }
    }
}

#[test]
fn a_request_without_writable_bytes_gets_none_and_the_next_is_served() {
    let daemon = daemon(&["--source", "seeded:7"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    let addr = lane.allocate(16, 1);
    lane.queue.add(&[Descriptor::readable(addr, 16)], None);
    lane.queue.submit();
    assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 0);
    assert_eq!(ask(lane, 16), seeded(7, 0, 16));
}

#[test]
fn a_request_gets_64_kib_and_no_more() {
    let daemon = daemon(&["--source", "seeded:7"]);
    let mut guest = guest(&daemon.socket());
    assert_eq!(ask(guest.lane(), 65536), seeded(7, 0, MAX_ANSWER));
    assert_eq!(ask(guest.lane(), 1 << 20), seeded(7, 65536, MAX_ANSWER));
}

#[test]
fn the_kernel_and_a_character_device_never_repeat_themselves() {
    for source in ["getrandom", "file:/dev/urandom"] {
        let daemon = daemon(&["--source", source]);
        let mut guest = guest(&daemon.socket());
        let answers: Vec<_> = (0..3).map(|_| ask(guest.lane(), 4096)).collect();
        assert!(answers.iter().all(|answer| answer.len() == 4096));
        assert!(answers[0] != answers[1] && answers[1] != answers[2] && answers[0] != answers[2]);
    }
}

#[test]
fn the_limit_holds_and_waiting_costs_no_cpu_time() {
    let daemon = daemon(&["--max-bytes", "100", "--period", "300"]);
    let mut guest = guest(&daemon.socket());
    let (start, cpu) = (Instant::now(), cpu_time(daemon.pid()).unwrap());
    for _ in 0..5 {
        assert_eq!(ask(guest.lane(), 100).len(), 100);
    }
    // The first bucketful is there at once.
    assert!(
        start.elapsed() >= Duration::from_millis(4 * 300),
        "{:?}",
        start.elapsed()
    );
    let cpu = cpu_time(daemon.pid()).unwrap() - cpu;
    assert!(
        cpu < Duration::from_millis(100),
        "{cpu:?} in {:?}",
        start.elapsed()
    );
}

#[test]
fn a_request_for_more_than_the_limit_gets_a_bucketful() {
    let daemon = daemon(&["--max-bytes", "100", "--period", "50"]);
    let mut guest = guest(&daemon.socket());
    for _ in 0..3 {
        assert_eq!(ask(guest.lane(), 5000).len(), 100);
    }
}

#[test]
fn a_throttled_queue_stops_at_once_and_loses_no_request() {
    let daemon = daemon(&["--max-bytes", "64", "--period", "600000", "--source", "seeded:7"]);
    let mut guest = guest(&daemon.socket());
    assert_eq!(ask(guest.lane(), 64).len(), 64);
    for _ in 0..3 {
        submit(guest.lane(), 64);
    }
    for _ in 0..2 {
        assert_eq!(guest.front.get_vring_base(0).unwrap(), 1);
        guest.start_ring(0, 1).unwrap();
        guest.enable(0, true).unwrap();
    }
    assert_eq!(guest.lane().queue.outstanding(), 3);
}

#[test]
fn neither_a_stop_nor_a_reconnect_fills_the_bucket() {
    let daemon = daemon(&["--max-bytes", "64", "--period", "1000"]);
    let start = Instant::now();
    let mut first = guest(&daemon.socket());
    assert_eq!(ask(first.lane(), 64).len(), 64);
    let addr = submit(first.lane(), 64);
    let base = first.front.get_vring_base(0).unwrap();
    first.start_ring(0, base as u16).unwrap();
    first.enable(0, true).unwrap();
    assert_eq!(answer(first.lane(), addr).len(), 64);
    assert!(
        start.elapsed() >= Duration::from_millis(1000),
        "{:?}",
        start.elapsed()
    );
    drop(first);
    let mut second = guest(&daemon.socket());
    assert_eq!(ask(second.lane(), 64).len(), 64);
    assert!(
        start.elapsed() >= Duration::from_millis(2000),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn each_socket_has_its_own_limit() {
    let limit = [
        "--socket-path",
        "{stem}1",
        "--max-bytes",
        "64",
        "--period",
        "600000",
    ];
    let daemon = daemon(&limit);
    let mut first = guest(&daemon.socket());
    let mut second = guest(&daemon.dir().join("s1"));
    assert_eq!(ask(first.lane(), 64).len(), 64);
    submit(first.lane(), 64);
    assert_eq!(ask(second.lane(), 64).len(), 64);
    assert_eq!(first.lane().queue.used_index(), 1);
}

#[test]
fn a_request_waits_for_a_fifo_whose_writer_comes_and_goes() {
    let dir = TempDir::new().unwrap();
    let (path, source) = fifo(&dir);
    let daemon = daemon(&["--source", &source]);
    let mut guest = guest(&daemon.socket());
    for (number, bytes) in [&b"first"[..], b"second"].into_iter().enumerate() {
        let addr = submit(guest.lane(), 64);
        wait_until_watched(&daemon, &path);
        assert_eq!(usize::from(guest.lane().queue.used_index()), number);
        write_to(&path, bytes);
        assert_eq!(answer(guest.lane(), addr), bytes);
    }
}

#[test]
fn a_queue_that_waits_for_a_fifo_stops_at_once_and_goes_on_later() {
    let dir = TempDir::new().unwrap();
    let (path, source) = fifo(&dir);
    let daemon = daemon(&["--source", &source]);
    let mut guest = guest(&daemon.socket());
    let addr = submit(guest.lane(), 64);
    wait_until_watched(&daemon, &path);
    assert_eq!(guest.front.get_vring_base(0).unwrap(), 0);
    write_to(&path, b"late");
    guest.start_ring(0, 0).unwrap();
    guest.enable(0, true).unwrap();
    assert_eq!(answer(guest.lane(), addr), b"late");
}

#[test]
fn a_file_is_given_once_to_its_end_which_is_logged_once() {
    let dir = TempDir::new().unwrap();
    let source = file_source(&dir, &seeded(1, 0, 100));
    let daemon = daemon(&["--source", &source, "--socket-path", "{stem}1"]);
    let mut first = guest(&daemon.socket());
    let mut second = guest(&daemon.dir().join("s1"));
    assert_eq!(ask(first.lane(), 60), seeded(1, 0, 60));
    assert_eq!(ask(second.lane(), 60), seeded(1, 60, 40));
    for _ in 0..3 {
        assert!(ask(first.lane(), 60).is_empty());
        assert!(ask(second.lane(), 60).is_empty());
    }
    wait_for_log(&daemon, "source is at its end, requests get no bytes");
    let lines = daemon.log().tail();
    let ends: Vec<_> = lines.iter().filter(|line| line.contains("at its end")).collect();
    assert_eq!(ends.len(), 1, "{lines:#?}");
    assert!(
        ends[0].contains(source.strip_prefix("file:").unwrap()),
        "{ends:?}"
    );
}

#[test]
fn after_a_refused_read_the_request_waits_and_the_log_tells_why() {
    // Nothing is mapped at address 0, so the memory of a process cannot be read there.
    let daemon = daemon(&["--source", "file:/proc/self/mem"]);
    let mut guest = guest(&daemon.socket());
    submit(guest.lane(), 64);
    wait_for_log(
        &daemon,
        "/proc/self/mem: Input/output error (os error 5); trying again in 1s",
    );
    assert_eq!(guest.front.get_vring_base(0).unwrap(), 0);
    assert_eq!(guest.lane().queue.used_index(), 0);
}

#[test]
fn a_source_that_cannot_be_opened_ends_the_daemon_before_it_listens() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s0");
    for (source, message) in [
        ("file:/nonexistent", "/nonexistent: No such file or directory"),
        ("file:/", "/: not a regular file, character device or FIFO"),
    ] {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--socket-path")
            .arg(&socket)
            .args(["--source", source]);
        let mut process = Process::start(&mut command).unwrap();
        assert_eq!(process.wait(DEADLINE).unwrap().code(), Some(1));
        let log = process.log.tail().join("\n");
        assert!(log.contains(message), "{log}");
        assert!(!socket.exists());
    }
}
