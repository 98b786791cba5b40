// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which requests become one transfer, and what becomes of a group that fails.

use vhost_device_i2c::MAX_GROUP;
use vu_testkit::chains::Placement;
use vu_testkit::devices::i2c::flag::FAIL_NEXT;
use vu_testkit::devices::i2c::{read, write};
use vu_testkit::guest::Options;

use crate::support::{
    ERR, LIMITS, OK, Recorder, ask, ask_placed, boot, daemon, device, got, guest, guest_on, options,
    statuses, wrote,
};

#[test]
fn unrelated_requests_are_never_one_transfer() {
    for blocks in [false, true] {
        let bus = Recorder::new(blocks);
        let mut guest = guest_on(&bus, "");
        let requests = [
            write(0x20, 0, &[1, 2]),
            read(0x21, 0, 3),
            read(0x21, 0, 3),
            write(0x20, 0, &[4]),
        ];
        let answers = ask(guest.lane(), &requests);
        assert_eq!(
            answers,
            [(OK, vec![]), (OK, vec![2; 3]), (OK, vec![3; 3]), (OK, vec![])]
        );
        let transfers = [
            wrote(0x20, &[1, 2]),
            got(0x21, 3),
            got(0x21, 3),
            wrote(0x20, &[4]),
        ];
        assert_eq!(bus.take(), transfers.map(|message| vec![message]));
    }
}

