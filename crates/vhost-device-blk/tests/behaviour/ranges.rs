// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Discard and write zeroes: segments at their limits, and what becomes of the bytes.

use std::os::unix::fs::MetadataExt;

use crate::support::{Image, SECTORS, SIZE, ask, config, guest, offset, read, sectors, still_serves, write};
use vu_testkit::devices::blk::{SECTOR, feature, kind, segment, status};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane};
use vu_testkit::spawn::Daemon;

const UNMAP: u32 = 1;

fn disk(args: &[&str]) -> (Image, Daemon, Guest) {
    let image = Image::full(SIZE);
    let daemon = image.spawn(args);
    let guest = guest(&daemon.socket());
    let both = feature::DISCARD | feature::WRITE_ZEROES;
    assert_eq!(guest.offered & both, both, "{:#x}", guest.offered);
    (image, daemon, guest)
}

fn send(lane: &mut Lane, kind: u32, segments: &[Vec<u8>]) -> u8 {
    ask(lane, kind, 0, &segments.concat(), 1).status
}

/// The most segments of a request of a kind, and the most sectors of one of them.
fn limits(front: &FrontEnd, kind: u32) -> (usize, u64) {
    let (segments, sectors) = match kind {
        kind::DISCARD => (offset::MAX_DISCARD_SEG, offset::MAX_DISCARD_SECTORS),
        _ => (offset::MAX_WRITE_ZEROES_SEG, offset::MAX_WRITE_ZEROES_SECTORS),
    };
    (config(front, segments, 4) as usize, config(front, sectors, 4))
}

#[test]
fn zeroes_are_written_where_they_are_wanted_and_nowhere_else() {
    let (image, _daemon, mut guest) = disk(&[]);
    let lane = guest.lane();
    for (flags, sector) in [(0, 100), (UNMAP, 1000)] {
        assert_eq!(
            send(lane, kind::WRITE_ZEROES, &[segment(sector, 24, flags)]),
            status::OK
        );
        assert_eq!(read(lane, sector - 1, 1), sectors(sector - 1, 1));
        assert_eq!(read(lane, sector, 24), vec![0; 24 * SECTOR]);
        assert_eq!(read(lane, sector + 24, 1), sectors(sector + 24, 1));
        assert_eq!(image.read(sector, 24), vec![0; 24 * SECTOR]);
    }
}

#[test]
fn discarded_and_unmapped_bytes_leave_the_file() {
    let (image, _daemon, mut guest) = disk(&[]);
    let blocks = || image.file().metadata().unwrap().blocks();
    image.file().sync_all().unwrap();
    let before = blocks();
    assert!(before >= SECTORS, "the image has {before} blocks");
    let half = (SECTORS / 4) as u32;
    assert_eq!(
        send(guest.lane(), kind::DISCARD, &[segment(0, half, 0)]),
        status::OK
    );
    assert!(
        blocks() <= before - u64::from(half) + 64,
        "{before} blocks, then {}",
        blocks()
    );
    let zeroes = [segment(u64::from(half), half, UNMAP)];
    assert_eq!(send(guest.lane(), kind::WRITE_ZEROES, &zeroes), status::OK);
    assert!(
        blocks() <= before - 2 * u64::from(half) + 64,
        "{before} blocks, then {}",
        blocks()
    );
    assert_eq!(
        image.read(2 * u64::from(half), 64),
        sectors(2 * u64::from(half), 64)
    );
    assert_eq!(image.file().metadata().unwrap().len(), SIZE);
}

#[test]
fn as_many_segments_as_offered_are_served_each() {
    for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
        let (_image, _daemon, mut guest) = disk(&[]);
        let (most, _) = limits(&guest.front, kind);
        assert!(most >= 32, "{most} segments");
        let lane = guest.lane();
        for count in [1, 2, 32, most.min(1000)] {
            let place = |number: usize| 16 + 16 * number as u64;
            let segments: Vec<_> = (0..count).map(|number| segment(place(number), 8, 0)).collect();
            assert_eq!(send(lane, kind, &segments), status::OK, "{count} segments");
            for number in [0, count / 2, count - 1] {
                let sector = place(number);
                if kind == kind::WRITE_ZEROES {
                    assert_eq!(read(lane, sector, 8), vec![0; 8 * SECTOR]);
                }
                assert_eq!(read(lane, sector + 8, 8), sectors(sector + 8, 8));
            }
        }
    }
}

