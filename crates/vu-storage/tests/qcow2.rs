// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Images in qcow2 format against `qemu-img`, which makes them, checks them, and reads what we wrote.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use support::{Driver, Random, bytes_of, exercise, on_range, request, skip};
use vu_common::Segments;
use vu_storage::qcow2::{BackingFormat, OpenError, Options, Problem, open};
use vu_storage::{Disk, Op, file};

const MIB: u64 = 1 << 20;
/// How long one thread waits for another that may be unable to go on.
const SHORT: Duration = Duration::from_millis(40);

/// A directory for the files of one test, removed with them.
struct Dir(PathBuf);

impl Dir {
    /// `None`, and counted, if there is no `qemu-img`.
    fn new(test: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if Command::new("qemu-img").arg("--version").output().is_err() {
            skip(test, "qemu-img is not installed (package qemu-utils)");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vu-storage-qcow2-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Some(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A new image in qcow2 format.
    fn create(&self, name: &str, options: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let size = size.to_string();
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, str(&path), &size]);
        path
    }

    /// A file of random bytes.
    fn random(&self, name: &str, len: u64, seed: u64) -> (PathBuf, Vec<u8>) {
        let bytes = Random(seed).bytes(len as usize);
        let path = self.path(name);
        fs::write(&path, &bytes).unwrap();
        (path, bytes)
    }

    /// What QEMU reads from an image.
    fn contents(&self, image: &Path) -> Vec<u8> {
        let raw = self.path("contents.raw");
        qemu_img(&["convert", "-O", "raw", "-f", "qcow2", str(image), str(&raw)]);
        fs::read(raw).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn qemu_img(args: &[&str]) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let output = Command::new("qemu-img").args(args).output().unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        // A program that another test is about to start has our files, and so their locks, until it is executed.
        let error = String::from_utf8_lossy(&output.stderr);
        let is_locked = error.contains("\" lock");
        assert!(is_locked && Instant::now() < end, "qemu-img {args:?}: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// No leak, no error.
fn check(image: &Path) {
    qemu_img(&["check", "-q", "-f", "qcow2", str(image)]);
}

fn options(path: &Path) -> Options {
    Options {
        file: file::Options {
            path: path.into(),
            ..file::Options::default()
        },
        ..Options::default()
    }
}

fn disk(path: &Path) -> Arc<dyn Disk> {
    open(&options(path)).unwrap_or_else(|error| panic!("{error}"))
}

fn with_backing(path: &Path, backing: &Path, format: BackingFormat) -> Options {
    Options {
        backing_file: Some(backing.into()),
        backing_format: format,
        ..options(path)
    }
}

fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut driver = Driver::new(disk, 4);
    let chunks = (0..disk.capacity()).step_by(MIB as usize);
    let chunk = |at| driver.read(at, MIB.min(disk.capacity() - at) as usize).unwrap();
    chunks.flat_map(chunk).collect()
}

/// The shared exercise; then the image is clean, and QEMU reads what we read.
fn pass(dir: &Dir, image: &Path, options: &Options) {
    let disk = open(options).unwrap_or_else(|error| panic!("{error}"));
    exercise(&*disk, 17);
    let ours = read_all(&*disk);
    drop(disk);
    check(image);
    assert!(ours == dir.contents(image), "QEMU reads something else");
    let disk = open(options).unwrap();
    assert!(ours == read_all(&*disk), "something else after opening it again");
}

#[test]
fn exercise_on_images_of_many_kinds() {
    let Some(dir) = Dir::new("exercise_on_images_of_many_kinds") else {
        return;
    };
    let kinds = [
        "cluster_size=512",
        "cluster_size=65536",
        "cluster_size=2M",
        "compat=0.10",
        "lazy_refcounts=on",
        "preallocation=metadata",
        "preallocation=full",
        "refcount_bits=1",
        "refcount_bits=64,cluster_size=4096",
    ];
    for kind in kinds {
        let image = dir.create("image", kind, 9 * MIB + 512);
        assert_eq!(disk(&image).capacity(), 9 * MIB + 512);
        let start = Instant::now();
        pass(&dir, &image, &options(&image));
        println!("{kind}: {:?}", start.elapsed());
    }
}

#[test]
fn exercise_past_the_page_cache() {
    let Some(dir) = Dir::new("exercise_past_the_page_cache") else {
        return;
    };
    let image = dir.create("image", "cluster_size=65536", 8 * MIB);
    let mut direct = options(&image);
    direct.file.direct = true;
    let refused = open(&direct).err();
    if let Some(OpenError::File(error @ file::OpenError::NoDirect(_))) = refused {
        return skip("exercise_past_the_page_cache", &error.to_string());
    }
    pass(&dir, &image, &direct);
}

#[test]
fn reads_compressed_clusters_and_replaces_them() {
    let Some(dir) = Dir::new("reads_compressed_clusters_and_replaces_them") else {
        return;
    };
    let raw = dir.path("raw");
    let mut want: Vec<u8> = (0..4 * MIB).map(|i| (i / 1000) as u8).collect();
    fs::write(&raw, &want).unwrap();
    let image = dir.path("image");
    qemu_img(&[
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        str(&raw),
        str(&image),
    ]);
    {
        let disk = disk(&image);
        assert!(read_all(&*disk) == want);
        let mut driver = Driver::new(&*disk, 4);
        let bytes = Random(3).bytes(100 << 10);
        driver.write(40 << 10, &bytes).unwrap();
        want[40 << 10..][..bytes.len()].copy_from_slice(&bytes);
        driver.range(Op::Flush, 0, 0).unwrap();
        assert!(read_all(&*disk) == want);
    }
    check(&image);
    assert!(dir.contents(&image) == want);
    pass(&dir, &image, &options(&image));
}

#[test]
fn copies_what_a_write_leaves_of_a_backing_cluster() {
    let Some(dir) = Dir::new("copies_what_a_write_leaves_of_a_backing_cluster") else {
        return;
    };
    // The base ends within a cluster and within a block.
    let (raw, bytes) = dir.random("base.raw", 3 * MIB + 700, 5);
    let qcow2 = dir.path("base.qcow2");
    let small = "cluster_size=4096";
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        small,
        str(&raw),
        str(&qcow2),
    ]);
    for (base, name, format) in [
        (&raw, "raw", BackingFormat::Raw),
        (&qcow2, "qcow2", BackingFormat::Qcow2),
    ] {
        for cluster in [512, 65536, 2 << 20] {
            let made = format!(
                "cluster_size={cluster},backing_file={},backing_fmt={name}",
                str(base)
            );
            let image = dir.create("image", &made, 6 * MIB);
            let mut want = bytes.clone();
            want.resize(6 * MIB as usize, 0);
            let options = with_backing(&image, base, format);
            let disk = open(&options).unwrap();
            assert!(read_all(&*disk) == want, "{made}");
            let mut driver = Driver::new(&*disk, 4);
            let mut random = Random(cluster);
            for _ in 0..40 {
                let offset = random.below(6 * MIB / 512 - 64) as usize * 512;
                let len = 512 * (1 + random.below(64) as usize);
                let new = if random.below(4) == 0 {
                    let op = Op::WriteZeroes {
                        unmap: true,
                        durable: false,
                    };
                    driver.range(op, offset as u64, len as u64).unwrap();
                    vec![0; len]
                } else {
                    let new = random.bytes(len);
                    driver.write(offset as u64, &new).unwrap();
                    new
                };
                want[offset..][..len].copy_from_slice(&new);
            }
            assert!(read_all(&*disk) == want, "{made}");
            drop((driver, disk));
            check(&image);
            assert!(dir.contents(&image) == want, "{made}");
        }
    }
    assert!(fs::read(&raw).unwrap() == bytes, "the base was written");
    // A version 2 image has no zero clusters to cover its base with.
    let made = format!("compat=0.10,backing_file={},backing_fmt=raw", str(&raw));
    let image = dir.create("image", &made, 6 * MIB);
    let limits = open(&with_backing(&image, &raw, BackingFormat::Raw))
        .unwrap()
        .limits();
    assert_eq!((limits.discard, limits.write_zeroes), (None, None));
}

#[test]
fn discarded_clusters_are_freed() {
    let Some(dir) = Dir::new("discarded_clusters_are_freed") else {
        return;
    };
    let image = dir.create("image", "cluster_size=65536", 64 * MIB);
    let disk = disk(&image);
    let mut driver = Driver::new(&*disk, 4);
    driver.write(0, &Random(1).bytes(8 * MIB as usize)).unwrap();
    driver.range(Op::Flush, 0, 0).unwrap();
    let blocks = || {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&image).unwrap().blocks() * 512
    };
    let before = blocks();
    assert!(before >= 8 * MIB);
    // Not the first and last block: their clusters stay.
    driver.range(Op::Discard, 512, 8 * MIB - 1024).unwrap();
    driver.range(Op::Discard, 8 * MIB, 56 * MIB).unwrap();
    driver.range(Op::Flush, 0, 0).unwrap();
    assert!(
        before - blocks() >= 8 * MIB - 4 * 65536,
        "the host has not got them back"
    );
    drop((driver, disk));
    check(&image);
    let map = qemu_img(&["map", "--output=json", "-f", "qcow2", str(&image)]);
    let data: Vec<_> = map
        .lines()
        .filter(|line| line.contains("\"data\": true"))
        .collect();
    assert_eq!(data.len(), 2, "{map}");
    assert!(
        data.iter().all(|line| line.contains("\"length\": 65536")),
        "{map}"
    );
    let before = fs::metadata(&image).unwrap().len();
    let disk = self::disk(&image);
    Driver::new(&*disk, 1)
        .write(32 * MIB, &Random(2).bytes(7 * MIB as usize))
        .unwrap();
    drop(disk);
    check(&image);
    assert!(
        fs::metadata(&image).unwrap().len() <= before + 2 * 65536,
        "freed clusters are not used again"
    );
}