/// An EEPROM writes when it sees a stop condition, and forgets what it got when it sees a start before.
#[test]
fn a_stop_condition_is_between_unrelated_requests_and_none_within_a_group() {
    let daemon = daemon(&["--bus", "sim:24c02@0x50"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    let unrelated = [write(0x50, 0, &[0x10, 1, 2]), write(0x50, 0, &[0x20, 3, 4])];
    assert_eq!(statuses(lane, &unrelated), [OK, OK]);
    let grouped = [
        write(0x50, FAIL_NEXT, &[0x30, 5, 6]),
        write(0x50, 0, &[0x40, 7, 8]),
    ];
    assert_eq!(statuses(lane, &grouped), [OK, OK]);
    for (at, bytes) in [(0x10, [1, 2]), (0x20, [3, 4]), (0x30, [0xff; 2]), (0x40, [7, 8])] {
        let answers = ask(lane, &[write(0x50, FAIL_NEXT, &[at]), read(0x50, 0, 2)]);
        assert_eq!(answers, [(OK, vec![]), (OK, bytes.to_vec())], "{at:#x}");
    }
}

#[test]
fn a_group_is_one_transfer() {
    for blocks in [false, true] {
        let bus = Recorder::new(blocks);
        let mut guest = guest_on(&bus, "");
        let requests = [
            write(0x20, FAIL_NEXT, &[1]),
            read(0x20, FAIL_NEXT, 2),
            read(0x21, 0, 4),
            write(0x22, FAIL_NEXT, &[7]),
            read(0x22, 0, 1),
        ];
        let answers = ask(guest.lane(), &requests);
        let data: Vec<_> = answers.iter().map(|(_, data)| data.as_slice()).collect();
        assert_eq!(data, [&[][..], &[1, 1], &[1, 1, 1, 1], &[], &[2]]);
        assert!(answers.iter().all(|(status, _)| *status == OK));
        let transfers = [
            vec![wrote(0x20, &[1]), got(0x20, 2), got(0x21, 4)],
            vec![wrote(0x22, &[7]), got(0x22, 1)],
        ];
        assert_eq!(bus.take(), transfers);
    }
}

#[test]
fn the_allow_list_is_checked_for_every_message() {
    let bus = Recorder::default();
    let mut guest = guest_on(&bus, "0x20");
    let requests = [write(0x20, 0, &[1]), write(0x21, 0, &[2]), read(0x20, 0, 1)];
    assert_eq!(statuses(guest.lane(), &requests), [OK, ERR, OK]);
    assert_eq!(bus.take(), [[wrote(0x20, &[1])], [got(0x20, 1)]]);
}

#[test]
fn nothing_of_a_group_with_a_forbidden_message_is_sent() {
    let bus = Recorder::default();
    let mut guest = guest_on(&bus, "0x20");
    for forbidden in 0..3 {
        let mut group = [
            write(0x20, FAIL_NEXT, &[1]),
            read(0x20, FAIL_NEXT, 1),
            write(0x20, 0, &[2]),
        ];
        group[forbidden].readable[0] = 0x21 << 1;
        assert_eq!(statuses(guest.lane(), &group), [ERR, ERR, ERR]);
        assert_eq!(bus.take().len(), 0);
    }
    assert_eq!(statuses(guest.lane(), &[write(0x20, 0, &[1])]), [OK]);
}

#[test]
fn nothing_of_a_group_with_a_malformed_request_is_sent() {
    let bus = Recorder::default();
    let mut guest = guest_on(&bus, "");
    for bad in 0..2 {
        let mut group = [
            write(0x20, FAIL_NEXT, &[1]),
            write(0x20, FAIL_NEXT, &[2]),
            read(0x20, 0, 1),
        ];
        // A write with a buffer for a read.
        group[bad].writable = 2;
        assert_eq!(statuses(guest.lane(), &group), [ERR, ERR, ERR]);
        assert_eq!(bus.take().len(), 0);
    }
}

#[test]
fn what_follows_a_failed_message_in_its_group_fails_unsent() {
    for blocks in [false, true] {
        let bus = Recorder::new(blocks);
        let mut guest = guest_on(&bus, "");
        let requests = [
            read(0x20, FAIL_NEXT, 1),
            read(0x30, FAIL_NEXT, 2),
            write(0x20, FAIL_NEXT, &[1]),
            read(0x20, 0, 3),
            read(0x20, 0, 1),
        ];
        let answers = ask(guest.lane(), &requests);
        // What a read did not get is zero.
        let expected = [
            (OK, vec![1]),
            (ERR, vec![0; 2]),
            (ERR, vec![]),
            (ERR, vec![0; 3]),
            (OK, vec![2]),
        ];
        assert_eq!(answers, expected);
        assert_eq!(bus.take(), [vec![got(0x20, 1), got(0x30, 2)], vec![got(0x20, 1)]]);
    }
}

#[test]
fn a_part_of_a_group_is_done_at_once_and_its_failure_is_kept_for_the_rest() {
    for blocks in [false, true] {
        let bus = Recorder::new(blocks);
        let mut guest = guest_on(&bus, "0x20,0x30");
        let lane = guest.lane();
        // Each is available only after the one before it was answered.
        for (request, status) in [
            (write(0x20, FAIL_NEXT, &[1]), OK),
            (read(0x20, 0, 1), OK),
            (write(0x30, FAIL_NEXT, &[2]), ERR),
            (write(0x20, FAIL_NEXT, &[3]), ERR),
            (read(0x20, 0, 1), ERR),
            (write(0x20, 0, &[4]), OK),
            (write(0x21, FAIL_NEXT, &[5]), ERR),
            (read(0x20, 0, 1), ERR),
            (write(0x30, 0, &[6]), ERR),
            (read(0x20, 0, 1), OK),
        ] {
            assert_eq!(statuses(lane, &[request]), [status]);
        }
        let transfers = [
            wrote(0x20, &[1]),
            got(0x20, 1),
            wrote(0x30, &[2]),
            wrote(0x20, &[4]),
            wrote(0x30, &[6]),
            got(0x20, 1),
        ];
        assert_eq!(bus.take(), transfers.map(|message| vec![message]));
    }
}

#[test]
fn a_new_connection_knows_nothing_of_a_failed_group() {
    let bus = Recorder::default();
    let device = device(&bus, "", LIMITS);
    for _ in 0..2 {
        let mut guest = boot(&device, &options());
        assert_eq!(statuses(guest.lane(), &[write(0x20, 0, &[1])]), [OK]);
        assert_eq!(statuses(guest.lane(), &[write(0x30, FAIL_NEXT, &[1])]), [ERR]);
    }
}

#[test]
fn a_group_that_the_bus_cannot_do_in_one_transfer_fails() {
    let group = |len: usize| {
        let mut requests = vec![write(0x20, FAIL_NEXT, &[1]); len];
        requests[len - 1] = read(0x20, 0, 1);
        requests
    };
    for (max_messages, most) in [(Some(1), 1), (Some(4), 4), (None, MAX_GROUP)] {
        let mut bus = Recorder::new(false);
        bus.max_messages = max_messages;
        let options = Options {
            size: 1024,
            ..options()
        };
        let mut guest = boot(&device(&bus, "", LIMITS), &options);
        let lane = guest.lane();
        assert_eq!(statuses(lane, &group(most)), vec![OK; most]);
        assert_eq!(bus.take().len(), 1);
        for len in [most + 1, most + 2, 3 * most] {
            assert_eq!(statuses(lane, &group(len.max(2))), vec![ERR; len.max(2)]);
        }
        assert_eq!(bus.take().len(), 0);
        assert_eq!(statuses(lane, &group(1)), [OK]);
    }
}

#[test]
fn a_full_ring_cuts_no_group() {
    for blocks in [false, true] {
        let bus = Recorder::new(blocks);
        let options = Options {
            size: 4096,
            ..options()
        };
        let mut guest = boot(&device(&bus, "", LIMITS), &options);
        let group = [
            write(0x20, FAIL_NEXT, &[1]),
            write(0x20, FAIL_NEXT, &[2]),
            read(0x20, 0, 1),
        ];
        let answers = ask_placed(guest.lane(), &vec![group; 1365].concat(), Placement::Indirect);
        assert!(answers.iter().all(|(status, _)| *status == OK));
        let transfers = bus.take();
        assert_eq!(transfers.len(), 1365);
        assert!(transfers.iter().all(|transfer| transfer.len() == 3));
    }
}

/// QEMU's ring. The driver of Linux makes what fits available, and waits for that.
#[test]
fn a_ring_of_four_entries_is_enough() {
    let bus = Recorder::default();
    let options = Options { size: 4, ..options() };
    let mut guest = boot(&device(&bus, "", LIMITS), &options);
    let lane = guest.lane();
    let group = [
        write(0x20, FAIL_NEXT, &[1]),
        read(0x20, FAIL_NEXT, 1),
        write(0x20, FAIL_NEXT, &[2]),
        read(0x20, FAIL_NEXT, 1),
    ];
    let answers = ask_placed(lane, &group, Placement::Indirect);
    assert!(answers.iter().all(|(status, _)| *status == OK));
    let transfer = [wrote(0x20, &[1]), got(0x20, 1), wrote(0x20, &[2]), got(0x20, 1)];
    assert_eq!(bus.take(), [transfer]);
    // Without indirect descriptors there is room for one request.
    assert_eq!(ask(lane, &group[..1]), [(OK, vec![])]);
    assert_eq!(ask(lane, &[read(0x20, 0, 2)]), [(OK, vec![3; 2])]);
    assert_eq!(bus.take(), [[wrote(0x20, &[1])], [got(0x20, 2)]]);
}
