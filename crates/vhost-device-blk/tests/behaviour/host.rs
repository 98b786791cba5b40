// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's side of a disk: its file grows, shrinks, fills up or is wanted by two; what is durable; what is limited.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    DEADLINE, Image, PROGRAM, SECTORS, SIZE, config, flush, guest, offset, read, sectors, spawn, try_read,
    wait_for_log, write,
};
use serde_json::{Value, json};
use vu_testkit::conformance::report_skip;
use vu_testkit::control;
use vu_testkit::devices::blk::{SECTOR, status};
use vu_testkit::frontend::wire::BACKEND_CONFIG_CHANGE_MSG;
use vu_testkit::page_cache::unsaved;
use vu_testkit::spawn::{Process, TempDir};

const TMPFS_MAGIC: &str = "tmpfs";

#[test]
fn the_image_holds_what_the_guest_wrote_and_nothing_else() {
    let image = Image::new(SIZE);
    let daemon = image.spawn(&[]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    for (sector, count) in [(0, 1), (9, 40), (SECTORS - 3, 3)] {
        assert_eq!(write(lane, sector, &sectors(sector, count)), status::OK);
    }
    assert_eq!(flush(lane), status::OK);
    let mut expected = vec![0; SIZE as usize];
    for (sector, count) in [(0, 1), (9, 40), (SECTORS - 3, 3)] {
        let start = sector as usize * SECTOR;
        expected[start..start + count * SECTOR].copy_from_slice(&sectors(sector, count));
    }
    assert!(fs::read(&image.path).unwrap() == expected);
}

#[test]
fn a_raw_image_is_never_taken_for_another_format() {
    let image = Image::new(SIZE);
    let header = b"QFI\xfb\0\0\0\x03";
    let mut sector = header.to_vec();
    sector.resize(SECTOR, 0);
    for _ in 0..2 {
        let daemon = image.spawn(&[]);
        let mut guest = guest(&daemon.socket());
        assert_eq!(config(&guest.front, offset::CAPACITY, 8), SECTORS);
        assert_eq!(write(guest.lane(), 0, &sector), status::OK);
        assert_eq!(read(guest.lane(), 0, 1), sector);
    }
}

#[test]
fn a_disk_that_grew_is_announced_at_sighup_and_its_new_end_is_served() {
    let image = Image::new(SIZE);
    let mut daemon = image.spawn(&[]);
    let mut guest = guest(&daemon.socket());
    let channel = guest.front.open_backend_channel(DEADLINE).unwrap();
    assert_eq!(config(&guest.front, offset::CAPACITY, 8), SECTORS);
    assert_eq!(try_read(guest.lane(), SECTORS, 1).status, status::IOERR);
    image.file().set_len(2 * SIZE).unwrap();
    daemon.process().hang_up();
    let message = channel.receive("CONFIG_CHANGE_MSG").unwrap();
    assert_eq!(message.request, BACKEND_CONFIG_CHANGE_MSG);
    assert_eq!(config(&guest.front, offset::CAPACITY, 8), 2 * SECTORS);
    let last = 2 * SECTORS - 1;
    assert_eq!(write(guest.lane(), last, &sectors(last, 1)), status::OK);
    assert_eq!(image.read(last, 1), sectors(last, 1));
}

#[test]
fn a_disk_is_made_larger_at_the_control_socket() {
    let image = Image::new(SIZE);
    let daemon = image.spawn(&control::OPTION);
    let mut guest = guest(&daemon.socket());
    let channel = guest.front.open_backend_channel(DEADLINE).unwrap();
    assert_eq!(config(&guest.front, offset::CAPACITY, 8), SECTORS);
    let resize = |size: Value| json!({"command": "resize", "size": size});
    assert_eq!(
        control::result(&daemon, &resize(json!(2 * SIZE))).unwrap(),
        Value::Null
    );
    channel.receive("CONFIG_CHANGE_MSG").unwrap();
    assert_eq!(config(&guest.front, offset::CAPACITY, 8), 2 * SECTORS);
    let last = 2 * SECTORS - 1;
    assert_eq!(write(guest.lane(), last, &sectors(last, 1)), status::OK);
    for (size, error) in [
        (
            json!(SIZE),
            format!("a disk of {} bytes can only be made larger", 2 * SIZE),
        ),
        (
            json!(2 * SIZE + 1),
            format!("{} bytes are not whole blocks of 512", 2 * SIZE + 1),
        ),
        (
            json!("much"),
            "much: a number of bytes is needed, as 4096, 512K, 64M or 1G".into(),
        ),
    ] {
        assert_eq!(control::error(&daemon, &resize(size)).unwrap(), error);
    }
    assert_eq!(image.file().metadata().unwrap().len(), 2 * SIZE);
    drop(daemon);
    let read_only = image.spawn(&[&control::OPTION[..], &["--read-only"]].concat());
    let error = control::error(&read_only, &resize(json!("1G"))).unwrap();
    assert_eq!(error, "the disk is read-only");
}

#[test]
fn a_disk_that_shrank_is_announced_too() {
    let image = Image::full(SIZE);
    let mut daemon = image.spawn(&[]);
    let mut guest = guest(&daemon.socket());
    let channel = guest.front.open_backend_channel(DEADLINE).unwrap();
    assert_eq!(config(&guest.front, offset::CAPACITY, 8), SECTORS);
    image.file().set_len(SIZE / 2).unwrap();
    daemon.process().hang_up();
    channel.receive("CONFIG_CHANGE_MSG").unwrap();
    assert_eq!(config(&guest.front, offset::CAPACITY, 8), SECTORS / 2);
    let lane = guest.lane();
    assert_eq!(write(lane, SECTORS / 2, &[1; SECTOR]), status::IOERR);
    assert_eq!(read(lane, SECTORS / 2 - 1, 1), sectors(SECTORS / 2 - 1, 1));
    assert_eq!(
        image.file().metadata().unwrap().len(),
        SIZE / 2,
        "a refused write had an effect"
    );
}

#[test]
fn an_image_truncated_underneath_is_an_error_of_the_request() {
    for engine in ["inline", "io-uring", "threads"] {
        let image = Image::full(SIZE);
        let daemon = image.spawn(&["--aio", engine]);
        let mut guest = guest(&daemon.socket());
        let lane = guest.lane();
        assert_eq!(read(lane, SECTORS - 8, 8), sectors(SECTORS - 8, 8));
        image.file().set_len(SIZE / 2).unwrap();
        // Wholly gone, and half gone.
        for (sector, count) in [(SECTORS - 8, 8), (SECTORS / 2 - 4, 8)] {
            assert_eq!(
                try_read(lane, sector, count).status,
                status::IOERR,
                "{engine}: {count} at {sector}"
            );
        }
        wait_for_log(&daemon, image.path.to_str().unwrap());
        assert_eq!(
            read(lane, SECTORS / 2 - 8, 8),
            sectors(SECTORS / 2 - 8, 8),
            "{engine}"
        );
        assert_eq!(write(lane, 3, &sectors(3, 1)), status::OK, "{engine}");
    }
}

/// A small file system, unmounted when dropped.
struct SmallMount(TempDir);

impl SmallMount {
    fn new(size: &str) -> Result<Self, String> {
        let dir = TempDir::new().unwrap();
        let options = format!("size={size}");
        let output = Command::new("mount")
            .args(["-t", TMPFS_MAGIC, "-o", &options, "none"])
            .arg(dir.path())
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(dir)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for SmallMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_file_system_without_room_is_an_error_of_the_request() {
    let test = "host::a_file_system_without_room_is_an_error_of_the_request";
    let mount = match SmallMount::new("1m") {
        Ok(mount) => mount,
        Err(error) => return report_skip(test, &format!("cannot mount a tmpfs: {error}")),
    };
    let path = mount.0.path().join("disk");
    fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    for engine in ["inline", "io-uring", "threads"] {
        let daemon = spawn(&["--blk-file", path.to_str().unwrap(), "--aio", engine]);
        let mut guest = guest(&daemon.socket());
        let lane = guest.lane();
        assert_eq!(write(lane, 0, &sectors(0, 8)), status::OK, "{engine}");
        let failed = (0..16).filter(|step| write(lane, 64 + step * 256, &sectors(0, 256)) == status::IOERR);
        let failed = failed.count();
        assert!(
            (8..16).contains(&failed),
            "{engine}: {failed} of 16 writes failed"
        );
        wait_for_log(&daemon, path.to_str().unwrap());
        assert_eq!(read(lane, 0, 8), sectors(0, 8), "{engine}");
        assert_eq!(write(lane, 4, &sectors(4, 1)), status::OK, "{engine}");
    }
}

#[test]
fn an_image_in_use_is_not_opened_twice_for_writing() {
    let image = Image::new(SIZE);
    let daemon = image.spawn(&[]);
    let dir = TempDir::new().unwrap();
    let second = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let socket = dir.path().join("s0");
        command
            .arg("--socket-path")
            .arg(socket)
            .arg("--blk-file")
            .arg(&image.path)
            .args(more);
        Process::start(&mut command).unwrap()
    };
    for more in [&[][..], &["--read-only"]] {
        let mut process = second(more);
        assert_eq!(process.wait(DEADLINE).unwrap().code(), Some(1));
        let log = process.log.tail().join("\n");
        assert!(
            log.contains(image.path.to_str().unwrap()) && log.contains("lock"),
            "{log}"
        );
    }
    let _unlocked = image.spawn(&["--lock", "off"]);
    drop(daemon);
    let _first = image.spawn(&["--read-only"]);
    let _second = image.spawn(&["--read-only"]);
}

#[test]
fn an_image_that_cannot_be_opened_ends_the_daemon_before_it_listens() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s0");
    for path in ["/nonexistent/disk", "/"] {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--socket-path")
            .arg(&socket)
            .args(["--blk-file", path]);
        let mut process = Process::start(&mut command).unwrap();
        assert_eq!(process.wait(DEADLINE).unwrap().code(), Some(1));
        let log = process.log.tail().join("\n");
        assert!(log.contains(path), "{log}");
        assert!(!socket.exists());
    }
}

/// Pages that a power failure would lose, or why nobody can tell.
fn unsaved_in(path: &Path) -> Result<u64, String> {
    let kind = Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(path)
        .output()
        .unwrap();
    let kind = String::from_utf8_lossy(&kind.stdout).trim().to_owned();
    if kind == TMPFS_MAGIC || kind == "ramfs" {
        return Err(format!("{} is on {kind}, which saves nothing", path.display()));
    }
    match unsaved(&fs::File::open(path).unwrap()) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Err("cachestat needs Linux 6.5".to_owned()),
        result => Ok(result.unwrap()),
    }
}