#[test]
fn zeroes_keep_or_free_the_clusters_as_asked() {
    let Some(dir) = Dir::new("zeroes_keep_or_free_the_clusters_as_asked") else {
        return;
    };
    for (compat, unmap, kept) in [
        ("1.1", true, false),
        ("1.1", false, true),
        ("0.10", true, false),
        ("0.10", false, true),
    ] {
        let image = dir.create("image", &format!("compat={compat}"), 4 * MIB);
        let disk = disk(&image);
        let mut driver = Driver::new(&*disk, 4);
        driver.write(0, &Random(1).bytes(MIB as usize)).unwrap();
        driver
            .range(Op::WriteZeroes { unmap, durable: true }, 0, MIB)
            .unwrap();
        assert!(
            driver
                .read(0, MIB as usize)
                .unwrap()
                .iter()
                .all(|&byte| byte == 0)
        );
        drop((driver, disk));
        check(&image);
        let allocated = qemu_img(&["check", "--output=json", "-f", "qcow2", str(&image)]);
        assert_eq!(
            allocated.contains("\"allocated-clusters\": 16"),
            kept,
            "{compat} {unmap}: {allocated}"
        );
    }
}

#[test]
fn an_image_does_not_choose_files_of_the_host() {
    let Some(dir) = Dir::new("an_image_does_not_choose_files_of_the_host") else {
        return;
    };
    let (base, _) = dir.random("base", MIB, 1);
    let made = format!("backing_file={},backing_fmt=raw", str(&base));
    let image = dir.create("image", &made, MIB);
    let error = open(&options(&image))
        .err()
        .expect("it names a backing file")
        .to_string();
    assert!(
        error.contains(str(&base)) && error.contains("--backing-file"),
        "{error}"
    );
    assert!(open(&with_backing(&image, &base, BackingFormat::Raw)).is_ok());

    // Only the option counts, and not the format that the image names.
    let (other, bytes) = dir.random("other", MIB, 2);
    let disk = open(&with_backing(&image, &other, BackingFormat::Raw)).unwrap();
    assert!(read_all(&*disk) == bytes);
    drop(disk);
    let error = open(&with_backing(&image, &base, BackingFormat::Qcow2)).err();
    assert!(
        matches!(
            error,
            Some(OpenError::Image {
                problem: Problem::NotQcow2,
                ..
            })
        ),
        "{error:?}"
    );

    let made = format!("backing_file={},backing_fmt=qcow2", str(&image));
    let top = dir.create("top", &made, MIB);
    let error = open(&with_backing(&top, &image, BackingFormat::Qcow2)).err();
    assert!(matches!(error, Some(OpenError::Chain { .. })), "{error:?}");

    let plain = dir.create("plain", "compat=1.1", MIB);
    let error = open(&with_backing(&plain, &base, BackingFormat::Raw)).err();
    assert!(matches!(error, Some(OpenError::NoBacking(_))), "{error:?}");
}