#[test]
fn odd_numbers_of_segments_are_errors() {
    for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
        let (_image, _daemon, mut guest) = disk(&[]);
        let (most, _) = limits(&guest.front, kind);
        let lane = guest.lane();
        // One too many, each of which would be fine.
        let segments: Vec<_> = (0..=most).map(|_| segment(0, 8, 0)).collect();
        assert_eq!(
            send(lane, kind, &segments),
            status::IOERR,
            "{} segments",
            most + 1
        );
        for len in [1, 8, 15, 17, 24, 31] {
            let bytes = [segment(0, 8, 0), segment(0, 8, 0)].concat();
            assert_eq!(
                ask(lane, kind, 0, &bytes[..len], 1).status,
                status::IOERR,
                "{len} bytes"
            );
        }
        assert_ne!(send(lane, kind, &[]), status::UNSUPP);
        assert_eq!(read(lane, 0, 8), sectors(0, 8), "a bad request had an effect");
        still_serves(lane);
    }
}

#[test]
fn flags_that_mean_nothing_are_unsupported() {
    let (_image, _daemon, mut guest) = disk(&[]);
    let lane = guest.lane();
    for bit in 0..32 {
        let segments = [segment(0, 8, 1 << bit)];
        assert_eq!(
            send(lane, kind::DISCARD, &segments),
            status::UNSUPP,
            "discard, bit {bit}"
        );
        if bit != 0 {
            assert_eq!(
                send(lane, kind::WRITE_ZEROES, &segments),
                status::UNSUPP,
                "zeroes, bit {bit}"
            );
        }
    }
    // One bad segment among good ones.
    let mixed = [segment(0, 8, 0), segment(8, 8, 2), segment(16, 8, 0)];
    assert_eq!(send(lane, kind::WRITE_ZEROES, &mixed), status::UNSUPP);
    assert_eq!(read(lane, 0, 24), sectors(0, 24), "a bad request had an effect");
}

#[test]
fn ranges_beyond_the_end_or_the_limit_are_errors() {
    for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
        let (image, _daemon, mut guest) = disk(&[]);
        let (_, most) = limits(&guest.front, kind);
        let lane = guest.lane();
        for (sector, count) in [
            (SECTORS, 1),
            (SECTORS - 1, 2),
            (SECTORS - 8, 16),
            (0, u32::MAX),
            (u64::MAX, 1),
            (u64::MAX, u32::MAX),
            (u64::MAX / 512 + 1, 8),
            (1 << 63, 8),
        ] {
            assert_eq!(
                send(lane, kind, &[segment(sector, count, 0)]),
                status::IOERR,
                "{count} at {sector:#x}"
            );
        }
        let mixed = [segment(0, 8, 0), segment(SECTORS - 4, 8, 0)];
        assert_eq!(send(lane, kind, &mixed), status::IOERR);
        if most < SECTORS {
            assert_eq!(send(lane, kind, &[segment(0, most as u32 + 1, 0)]), status::IOERR);
        }
        assert_eq!(image.read(0, 8), sectors(0, 8), "a bad request had an effect");
        assert_eq!(image.file().metadata().unwrap().len(), SIZE);
        assert_eq!(send(lane, kind, &[segment(SECTORS - 8, 8, 0)]), status::OK);
        still_serves(lane);
    }
}

#[test]
fn ranges_within_a_block_are_errors() {
    let (_image, _daemon, mut guest) = disk(&["--block-size", "4096"]);
    let lane = guest.lane();
    for (sector, count) in [(1, 8), (0, 1), (0, 9), (4, 8)] {
        assert_eq!(
            send(lane, kind::WRITE_ZEROES, &[segment(sector, count, 0)]),
            status::IOERR
        );
    }
    assert_eq!(read(lane, 0, 16), sectors(0, 16));
    assert_eq!(send(lane, kind::WRITE_ZEROES, &[segment(8, 8, 0)]), status::OK);
    assert_eq!(read(lane, 8, 8), vec![0; 8 * SECTOR]);
}

#[test]
fn a_range_of_nothing_changes_nothing() {
    let (_image, _daemon, mut guest) = disk(&[]);
    let lane = guest.lane();
    for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
        assert_ne!(send(lane, kind, &[segment(0, 0, 0)]), status::UNSUPP);
    }
    assert_eq!(read(lane, 0, 8), sectors(0, 8));
}

#[test]
fn a_write_into_a_hole_fills_it() {
    let (image, _daemon, mut guest) = disk(&[]);
    let lane = guest.lane();
    assert_eq!(send(lane, kind::DISCARD, &[segment(64, 64, 0)]), status::OK);
    assert_eq!(write(lane, 70, &sectors(70, 3)), status::OK);
    assert_eq!(read(lane, 70, 3), sectors(70, 3));
    assert_eq!(image.read(70, 3), sectors(70, 3));
}