/// In write-back mode a write may be lost until a flush; in write-through mode it may not.
#[test]
fn writeback_is_saved_by_a_flush_and_writethrough_at_once() {
    let test = "host::writeback_is_saved_by_a_flush_and_writethrough_at_once";
    for engine in ["inline", "io-uring", "threads"] {
        let image = Image::full(SIZE);
        image.file().sync_all().unwrap();
        match unsaved_in(&image.path) {
            Ok(pages) => assert_eq!(pages, 0),
            Err(reason) => return report_skip(test, &reason),
        }
        let pages = || unsaved_in(&image.path).unwrap();
        let daemon = image.spawn(&["--aio", engine]);
        let mut guest = guest(&daemon.socket());
        assert_eq!(config(&guest.front, offset::WRITEBACK, 1), 1);
        // The kernel may have saved it by itself in the meantime, but not each time.
        let dirty = (0..20).filter(|round| {
            assert_eq!(write(guest.lane(), round * 64, &sectors(1, 64)), status::OK);
            let dirty = pages() > 0;
            assert_eq!(flush(guest.lane()), status::OK);
            assert_eq!(pages(), 0, "{engine}: unsaved after a flush");
            dirty
        });
        assert!(dirty.count() > 0, "{engine}: the write cache was never used");
        guest.front.set_config(offset::WRITEBACK, &[0]).unwrap();
        assert_eq!(config(&guest.front, offset::WRITEBACK, 1), 0);
        for round in 0..20 {
            assert_eq!(write(guest.lane(), round * 64, &sectors(2, 64)), status::OK);
            assert_eq!(pages(), 0, "{engine}: unsaved in write-through mode");
        }
        guest.front.set_config(offset::WRITEBACK, &[1]).unwrap();
        let dirty = (0..20).filter(|round| {
            assert_eq!(write(guest.lane(), round * 64, &sectors(3, 64)), status::OK);
            pages() > 0
        });
        assert!(dirty.count() > 0, "{engine}: back in write-back mode");
    }
}