#[test]
fn what_is_not_supported_says_so_and_names_a_way() {
    let Some(dir) = Dir::new("what_is_not_supported_says_so_and_names_a_way") else {
        return;
    };
    let refused = |path: &Path, what: &str| {
        let error = open(&options(path)).err().expect(what).to_string();
        assert!(
            error.contains(what) && error.contains("qemu-storage-daemon"),
            "{error}"
        );
        assert!(error.starts_with(str(path)), "{error}");
    };
    let data = format!("data_file={}", str(&dir.path("data")));
    refused(&dir.create("external", &data, MIB), "external data file");
    refused(&dir.create("extended", "extended_l2=on", MIB), "extended L2");
    refused(&dir.create("zstd", "compression_type=zstd", MIB), "zstd");
    let image = dir.create("snapshot", "compat=1.1", MIB);
    qemu_img(&["snapshot", "-c", "one", str(&image)]);
    refused(&image, "internal snapshots");
    let mut read_only = options(&image);
    read_only.file.read_only = true;
    assert!(
        read_all(&*open(&read_only).unwrap())
            .iter()
            .all(|&byte| byte == 0)
    );

    let image = dir.create("image", "compat=1.1", MIB);
    let patch = |offset, bytes: &[u8]| {
        let file = fs::File::options().write(true).open(&image).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    };
    patch(32, &2_u32.to_be_bytes());
    refused(&image, "encryption");
    patch(32, &0_u32.to_be_bytes());
    for (bits, problem) in [(1, Problem::Unclean), (2, Problem::Corrupt)] {
        patch(72, &u64::to_be_bytes(bits));
        let error = open(&options(&image)).err();
        assert!(
            matches!(&error, Some(OpenError::Image { problem: got, .. }) if *got == problem),
            "{error:?}"
        );
    }
}

