// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files as disks, with every engine, on a file system with blocks and on one in memory; and disks in memory.

mod support;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use support::{Driver, bytes_of, exercise, on_range, request, skip};
use vu_common::Segments;
use vu_storage::file::{Aio, OpenError, Options, open};
use vu_storage::{Disk, Op, memory};

const MIB: u64 = 1 << 20;
const ENGINES: [Aio; 3] = [Aio::IoUring, Aio::Inline, Aio::Threads];

/// A file that is removed at the end of its test.
struct Scratch(PathBuf);

impl Scratch {
    /// A sparse file of `bytes` in `dir`.
    fn new(dir: &str, bytes: u64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(dir).join(format!("vu-file-{}-{number}", std::process::id()));
        File::create(&path).unwrap().set_len(bytes).unwrap();
        Self(path)
    }

    fn options(&self, aio: Aio) -> Options {
        Options {
            path: self.0.clone(),
            aio,
            ..Options::default()
        }
    }

    fn open(&self, aio: Aio) -> Arc<dyn Disk> {
        open(&self.options(aio)).unwrap()
    }

    fn allocated(&self) -> u64 {
        self.0.metadata().unwrap().blocks() * 512
    }

    /// The length of the file from now on.
    fn resize(&self, bytes: u64) {
        File::options()
            .write(true)
            .open(&self.0)
            .unwrap()
            .set_len(bytes)
            .unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// Directories on a file system with blocks, and in memory.
fn dirs() -> [&'static str; 2] {
    [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"]
}

/// Each directory with each engine.
fn everywhere() -> impl Iterator<Item = (&'static str, Aio)> {
    dirs().into_iter().flat_map(|dir| ENGINES.map(|aio| (dir, aio)))
}

#[test]
fn memory_keeps_what_was_written() {
    exercise(&*memory::open(3 * MIB, 512).unwrap(), 1);
    exercise(&*memory::open(3 * MIB, 4096).unwrap(), 2);
}

#[test]
fn every_engine_keeps_what_was_written() {
    for (dir, aio) in everywhere() {
        let file = Scratch::new(dir, 3 * MIB);
        exercise(&*file.open(aio), 3);
    }
}

#[test]
fn every_engine_bypasses_the_page_cache() {
    for (dir, aio) in everywhere() {
        let file = Scratch::new(dir, 3 * MIB);
        let direct = Options {
            direct: true,
            ..file.options(aio)
        };
        match open(&direct) {
            Ok(disk) => exercise(&*disk, 4),
            Err(error @ OpenError::NoDirect(_)) => {
                skip("every_engine_bypasses_the_page_cache", &error.to_string());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn more_pieces_than_a_call_takes_are_moved_all_the_same() {
    for (dir, aio) in everywhere() {
        let file = Scratch::new(dir, 4 * MIB);
        let mut driver = Driver::new(&*file.open(aio), 1);
        let ranges: Vec<_> = (0..2500).map(|i| i * 1000..i * 1000 + 512).collect();
        let bytes = support::Random(5).bytes(2500 * 512);
        let data = Segments::of_ranges(vec![0; 2500 * 1000], &ranges);
        data.copy_from(0, &bytes);
        driver
            .run(request(1, Op::Write { durable: true }, 512, data))
            .0
            .unwrap();
        let data = Segments::of_ranges(vec![0; 2500 * 1000], &ranges);
        let (result, data) = driver.run(request(2, Op::Read, 512, data));
        result.unwrap();
        assert!(bytes_of(&data) == bytes && fs::read(&file.0).unwrap()[512..][..bytes.len()] == bytes);
    }
}

#[test]
fn a_file_cut_off_underneath_gives_errors_and_grows_back() {
    for (dir, aio) in everywhere() {
        for direct in [false, true] {
            let file = Scratch::new(dir, 4 * MIB);
            let Ok(disk) = open(&Options {
                direct,
                ..file.options(aio)
            }) else {
                continue;
            };
            let mut driver = Driver::new(&*disk, 4);
            driver.write(0, &[7; 8192]).unwrap();
            // In the middle of a block, where O_DIRECT stops too.
            file.resize(4096 + 100);
            for (offset, len) in [(MIB, 4096), (4096, 4096), (0, 8192)] {
                let error = driver.read(offset, len).unwrap_err();
                assert_eq!(
                    error.kind(),
                    ErrorKind::UnexpectedEof,
                    "{aio:?} {direct} {offset}: {error}"
                );
            }
            assert_eq!(driver.read(0, 4096).unwrap(), [7; 4096]);
            assert_eq!(disk.capacity(), 4 * MIB);
            driver.write(3 * MIB, &[8; 4096]).unwrap();
            assert_eq!(driver.read(3 * MIB, 4096).unwrap(), [8; 4096]);
            assert_eq!(driver.read(2 * MIB, 4096).unwrap(), [0; 4096]);
            assert!(file.allocated() < MIB);
            assert_eq!(disk.refresh().unwrap(), 3 * MIB + 4096);
            assert_eq!(disk.capacity(), 3 * MIB + 4096);
        }
    }
}

#[test]
fn a_file_grows_in_whole_blocks() {
    let file = Scratch::new(dirs()[0], MIB + 4095);
    let disk = open(&Options {
        block_size: Some(4096),
        ..file.options(Aio::Auto)
    })
    .unwrap();
    assert_eq!(disk.capacity(), MIB);
    file.resize(2 * MIB + 1);
    assert_eq!((disk.capacity(), disk.refresh().unwrap()), (MIB, 2 * MIB));
    assert_eq!(disk.capacity(), 2 * MIB);
}

#[test]
fn discarded_blocks_go_back_to_the_host_and_zeroes_only_if_they_may() {
    for (dir, aio) in everywhere() {
        let file = Scratch::new(dir, 4 * MIB);
        let disk = file.open(aio);
        if disk.limits().discard.is_none() {
            skip("discarded_blocks_go_back_to_the_host", "no holes here");
            continue;
        }
        let mut driver = Driver::new(&*disk, 4);
        driver.write(0, &[9; 2 << 20]).unwrap();
        driver.range(Op::Flush, 0, 0).unwrap();
        let full = file.allocated();
        assert!(full >= 2 * MIB);
        let zeroes = |unmap| Op::WriteZeroes { unmap, durable: true };
        driver.range(zeroes(false), 0, MIB).unwrap();
        assert!(
            file.allocated() >= 2 * MIB,
            "{dir} {aio:?}: zeroes lost their place"
        );
        assert_eq!(driver.read(0, 1 << 20).unwrap(), vec![0; 1 << 20]);
        driver.range(zeroes(true), 0, MIB / 2).unwrap();
        assert!(file.allocated() <= full - MIB / 2);
        driver.range(Op::Discard, MIB / 2, 3 * MIB / 2).unwrap();
        assert!(file.allocated() <= full - 2 * MIB);
        assert_eq!(file.0.metadata().unwrap().len(), 4 * MIB);
        assert_eq!(
            driver.range(Op::SecureErase, 0, MIB).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
}

#[test]
fn without_discard_nothing_is_given_back() {
    let file = Scratch::new(dirs()[1], MIB);
    let disk = open(&Options {
        discard: false,
        ..file.options(Aio::Auto)
    })
    .unwrap();
    assert_eq!(disk.limits().discard, None);
    let mut driver = Driver::new(&*disk, 1);
    driver.write(0, &[1; 1 << 20]).unwrap();
    let unmap = Op::WriteZeroes {
        unmap: true,
        durable: false,
    };
    driver.range(unmap, 0, MIB).unwrap();
    let refused = driver.range(Op::Discard, 0, MIB).unwrap_err();
    assert_eq!((refused.kind(), file.allocated()), (ErrorKind::Unsupported, MIB));
    assert_eq!(driver.read(0, 1 << 20).unwrap(), vec![0; 1 << 20]);
}

/// What `filefrag` says of the places of a file's blocks.
fn places(path: &Path) -> Option<String> {
    let output = Command::new("filefrag").arg("-v").arg(path).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_durable_write_is_written_out_when_it_completes() {
    const NAME: &str = "a_durable_write_is_written_out_when_it_completes";
    for aio in ENGINES {
        for shift in [0, 3] {
            let file = Scratch::new(dirs()[0], MIB);
            let mut driver = Driver::new(&*file.open(aio), 1);
            let mut write = |offset, durable| {
                let bytes = support::Random(6).bytes(8192);
                let data = support::scattered(&mut support::Random(shift), &bytes, 512, shift as usize);
                driver
                    .run(request(1, Op::Write { durable }, offset, data))
                    .0
                    .unwrap();
            };
            write(0, false);
            // Blocks get their place late, when they are written out.
            if !places(&file.0).is_some_and(|places| places.contains("delalloc")) {
                skip(NAME, "no filefrag, or a file system that allocates at once");
                return;
            }
            write(0, true);
            let places = places(&file.0).unwrap();
            assert!(!places.contains("delalloc"), "{aio:?}: {places}");
        }
    }
}

#[test]
fn a_full_file_system_is_an_error_of_the_request() {
    for aio in ENGINES {
        let dir = Scratch::new(dirs()[0], 0);
        fs::remove_file(&dir.0).unwrap();
        fs::create_dir(&dir.0).unwrap();
        let mounted = rustix::mount::mount(
            "full",
            &dir.0,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(c"size=256k"),
        );
        if let Err(error) = mounted {
            fs::remove_dir(&dir.0).unwrap();
            skip(
                "a_full_file_system_is_an_error_of_the_request",
                &format!("mount: {error}"),
            );
            return;
        }
        let file = dir.0.join("image");
        File::create(&file).unwrap().set_len(MIB).unwrap();
        let disk = open(&Options {
            path: file,
            aio,
            ..Options::default()
        });
        // It stays mounted for the disk only.
        rustix::mount::unmount(&dir.0, rustix::mount::UnmountFlags::DETACH).unwrap();
        fs::remove_dir(&dir.0).unwrap();
        let mut driver = Driver::new(&*disk.unwrap(), 1);
        let error = driver.write(0, &[1; 512 << 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{aio:?}: {error}");
        driver.range(Op::Discard, 0, MIB).unwrap();
        driver.write(MIB / 2, &[2; 4096]).unwrap();
        assert_eq!(driver.read(MIB / 2, 4096).unwrap(), [2; 4096]);
    }
}

#[test]
fn a_disk_for_reading_only_is_never_written() {
    for (dir, aio) in everywhere() {
        let file = Scratch::new(dir, MIB);
        let disk = open(&Options {
            read_only: true,
            ..file.options(aio)
        })
        .unwrap();
        let limits = disk.limits();
        assert!(limits.read_only);
        assert_eq!(
            (limits.discard, limits.write_zeroes, limits.secure_erase),
            (None, None, None)
        );
        let mut driver = Driver::new(&*disk, 1);
        assert_eq!(driver.read(0, 4096).unwrap(), [0; 4096]);
        let zeroes = Op::WriteZeroes {
            unmap: true,
            durable: false,
        };
        assert!(driver.write(0, &[1; 512]).is_err());
        assert!(driver.range(zeroes, 0, 4096).is_err());
        assert!(driver.range(Op::Discard, 0, 4096).is_err());
        driver.range(Op::Flush, 0, 0).unwrap();
        assert!(fs::read(&file.0).unwrap().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn an_engine_that_is_dropped_has_let_go_of_its_memory() {
    for (dir, aio) in everywhere() {
        let file = Scratch::new(dir, 8 * MIB);
        let disk = file.open(aio);
        for round in 0..20_u8 {
            let mut engine = disk.engine(32).unwrap();
            for id in 0..32 {
                let data = Segments::from(vec![round; 64 << 10]);
                let op = Op::Write { durable: id % 8 == 0 };
                engine.submit(request(id, op, u64::from(id) * 65536, data));
            }
            engine.submit(on_range(99, Op::Discard, 4 * MIB, MIB));
            if round % 2 == 0 {
                engine.commit();
            }
        }
        // The last ones started were those of round 18, all of which have ended.
        let mut first = [0; 4096];
        File::open(&file.0).unwrap().read_exact_at(&mut first, 0).unwrap();
        assert!(first == [18; 4096] || first == [19; 4096], "{}", first[0]);
    }
}

#[test]
fn who_writes_is_alone_and_readers_are_not() {
    let file = Scratch::new(dirs()[0], MIB);
    let reading = Options {
        read_only: true,
        ..file.options(Aio::Auto)
    };
    let writer = file.open(Aio::Auto);
    let engine = writer.engine(1).unwrap();
    for options in [&file.options(Aio::Auto), &reading] {
        let refused = open(options).err().unwrap().to_string();
        let path = file.0.display();
        assert_eq!(
            refused,
            format!("{path}: in use by another process (--lock off to override)")
        );
        let unlocked = Options {
            lock: false,
            ..options.clone()
        };
        assert!(open(&unlocked).is_ok());
    }
    drop(writer);
    assert!(open(&reading).is_err(), "an engine is still in use");
    drop(engine);
    let readers = [open(&reading).unwrap(), open(&reading).unwrap()];
    assert!(matches!(open(&file.options(Aio::Auto)), Err(OpenError::InUse(_))));
    drop(readers);
    assert!(open(&file.options(Aio::Auto)).is_ok());
}

#[test]
fn qemu_and_we_respect_each_others_locks() {
    const NAME: &str = "qemu_and_we_respect_each_others_locks";
    let file = Scratch::new(dirs()[0], MIB);
    let image = file.0.to_str().unwrap();
    let qemu = |args: &[&str]| {
        let output = Command::new("qemu-img").args(args).arg(image).output();
        output.map(|output| output.status.success())
    };
    let reads = ["map", "-f", "raw"];
    let writes = ["bench", "-w", "-c", "1", "-f", "raw"];
    match qemu(&writes) {
        Err(error) => return skip(NAME, &format!("qemu-img: {error}")),
        Ok(can) => assert!(can, "an image that nobody uses"),
    }
    let reader = open(&Options {
        read_only: true,
        ..file.options(Aio::Auto)
    });
    assert!(qemu(&reads).unwrap() && !qemu(&writes).unwrap(), "we read");
    drop(reader);
    let writer = file.open(Aio::Auto);
    assert!(!qemu(&writes).unwrap(), "we write");
    drop(writer);
    assert!(qemu(&writes).unwrap(), "we have gone");
    let socket = format!("{image}.nbd");
    let Ok(mut daemon) = Command::new("qemu-storage-daemon")
        .args(["--blockdev", &format!("driver=file,node-name=f,filename={image}")])
        .args(["--nbd-server", &format!("addr.type=unix,addr.path={socket}")])
        .args(["--export", "type=nbd,id=e,node-name=f,writable=on"])
        .args(["--chardev", "stdio,id=c", "--monitor", "chardev=c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
    else {
        return skip(NAME, "no qemu-storage-daemon");
    };
    // Its greeting comes after the exports of its command line were made.
    use std::io::BufRead;
    let mut greeting = String::new();
    std::io::BufReader::new(daemon.stdout.take().unwrap())
        .read_line(&mut greeting)
        .unwrap();
    let refused = open(&file.options(Aio::Auto)).err();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    fs::remove_file(socket).ok();
    assert!(
        matches!(refused, Some(OpenError::InUse(_))),
        "{greeting}: {refused:?}"
    );
    assert!(open(&file.options(Aio::Auto)).is_ok());
}

#[test]
fn what_cannot_be_a_disk_is_refused_with_its_name() {
    let refused = |options: &Options| open(options).err().unwrap().to_string();
    let at = |path: &str| Options {
        path: path.into(),
        ..Options::default()
    };
    assert_eq!(
        refused(&at("/dev/shm")),
        "/dev/shm: neither a regular file nor a block device"
    );
    assert_eq!(
        refused(&at("/dev/null")),
        "/dev/null: neither a regular file nor a block device"
    );
    assert!(refused(&at("/no/such")).starts_with("/no/such: cannot open: "));
    let file = Scratch::new(dirs()[0], MIB);
    for size in [0, 256, 1000, 131_072] {
        let options = Options {
            block_size: Some(size),
            ..file.options(Aio::Auto)
        };
        let text = format!("block size {size}: must be a power of two from 512 to 65536");
        assert!(refused(&options).ends_with(&text), "{}", refused(&options));
    }
}

#[test]
fn engines_have_names() {
    for (name, aio) in Aio::NAMES {
        assert_eq!(name.parse(), Ok(aio));
    }
    let error = "native".parse::<Aio>().unwrap_err();
    assert_eq!(error.to_string(), "not one of auto, io-uring, inline, threads");
}

/// A loop device on a file.
struct Loop(String);

impl Loop {
    fn new(file: &Scratch) -> Result<Self, String> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&file.0)
            .output();
        let output = output.map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").args(["--detach", &self.0]).status().ok();
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let file = Scratch::new(dirs()[0], 4 * MIB);
    let device = match Loop::new(&file) {
        Ok(device) => device,
        Err(error) => return skip("a_block_device_is_a_disk", &error),
    };
    for (aio, direct) in ENGINES.into_iter().flat_map(|aio| [(aio, false), (aio, true)]) {
        let disk = open(&Options {
            path: device.0.clone().into(),
            aio,
            direct,
            ..Options::default()
        })
        .unwrap();
        assert_eq!((disk.capacity(), disk.limits().logical_block), (4 * MIB, 512));
        assert!(disk.limits().discard.is_some() && disk.limits().write_zeroes.is_some());
        assert!(disk.limits().secure_erase.is_none());
        exercise(&*disk, 7);
        let mut driver = Driver::new(&*disk, 1);
        driver.write(0, &[3; 2 << 20]).unwrap();
        driver.range(Op::Flush, 0, 0).unwrap();
        let full = file.allocated();
        driver.range(Op::Discard, 0, 2 * MIB).unwrap();
        assert!(file.allocated() <= full - 2 * MIB, "{aio:?} {direct}");
        assert_eq!(driver.read(0, 4096).unwrap(), [0; 4096]);
    }
}