#[test]
fn requests_per_second_are_limited() {
    let daemon = spawn(&["--memory", "16M", "--rate-iops", "100"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    // Whatever burst there is, it is used up by then.
    for sector in 0..200 {
        assert_eq!(write(lane, sector, &sectors(sector, 1)), status::OK);
    }
    let began = Instant::now();
    for sector in 0..200 {
        read(lane, sector, 1);
    }
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1600),
        "200 requests at 100 per second in {took:?}"
    );
    assert!(
        took < Duration::from_secs(20),
        "200 requests at 100 per second in {took:?}"
    );
}

#[test]
fn bytes_per_second_are_limited() {
    let daemon = spawn(&["--memory", "16M", "--rate-bps", "1M"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    for number in 0..32 {
        read(lane, number * 128, 128);
    }
    let began = Instant::now();
    for number in 0..32 {
        read(lane, number * 128, 128);
    }
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1600),
        "2 MiB at 1 MiB per second in {took:?}"
    );
    assert!(
        took < Duration::from_secs(20),
        "2 MiB at 1 MiB per second in {took:?}"
    );
}

#[test]
fn two_disks_of_one_process_do_not_touch_each_other() {
    let (first, second) = (Image::new(SIZE), Image::new(SIZE / 2));
    let second_path = second.path.to_str().unwrap();
    let daemon = first.spawn(&["--socket-path", "{stem}1", "--blk-file", second_path]);
    let other = daemon.dir().join("s1");
    let mut one = guest(&daemon.socket());
    let mut two = guest(&other);
    assert_eq!(config(&one.front, offset::CAPACITY, 8), SECTORS);
    assert_eq!(config(&two.front, offset::CAPACITY, 8), SECTORS / 2);
    assert_eq!(write(one.lane(), 5, &sectors(5, 2)), status::OK);
    assert_eq!(write(two.lane(), 5, &sectors(500, 2)), status::OK);
    assert_eq!(first.read(5, 2), sectors(5, 2));
    assert_eq!(second.read(5, 2), sectors(500, 2));
    // The ring of one breaks, then its front end goes: the other does not notice.
    let queue = &one.lane().queue;
    queue.set_available_index(queue.available_index().wrapping_add(0x4000));
    queue.force_kick();
    assert!(queue.err.wait_until(Instant::now() + DEADLINE));
    assert_eq!(read(two.lane(), 5, 2), sectors(500, 2));
    drop(one);
    assert_eq!(read(two.lane(), 5, 2), sectors(500, 2));
    assert_eq!(read(guest(&daemon.socket()).lane(), 5, 2), sectors(5, 2));
}