#[test]
fn read_only_is_read_only_and_an_image_in_use_is_locked() {
    let Some(dir) = Dir::new("read_only_is_read_only_and_an_image_in_use_is_locked") else {
        return;
    };
    let image = dir.create("image", "compat=1.1", MIB);
    let writer = disk(&image);
    let error = open(&options(&image)).err();
    assert!(
        matches!(error, Some(OpenError::File(file::OpenError::InUse(_)))),
        "{error:?}"
    );
    let output = Command::new("qemu-img")
        .args(["check", "-r", "all", str(&image)])
        .output()
        .unwrap();
    assert!(!output.status.success(), "QEMU opens it for writing, too");
    assert!(!writer.can_be_handed_over(), "its tables are in memory");
    Driver::new(&*writer, 1).write(0, &[7; 512]).unwrap();
    drop(writer);
    let before = fs::read(&image).unwrap();
    let mut read_only = options(&image);
    read_only.file.read_only = true;
    let (one, two) = (open(&read_only).unwrap(), open(&read_only).unwrap());
    assert!(one.can_be_handed_over());
    let mut driver = Driver::new(&*one, 1);
    assert_eq!(driver.read(0, 512).unwrap(), [7; 512]);
    assert!(driver.write(0, &[8; 512]).is_err());
    assert!(driver.range(Op::Discard, 0, 65536).is_err());
    driver.range(Op::Flush, 0, 0).unwrap();
    assert!(one.limits().read_only && two.limits().discard.is_none());
    drop((driver, one, two));
    assert!(fs::read(&image).unwrap() == before);
}

/// Each of two threads owns every other block, so that they share all clusters and no byte.
#[test]
fn two_engines_share_clusters_under_load() {
    let Some(dir) = Dir::new("two_engines_share_clusters_under_load") else {
        return;
    };
    let (base, bytes) = dir.random("base", 2 * MIB, 9);
    for cluster in [4096, 65536] {
        let made = format!(
            "cluster_size={cluster},backing_file={},backing_fmt=raw",
            str(&base)
        );
        let image = dir.create("image", &made, 4 * MIB);
        let disk = open(&with_backing(&image, &base, BackingFormat::Raw)).unwrap();
        let mut first = bytes.clone();
        first.resize(4 * MIB as usize, 0);
        let parts = std::thread::scope(|scope| {
            let threads = [0, 1].map(|parity| {
                let (disk, first) = (&*disk, first.clone());
                scope.spawn(move || shared_load(disk, first, parity))
            });
            threads.map(|thread| thread.join().unwrap())
        });
        let blocks = first.len() / 512;
        let want: Vec<u8> = (0..blocks)
            .flat_map(|i| &parts[i % 2][i * 512..][..512])
            .copied()
            .collect();
        assert!(read_all(&*disk) == want);
        drop(disk);
        check(&image);
        assert!(dir.contents(&image) == want);
    }
}

