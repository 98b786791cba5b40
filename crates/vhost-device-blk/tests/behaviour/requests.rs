// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests in every shape, good and bad, seen by a driver over the real socket of the real daemon.

use crate::support::{
    Image, SECTORS, SIZE, ask, ask_as, config, flush, guest, offset, options, read, request, sectors, spawn,
    still_serves, try_read, write,
};
use vu_testkit::chains::{Descriptor, Framing, Placement, Request};
use vu_testkit::devices::FILL;
use vu_testkit::devices::blk::{ID_LEN, SECTOR, feature, header, kind, status};
use vu_testkit::guest::{ADJACENT, ADJACENT_SIZE, Lane};

const MEMORY: [&str; 2] = ["--memory", "16M"];

/// Sends a chain of such lengths of readable and writable pieces; gives the used length and the writable bytes.
fn pieces(lane: &mut Lane, readable: &[&[u8]], writable: &[usize]) -> (u32, Vec<u8>) {
    let mut chain = Vec::new();
    let mut places = Vec::new();
    for bytes in readable {
        let addr = lane.allocate(bytes.len() as u64 + 1, 1);
        lane.memory.write(addr, bytes);
        chain.push(Descriptor::readable(addr, bytes.len() as u32));
    }
    for len in writable {
        let addr = lane.allocate(*len as u64 + 1, 1);
        lane.memory.write(addr, &vec![FILL; *len]);
        places.push((addr, *len));
        chain.push(Descriptor::writable(addr, *len as u32));
    }
    lane.queue.add(&chain, None);
    lane.queue.submit();
    let used = lane.queue.wait(lane.end()).unwrap();
    let mut answer = Vec::new();
    for (addr, len) in places {
        let mut bytes = vec![0; len];
        lane.memory.read(addr, &mut bytes);
        answer.extend(bytes);
    }
    (used.len, answer)
}

#[test]
fn sectors_up_to_the_last_are_served_and_none_beyond() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    for (sector, count) in [(0, 1), (SECTORS - 1, 1), (SECTORS - 8, 8)] {
        assert_eq!(write(lane, sector, &sectors(sector, count)), status::OK);
        assert_eq!(read(lane, sector, count), sectors(sector, count));
    }
    let top = u64::MAX / SECTOR as u64;
    for (sector, count) in [
        (SECTORS, 1),
        (SECTORS - 1, 2),
        (SECTORS - 7, 8),
        (top, 1),
        (top + 1, 1),
        (top + 1 + 5, 1), // wraps to sector 5 when it becomes bytes
        (1 << 55, 1),
        (1 << 63, 1),
        (u64::MAX, 1),
        (u64::MAX - 1, 4),
    ] {
        assert_eq!(
            write(lane, sector, &vec![0xee; count * SECTOR]),
            status::IOERR,
            "write at {sector:#x}"
        );
        assert_eq!(
            try_read(lane, sector, count).status,
            status::IOERR,
            "read at {sector:#x}"
        );
    }
    assert_eq!(read(lane, SECTORS - 8, 8), sectors(SECTORS - 8, 8));
    assert_eq!(read(lane, 0, 1), sectors(0, 1));
}

#[test]
fn a_length_that_is_no_number_of_sectors_is_an_error_and_changes_nothing() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    assert_eq!(write(lane, 0, &sectors(0, 4)), status::OK);
    for len in [1, 2, 15, 511, 513, 1000, 1025, 2047] {
        let refused = ask(lane, kind::OUT, 0, &vec![0xee; len], 1);
        assert_eq!(
            (refused.status, refused.used <= 1),
            (status::IOERR, true),
            "{len} bytes"
        );
        assert_eq!(
            ask(lane, kind::IN, 0, &[], len + 1).status,
            status::IOERR,
            "{len} bytes"
        );
    }
    assert_eq!(read(lane, 0, 4), sectors(0, 4));
}

#[test]
fn nothing_to_move_is_answered() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    for kind in [kind::IN, kind::OUT] {
        let status = ask(guest.lane(), kind, 0, &[], 1).status;
        assert!([status::OK, status::IOERR].contains(&status), "status {status}");
    }
    still_serves(guest.lane());
}

#[test]
fn with_larger_blocks_a_request_covers_whole_blocks() {
    let daemon = spawn(&[&MEMORY[..], &["--block-size", "4096"]].concat());
    let mut guest = guest(&daemon.socket());
    assert_eq!(config(&guest.front, offset::BLK_SIZE, 4), 4096);
    let lane = guest.lane();
    assert_eq!(write(lane, 16, &sectors(16, 16)), status::OK);
    assert_eq!(read(lane, 24, 8), sectors(24, 8));
    for (sector, count) in [(16, 1), (17, 8), (16, 7), (16, 9), (23, 1)] {
        assert_eq!(
            write(lane, sector, &vec![0xee; count * SECTOR]),
            status::IOERR,
            "{count} at {sector}"
        );
        assert_eq!(
            try_read(lane, sector, count).status,
            status::IOERR,
            "{count} at {sector}"
        );
    }
    assert_eq!(read(lane, 16, 16), sectors(16, 16));
}

