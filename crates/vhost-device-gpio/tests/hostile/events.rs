// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers on the event queue, and what may end them.

use vu_testkit::chains::{Framing, Placement};
use vu_testkit::devices::gpio::{LINES, direction, event, irq, irq_status, kind, message};

use crate::support::{Rig, ask, raw};

#[test]
fn buffers_for_lines_that_cannot_interrupt_come_back_at_once() {
    let mut rig = Rig::new();
    for line in [0, 7, LINES, 0x100, u16::MAX] {
        let pending = rig.park(line);
        assert_eq!(rig.back(&pending), irq_status::INVALID, "line {line}");
    }
    for (readable, writable, used) in [(0, 1, 1), (1, 1, 1), (0, 0, 0), (1, 9, 1), (2, 0, 0), (64, 1, 1)] {
        if readable + writable == 0 {
            continue; // a chain has at least one descriptor
        }
        let (len, answer) = ask(rig.events(), raw(&vec![0xff; readable], writable));
        assert_eq!(len, used, "{readable} readable, {writable} writable");
        assert!(answer.first().is_none_or(|status| *status == irq_status::INVALID));
    }
    rig.still_serves();
}

#[test]
fn a_flood_of_invalid_lines_does_not_keep_a_good_one_from_interrupting() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.arm(1, irq::EDGE_BOTH);
    let good = rig.park(1);
    for round in 0..200 {
        let lane = rig.events();
        let place =
            |number: u16| lane.place(event(LINES + number * 0x400), Framing::Whole, Placement::Direct);
        let flood: Vec<_> = (0..30).map(place).collect();
        lane.queue.submit();
        for _ in &flood {
            let used = lane.queue.wait(lane.end()).unwrap();
            assert_eq!(used.len, 1, "round {round}");
            let found = flood.iter().find(|pending| u32::from(pending.head) == used.id);
            assert_eq!(
                lane.answer(found.expect("one of the flood"))[0],
                irq_status::INVALID
            );
        }
    }
    rig.tell(kind::SET_VALUE, 0, 1);
    assert_eq!(rig.back(&good), irq_status::VALID);
    assert!(
        rig.daemon.log().lines() < 100,
        "{} lines",
        rig.daemon.log().lines()
    );
    rig.still_serves();
}

#[test]
fn of_two_buffers_for_a_line_each_comes_back_once() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.arm(1, irq::EDGE_RISING);
    for _ in 0..20 {
        let first = rig.park(1);
        let second = rig.park(1);
        let used = rig.next();
        let (early, late) = if used.id == u32::from(first.head) {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!((used.id, used.len), (early.head.into(), 1));
        assert_eq!(rig.events().answer(&early)[0], irq_status::INVALID);
        rig.tell(kind::SET_VALUE, 0, 1);
        assert_eq!(rig.back(&late), irq_status::VALID);
        rig.tell(kind::SET_VALUE, 0, 0);
        rig.quiet();
    }
    rig.still_serves();
}

#[test]
fn changing_the_trigger_or_the_direction_while_a_buffer_is_parked_does_not_lose_it() {
    let mut rig = Rig::new();
    let table: [&[(u16, u32)]; 7] = [
        &[(kind::SET_IRQ_TYPE, irq::NONE)],
        &[(kind::SET_DIRECTION, direction::NONE)],
        &[
            (kind::SET_IRQ_TYPE, irq::EDGE_FALLING),
            (kind::SET_IRQ_TYPE, irq::NONE),
        ],
        &[
            (kind::SET_IRQ_TYPE, irq::LEVEL_HIGH),
            (kind::SET_DIRECTION, direction::NONE),
        ],
        &[
            (kind::SET_DIRECTION, direction::IN),
            (kind::SET_IRQ_TYPE, irq::NONE),
        ],
        &[
            (kind::SET_DIRECTION, direction::OUT),
            (kind::SET_IRQ_TYPE, irq::NONE),
        ],
        &[
            (kind::SET_DIRECTION, direction::OUT),
            (kind::SET_VALUE, 1),
            (kind::SET_VALUE, 0),
            (kind::SET_DIRECTION, direction::NONE),
        ],
    ];
    for messages in table {
        rig.arm(7, irq::EDGE_RISING);
        let pending = rig.park(7);
        rig.quiet();
        for (kind, value) in messages {
            // Some of these are mistakes of the driver, which may be refused.
            rig.ask(*kind, 7, *value);
        }
        let used = rig.next();
        assert_eq!((used.id, used.len), (pending.head.into(), 1), "{messages:?}");
        rig.tell(kind::SET_DIRECTION, 7, direction::NONE);
        rig.quiet();
    }
    rig.still_serves();
}

#[test]
fn a_level_comes_back_with_each_unmasking_for_as_long_as_it_lasts() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    for (trigger, active) in [(irq::LEVEL_HIGH, 1), (irq::LEVEL_LOW, 0)] {
        rig.tell(kind::SET_VALUE, 0, 1 - active);
        rig.arm(1, trigger);
        let pending = rig.park(1);
        rig.quiet();
        rig.tell(kind::SET_VALUE, 0, active);
        assert_eq!(rig.back(&pending), irq_status::VALID);
        for _ in 0..50 {
            let pending = rig.park(1);
            assert_eq!(rig.back(&pending), irq_status::VALID, "still active");
        }
        rig.tell(kind::SET_VALUE, 0, 1 - active);
        let pending = rig.park(1);
        rig.quiet();
        rig.tell(kind::SET_IRQ_TYPE, 1, irq::NONE);
        assert_eq!(rig.back(&pending), irq_status::INVALID);
    }
    rig.still_serves();
}

#[test]
fn twenty_thousand_edges_while_the_line_is_read_lose_none() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.arm(1, irq::EDGE_BOTH);
    for number in 0..20_000_u32 {
        let pending = rig.park(1);
        let level = 1 - number % 2;
        // The edge, and reads of the line at the same time.
        let lane = rig.guest.lane();
        for request in [
            message(kind::GET_VALUE, 1, 0),
            message(kind::SET_VALUE, 0, level),
            message(kind::GET_VALUE, 1, 0),
        ] {
            lane.place(request, Framing::Whole, Placement::Direct);
        }
        lane.queue.submit();
        assert_eq!(lane.queue.wait_all(lane.end()).unwrap().len(), 3);
        assert_eq!(rig.back(&pending), irq_status::VALID, "edge {number}");
    }
    // While it is masked, one edge is kept, however many there were.
    for level in [1, 0, 1, 0] {
        rig.tell(kind::SET_VALUE, 0, level);
    }
    let pending = rig.park(1);
    assert_eq!(rig.back(&pending), irq_status::VALID);
    let pending = rig.park(1);
    rig.quiet();
    rig.tell(kind::SET_IRQ_TYPE, 1, irq::NONE);
    assert_eq!(rig.back(&pending), irq_status::INVALID);
    rig.still_serves();
}