/// Batches of single blocks; a third thread's worth of discards goes to clusters that both use, as zeroes of
/// single blocks. Returns what the blocks of this thread hold.
fn shared_load(disk: &dyn Disk, mut model: Vec<u8>, parity: u64) -> Vec<u8> {
    let mut random = Random(parity);
    let mut driver = Driver::new(disk, 32);
    let blocks = model.len() as u64 / 512;
    for round in 0..300 {
        let mut reads = HashMap::new();
        let mut used = Vec::new();
        let count = 1 + random.below(32) as u32;
        for id in 0..count {
            // Each id has a range of blocks to itself.
            let block = (random.below(blocks / 64) * 64 + u64::from(id) * 2 + parity) as usize;
            let at = block * 512;
            if used.contains(&block) {
                driver.submit(on_range(id, Op::Flush, 0, 0));
                continue;
            }
            used.push(block);
            match random.below(4) {
                0 => {
                    let bytes = random.bytes(512);
                    model[at..at + 512].copy_from_slice(&bytes);
                    let durable = random.below(8) == 0;
                    driver.submit(request(
                        id,
                        Op::Write { durable },
                        at as u64,
                        Segments::from(bytes),
                    ));
                }
                1 => {
                    model[at..at + 512].fill(0);
                    let op = Op::WriteZeroes {
                        unmap: true,
                        durable: false,
                    };
                    driver.submit(on_range(id, op, at as u64, 512));
                }
                _ => {
                    reads.insert(id, at);
                    let room = Segments::from(vec![0xa5; 512]);
                    driver.submit(request(id, Op::Read, at as u64, room));
                }
            }
        }
        for done in driver.wait(count as usize) {
            done.result.unwrap();
            if let Some(at) = reads.get(&done.id) {
                assert!(
                    bytes_of(&done.data) == model[*at..at + 512],
                    "round {round}, byte {at}"
                );
            }
        }
    }
    model
}

/// Sets a flag when it goes, by a panic, too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One thread frees clusters that it is just writing to, so that they change hands; the other must not notice.
#[test]
fn clusters_change_hands_under_load() {
    let Some(dir) = Dir::new("clusters_change_hands_under_load") else {
        return;
    };
    let image = dir.create("image", "cluster_size=4096", 64 * MIB);
    let disk = disk(&image);
    let stop = AtomicBool::new(false);
    let progress = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut driver = Driver::new(&*disk, 32);
            let mut random = Random(1);
            while !stop.load(Ordering::Relaxed) {
                for id in 0..32 {
                    // Few clusters, so that writes to them are under way when they are freed.
                    let offset = 32 * MIB + 4096 * random.below(8);
                    if id % 2 == 0 {
                        let data = Segments::from(vec![0xee; 4096]);
                        driver.submit(request(id, Op::Write { durable: false }, offset, data));
                    } else {
                        driver.submit(on_range(id, Op::Discard, offset, 4096));
                    }
                }
                // Looked up, not begun yet: time for the other thread to get what has been freed.
                let (before, end) = (progress.load(Ordering::Relaxed), Instant::now() + SHORT);
                while progress.load(Ordering::Relaxed) < before + 3 && Instant::now() < end {
                    std::thread::yield_now();
                }
                for done in driver.wait(32) {
                    done.result.unwrap();
                }
            }
        });
        let _stops = Stop(&stop);
        let mut driver = Driver::new(&*disk, 32);
        let mut random = Random(2);
        let mut model = vec![0_u8; 1 << 20];
        for _ in 0..150 {
            let mut reads = HashMap::new();
            for id in 0..32_u32 {
                let at = id as usize * 32768 + 4096 * random.below(8) as usize;
                let byte = random.number() as u8 & 0x7f;
                match random.below(4) {
                    0 => {
                        model[at..at + 4096].fill(0);
                        let op = Op::WriteZeroes {
                            unmap: true,
                            durable: false,
                        };
                        driver.submit(on_range(id, op, at as u64, 4096));
                    }
                    1 => {
                        model[at..at + 4096].fill(byte);
                        let data = Segments::from(vec![byte; 4096]);
                        driver.submit(request(id, Op::Write { durable: false }, at as u64, data));
                    }
                    _ => {
                        reads.insert(id, at);
                        let data = Segments::from(vec![1; 4096]);
                        driver.submit(request(id, Op::Read, at as u64, data));
                    }
                }
            }
            progress.fetch_add(1, Ordering::Relaxed);
            for done in driver.wait(32) {
                done.result.unwrap();
                if let Some(at) = reads.get(&done.id) {
                    assert!(bytes_of(&done.data) == model[*at..at + 4096], "byte {at}");
                }
            }
        }
    });
    drop(disk);
    check(&image);
}