#[test]
fn the_framing_of_header_data_and_status_does_not_matter() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    let data = sectors(7, 2);
    let (out, whole_in) = (header(kind::OUT, 7), header(kind::IN, 7));
    let bytes: Vec<&[u8]> = out.chunks(1).collect();
    let head = [&out[..], &data[..100]].concat();
    let writes: [Vec<&[u8]>; 5] = [
        vec![&out, &data],
        [bytes.as_slice(), &[&data]].concat(),
        [bytes.as_slice(), &data.chunks(64).collect::<Vec<_>>()].concat(),
        vec![&head, &data[100..]],
        vec![
            &out[..3],
            &out[3..15],
            &out[15..],
            &data[..1],
            &data[1..1023],
            &data[1023..],
        ],
    ];
    for (number, readable) in writes.iter().enumerate() {
        assert_eq!(write(lane, 7, &[0xee; 2 * SECTOR]), status::OK);
        assert_eq!(
            pieces(lane, readable, &[1]),
            (1, vec![status::OK]),
            "write {number}"
        );
        assert_eq!(read(lane, 7, 2), data, "after write {number}");
    }
    let bytes: Vec<&[u8]> = whole_in.chunks(1).collect();
    for writable in [
        vec![1025],
        vec![1024, 1],
        vec![1023, 2],
        vec![1, 1024],
        vec![100, 412, 13, 499, 1],
        [vec![32; 32], vec![1]].concat(),
    ] {
        for readable in [&[&whole_in[..]][..], &bytes] {
            let (used, answer) = pieces(lane, readable, &writable);
            assert_eq!(used, 1025, "a read into {writable:?}");
            assert_eq!(
                answer,
                [&data[..], &[status::OK]].concat(),
                "a read into {writable:?}"
            );
        }
    }
}

#[test]
fn every_request_may_be_cut_anywhere_and_stand_in_an_indirect_table() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    let data = sectors(3, 1);
    let mut id = vec![];
    for placement in [Placement::Direct, Placement::Indirect, Placement::IndirectTail] {
        for cut in (1..=17).chain([100, 527, 528, 529]) {
            let framing = Framing::SplitAt(cut);
            let out = request(kind::OUT, 3, &data, 1);
            assert_eq!(
                ask_as(lane, out, framing, placement).status,
                status::OK,
                "{cut} {placement:?}"
            );
            let back = ask_as(lane, request(kind::IN, 3, &[], SECTOR + 1), framing, placement);
            assert_eq!(
                (back.status, &back.data),
                (status::OK, &data),
                "{cut} {placement:?}"
            );
            let flushed = ask_as(
                lane,
                request(kind::FLUSH, 0, &[], 1),
                Framing::Pieces(1),
                placement,
            );
            assert_eq!(flushed.status, status::OK);
            let named = ask_as(
                lane,
                request(kind::GET_ID, 0, &[], ID_LEN + 1),
                Framing::Pieces(1),
                placement,
            );
            assert_eq!(named.status, status::OK);
            assert!(id.is_empty() || id == named.data);
            id = named.data;
        }
    }
}

#[test]
fn data_may_cross_from_one_region_of_memory_into_another() {
    let image = Image::new(SIZE);
    let daemon = image.spawn(&[]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    for before in [1, 15, 16, 17, 300, 511, 4096] {
        lane.use_buffers(ADJACENT - before, ADJACENT_SIZE / 2);
        assert_eq!(write(lane, before, &sectors(before, 16)), status::OK);
        assert_eq!(image.read(before, 16), sectors(before, 16));
        // Readable bytes come first in memory: put the writable ones over the seam as well.
        lane.use_buffers(ADJACENT - before - 19, ADJACENT_SIZE / 2);
        assert_eq!(read(lane, before, 16), sectors(before, 16));
    }
}

#[test]
fn without_a_byte_for_the_status_the_request_comes_back_empty() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    assert_eq!(write(lane, 0, &sectors(0, 1)), status::OK);
    for kind in [kind::IN, kind::OUT, kind::FLUSH, kind::GET_ID, kind::DISCARD, 99] {
        let (used, _) = pieces(lane, &[&header(kind, 0), &[0xee; SECTOR]], &[]);
        assert_eq!(used, 0, "type {kind}");
    }
    assert_eq!(pieces(lane, &[&[1]], &[]).0, 0);
    still_serves(lane);
}

#[test]
fn a_request_that_breaks_off_in_its_header_is_an_error() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    for len in 1..16 {
        let (used, answer) = pieces(lane, &[&header(kind::FLUSH, 0)[..len]], &[1]);
        assert!(
            (used, answer[0]) == (1, status::IOERR) || (used, answer[0]) == (0, FILL),
            "{len} bytes of a header: used length {used}, status {}",
            answer[0]
        );
    }
    let (used, answer) = pieces(lane, &[], &[SECTOR + 1]);
    assert!(used as usize <= SECTOR + 1);
    assert_ne!(answer[SECTOR], status::OK);
    still_serves(lane);
}

