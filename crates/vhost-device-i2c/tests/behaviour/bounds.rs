// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lengths that are too much.

use std::time::{Duration, Instant};

use vu_testkit::chains::{Descriptor, Request};
use vu_testkit::devices::i2c::flag::FAIL_NEXT;
use vu_testkit::devices::i2c::{read, write};
use vu_testkit::driver::write_indirect;
use vu_testkit::guest::{BUFFERS, BUFFERS_SIZE};
use vu_testkit::process::resident;

use crate::support::{ERR, OK, ask, daemon, guest, statuses};

const MIB: u64 = 1 << 20;

#[test]
fn a_read_of_4_gib_is_an_error() {
    let daemon = daemon(&["--bus", "sim:regs@0x20"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    assert_eq!(statuses(lane, &[read(0x20, 0, 8192)]), [OK]);
    let before = resident(daemon.pid()).unwrap();
    let start = Instant::now();

    // The same 4 MiB a thousand times over, and then the status.
    let table = lane.allocate(16 * 1024, 16);
    let header = lane.allocate(8, 1);
    lane.memory.write(header, &read(0x20, 0, 0).readable);
    let status = lane.allocate(1, 1);
    lane.memory.write(status, &[0xa5]);
    let mut chain = vec![Descriptor::readable(header, 8)];
    chain.extend([Descriptor::writable(BUFFERS + BUFFERS_SIZE / 2, 4 << 20); 1022]);
    chain.push(Descriptor::writable(status, 1));
    let indirect = write_indirect(&lane.memory, table, &chain);
    lane.queue.add(&[indirect], Some(1022 * (4 << 20) + 1));
    lane.queue.submit();
    // Only the status was written, so no byte from the start on is valid.
    assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 0);
    let mut answer = [0xa5];
    lane.memory.read(status, &mut answer);
    assert_eq!(answer, [ERR]);

    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let grown = resident(daemon.pid()).unwrap().saturating_sub(before);
    assert!(grown < MIB, "{grown} bytes more");
    assert_eq!(statuses(lane, &[read(0x20, 0, 1)]), [OK]);
}

#[test]
fn a_message_has_as_many_bytes_as_the_option_says() {
    for (args, most) in [
        (&[][..], 8192),
        (&["--max-message", "100"], 100),
        (&["--max-message", "65535"], 65535),
    ] {
        let daemon = daemon(&[&["--bus", "sim:regs@0x20"], args].concat());
        let mut guest = guest(&daemon.socket());
        let lane = guest.lane();
        let requests = [
            write(0x20, 0, &vec![7; most]),
            write(0x20, 0, &vec![9; most + 1]),
            write(0x20, 0, &[7]),
            read(0x20, 0, most),
        ];
        let answers = ask(lane, &requests);
        let status: Vec<_> = answers.iter().map(|(status, _)| *status).collect();
        assert_eq!(status, [OK, ERR, OK, OK]);
        assert_eq!((answers[3].1.len(), answers[3].1[0]), (most, 7));
        // Up to there, what is not read is zero.
        if most < 65535 {
            assert_eq!(ask(lane, &[read(0x20, 0, most + 1)]), [(ERR, vec![0; most + 1])]);
        }
    }
}

#[test]
fn a_ring_full_of_the_longest_messages_stays_small() {
    let daemon = daemon(&["--bus", "sim:regs@0x20"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    assert_eq!(statuses(lane, &[write(0x20, 0, &[0])]), [OK]);
    let before = resident(daemon.pid()).unwrap();
    for _ in 0..20 {
        // One group of 21 reads.
        let requests: Vec<Request> = (0..21)
            .map(|at| read(0x20, if at < 20 { FAIL_NEXT } else { 0 }, 8192))
            .collect();
        assert_eq!(statuses(lane, &requests), [OK; 21]);
    }
    let grown = resident(daemon.pid()).unwrap().saturating_sub(before);
    assert!(grown < 2 * MIB, "{grown} bytes more");
}