#[test]
fn damaged_headers_and_files_cut_off_are_errors() {
    let Some(dir) = Dir::new("damaged_headers_and_files_cut_off_are_errors") else {
        return;
    };
    let (base, _) = dir.random("base", MIB, 1);
    let made = format!("backing_file={},backing_fmt=raw", str(&base));
    let image = dir.create("image", &made, MIB);
    let good = fs::read(&image).unwrap();
    let broken = dir.path("broken");
    let attempt = |bytes: &[u8]| {
        fs::write(&broken, bytes).unwrap();
        let disk = open(&with_backing(&broken, &base, BackingFormat::Raw))?;
        // Whatever was let through must at least not bring us down.
        let mut driver = Driver::new(&*disk, 4);
        let len = disk.capacity().min(MIB) as usize;
        if len > 0 {
            let _ = driver.read(0, len);
            let _ = driver.write(0, &vec![1; len]);
            let _ = driver.range(Op::Discard, 0, len as u64);
        }
        Ok::<_, OpenError>(())
    };
    attempt(&good).unwrap();
    for len in (0..600).chain((600..good.len()).step_by(4093)) {
        assert!(attempt(&good[..len]).is_err() || len > 512, "cut to {len}");
    }
    let values = [
        0,
        1,
        2,
        8,
        9,
        21,
        22,
        63,
        64,
        0xff,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        u32::MAX,
    ];
    for field in (0..112).step_by(4) {
        for value in values {
            let mut bytes = good.clone();
            bytes[field..field + 4].copy_from_slice(&u32::to_be_bytes(value));
            let _ = attempt(&bytes);
        }
    }
    let mut random = Random(11);
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(4) {
            bytes[random.below(200) as usize] = random.number() as u8;
        }
        let _ = attempt(&bytes);
    }
    // Tables: entries of the refcount table, the refcounts, the L1 table.
    for table in [0x10000, 0x20000, 0x30000] {
        for value in [
            1_u64,
            0x200,
            0x10000,
            1 << 63,
            u64::MAX,
            1 << 62 | 0x10000,
            1 << 63 | 0x10000,
        ] {
            let mut bytes = good.clone();
            bytes[table..table + 8].copy_from_slice(&value.to_be_bytes());
            let _ = attempt(&bytes);
        }
    }
    for (bytes, problem) in [
        (vec![0; 1024], Problem::NotQcow2),
        (b"QFI\xfb\0\0\0\x01".repeat(20), Problem::Version(1)),
    ] {
        let error = attempt(&bytes).expect_err("garbage");
        assert!(
            matches!(&error, OpenError::Image { problem: got, .. } if *got == problem),
            "{error}"
        );
    }
}

const CHILD: &str = "VU_STORAGE_QCOW2_CRASH";
const BLOCKS: u64 = 4096;

/// Killed at any moment, the image has leaks at most, and what had completed is there, flushed or not.
#[test]
fn a_crash_leaks_at_most() {
    if let Some(image) = std::env::var_os(CHILD) {
        write_until_killed(Path::new(&image));
    }
    let Some(dir) = Dir::new("a_crash_leaks_at_most") else {
        return;
    };
    let mut random = Random(u64::from(std::process::id()));
    for (round, kind) in [
        "cluster_size=512,refcount_bits=64",
        "cluster_size=4096",
        "cluster_size=65536",
    ]
    .into_iter()
    .cycle()
    .take(12)
    .enumerate()
    {
        let image = dir.create("image", kind, BLOCKS * 4096);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_crash_leaks_at_most", "--nocapture"])
            .env(CHILD, &image)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed after so many steps, or a little later: what the pipe still holds has also been done.
        let steps = 1 + random.below(400);
        let mut log: Vec<_> = lines
            .by_ref()
            .map(Result::unwrap)
            .filter(|line| line.starts_with('@'))
            .take(steps as usize)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        log.extend(lines.map_while(Result::ok).filter(|line| line.starts_with('@')));
        let (code, report) = check_when_let_go(&image);
        assert!(matches!(code, Some(0 | 3)), "round {round}, {kind}: {report}");
        verify(&image, &log);
    }
}