#[test]
fn types_that_are_unknown_or_not_offered_are_unsupported() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    assert_eq!(guest.offered & (feature::ZONED | feature::SECURE_ERASE), 0);
    let lane = guest.lane();
    let zones = [15, 16, 17, 18, 20, 22, 24, 26];
    for kind in [
        2,
        3,
        5,
        6,
        7,
        9,
        12,
        27,
        255,
        0x100,
        0x8000_0000,
        0x8000_0001,
        u32::MAX,
    ]
    .into_iter()
    .chain(zones)
    .chain([kind::SECURE_ERASE])
    {
        for (payload, writable) in [(0, 1), (0, SECTOR + 1), (SECTOR, 1)] {
            let answer = ask(lane, kind, 0, &vec![0xee; payload], writable);
            assert_eq!(
                answer.status,
                status::UNSUPP,
                "type {kind:#x}, {payload} and {writable} bytes"
            );
        }
    }
    still_serves(lane);
}

#[test]
fn the_serial_number_is_told_in_twenty_bytes() {
    for (serial, expected) in [
        ("disk-1", *b"disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("12345678901234567890", *b"12345678901234567890"),
    ] {
        let daemon = spawn(&[&MEMORY[..], &["--serial", serial]].concat());
        let mut guest = guest(&daemon.socket());
        let answer = ask(guest.lane(), kind::GET_ID, 0, &[], ID_LEN + 1);
        assert_eq!((answer.status, answer.data), (status::OK, expected.to_vec()));
        assert_eq!(answer.used as usize, ID_LEN + 1);
    }
}

#[test]
fn a_buffer_of_another_length_gets_no_more_of_the_serial_number_than_fits() {
    let daemon = spawn(&[&MEMORY[..], &["--serial", "12345678901234567890"]].concat());
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    for len in [0, 1, 19, 21, 64, 4096] {
        let answer = ask(lane, kind::GET_ID, 0, &[], len + 1);
        let right = &b"12345678901234567890"[..len.min(ID_LEN)];
        let served = answer.status == status::OK && answer.data.starts_with(right);
        assert!(
            served || answer.status == status::IOERR,
            "{len} bytes: {answer:?}"
        );
    }
    still_serves(lane);
}

#[test]
fn as_many_segments_of_data_as_offered_are_served_and_more_do_no_harm() {
    let daemon = spawn(&MEMORY);
    let mut guest = crate::support::guest_with(
        &daemon.socket(),
        1,
        &vu_testkit::guest::Options {
            size: 1024,
            ..options()
        },
    );
    let most = config(&guest.front, offset::SEG_MAX, 4) as usize;
    assert!((1..=1022).contains(&most), "seg_max is {most}");
    let lane = guest.lane();
    for count in [most / 8, 125, 1000].map(|sectors| 8 * sectors) {
        let data = sectors(0, count / 8);
        let (framing, placement) = (Framing::Pieces(SECTOR / 8), Placement::Indirect);
        let out = ask_as(lane, request(kind::OUT, 0, &data, 1), framing, placement);
        let back = ask_as(
            lane,
            request(kind::IN, 0, &[], data.len() + 1),
            framing,
            placement,
        );
        if count <= most {
            assert_eq!(
                (out.status, back.status),
                (status::OK, status::OK),
                "{count} segments"
            );
        }
        assert!(
            [status::OK, status::IOERR, FILL].contains(&out.status),
            "{count} segments"
        );
        assert!(back.status != status::OK || back.data == data, "{count} segments");
        still_serves(lane);
    }
}

#[test]
fn a_disk_that_is_read_only_takes_nothing() {
    let image = Image::full(SIZE);
    let daemon = image.spawn(&["--read-only"]);
    let mut guest = guest(&daemon.socket());
    assert_ne!(guest.offered & feature::RO, 0);
    let lane = guest.lane();
    assert_eq!(read(lane, 5, 9), sectors(5, 9));
    let segment = vu_testkit::devices::blk::segment(0, 8, 0);
    assert_eq!(write(lane, 0, &[0; SECTOR]), status::IOERR);
    for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
        assert_ne!(ask(lane, kind, 0, &segment, 1).status, status::OK);
    }
    assert_eq!(flush(lane), status::OK);
    assert_eq!(image.read(0, 16), sectors(0, 16));
    let flags = crate::support::open_flags(&daemon, &image.path);
    assert_eq!(flags & 0o3, 0, "the image is open with flags {flags:#o}");
}

#[test]
fn junk_of_any_length_comes_back() {
    let daemon = spawn(&MEMORY);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    assert_eq!(write(lane, 0, &sectors(0, 1)), status::OK);
    for len in [1, 15, 16, 17, 31, 32, 512, 528, 5000] {
        for writable in [1, 2, 21, 513, 5000] {
            let readable = vec![0xff; len];
            let answer = ask_as(
                lane,
                Request { readable, writable },
                Framing::Whole,
                Placement::Direct,
            );
            assert_ne!(answer.status, status::OK, "{len} bytes of junk");
        }
    }
    assert_eq!(read(lane, 0, 1), sectors(0, 1));
}