/// What `qemu-img check` says once the killed process has let go of the image, which its I/O may delay.
fn check_when_let_go(image: &Path) -> (Option<i32>, String) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = Command::new("qemu-img")
            .args(["check", "-f", "qcow2", str(image)])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let report = String::from_utf8_lossy(&said).into_owned();
        if !report.contains("Failed to get shared") || Instant::now() > deadline {
            return (output.status.code(), report);
        }
    }
}

/// Announces each change, makes it, and announces that it has completed.
fn write_until_killed(image: &Path) -> ! {
    let disk = disk(image);
    let mut driver = Driver::new(&*disk, 8);
    let mut random = Random(u64::from(std::process::id()));
    let mut out = std::io::stdout();
    let mut say = |line: String| {
        out.write_all(line.as_bytes()).unwrap();
        out.flush().unwrap();
    };
    for version in 1_u64.. {
        let block = random.below(BLOCKS);
        match random.below(12) {
            0 | 1 => driver.range(Op::Flush, 0, 0).unwrap(),
            2 => {
                let count = (1 + random.below(64)).min(BLOCKS - block);
                say(format!("@ clear {version} {block} {count}\n"));
                let op = Op::WriteZeroes {
                    unmap: true,
                    durable: false,
                };
                driver.range(op, block * 4096, count * 4096).unwrap();
            }
            3 => {
                say(format!("@ write {version} {block} 1\n"));
                let op = Op::Write { durable: true };
                let data = Segments::from(stamp(block, version));
                driver.run(request(1, op, block * 4096, data)).0.unwrap();
            }
            _ => {
                let count = (1 + random.below(16)).min(BLOCKS - block);
                say(format!("@ write {version} {block} {count}\n"));
                let bytes: Vec<u8> = (block..block + count)
                    .flat_map(|block| stamp(block, version))
                    .collect();
                driver.write(block * 4096, &bytes).unwrap();
            }
        }
        say(format!("@ done {version}\n"));
    }
    unreachable!("there are enough versions");
}

fn stamp(block: u64, version: u64) -> Vec<u8> {
    let words = [block.to_le_bytes(), version.to_le_bytes()].concat();
    words.repeat(256)
}

fn stamp_of(sector: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap());
    (word(0), word(8))
}

/// Each block holds what completed last or something written to it later; versions of zeroes count, too.
fn verify(image: &Path, log: &[String]) {
    let mut allowed: HashMap<u64, Vec<u64>> = HashMap::new();
    for line in log {
        let mut words = line.split(' ').skip(1);
        let verb = words.next().unwrap();
        let mut numbers = words.map_while(|word| word.parse::<u64>().ok());
        let version = numbers.next().unwrap();
        let range = numbers.next().zip(numbers.next());
        let (start, count) = range.unwrap_or((0, BLOCKS));
        for block in start..start + count {
            let versions = allowed.entry(block).or_insert_with(|| vec![0]);
            match verb {
                "write" => versions.push(version),
                "clear" => versions.push(0),
                _ => *versions = versions.split_off(versions.len() - 1),
            }
        }
    }
    let disk = disk(image);
    let bytes = read_all(&*disk);
    for (block, versions) in allowed {
        let got = &bytes[block as usize * 4096..][..4096];
        let is = |version: u64| {
            let want = if version == 0 {
                vec![0; 4096]
            } else {
                stamp(block, version)
            };
            got.chunks(512)
                .zip(want.chunks(512))
                .map(|(got, want)| got == want)
                .collect::<Vec<_>>()
        };
        // A write that was under way may have been done in part.
        let sectors = versions
            .iter()
            .map(|&version| is(version))
            .reduce(|a, b| a.iter().zip(b).map(|(a, b)| *a || b).collect());
        assert!(
            sectors.unwrap().iter().all(|&is| is),
            "block {block}: {versions:?}, got (block, version) in sectors {:?}",
            got.chunks(512).map(stamp_of).collect::<Vec<_>>()
        );
    }
}
