// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parked buffers when the ring stops, the daemon is killed, or the guest leaves.

use vu_testkit::devices::gpio::{EVENTQ, direction, irq, irq_status, kind, status};
use vu_testkit::guest::{Options, Pending};

use crate::support::{Rig, connect};

/// Has buffers parked for the lines 6, 1, 3 and 7, and the one of line 1, which was not the first, come back.
fn one_of_four(rig: &mut Rig) -> Vec<Pending> {
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    for line in [6, 1, 3, 7] {
        rig.arm(line, irq::EDGE_BOTH);
    }
    let mut parked: Vec<_> = [6, 1, 3, 7].map(|line| rig.park(line)).to_vec();
    rig.quiet();
    rig.tell(kind::SET_VALUE, 0, 1);
    let done = parked.remove(1);
    assert_eq!(rig.back(&done), irq_status::VALID);
    parked
}

/// Waits for all of these, each once, and for no other; none of them says that its line interrupted.
fn all_back(rig: &mut Rig, parked: &[Pending]) {
    let mut missing: Vec<u16> = parked.iter().map(|pending| pending.head).collect();
    for _ in parked {
        let used = rig.next();
        let at = missing.iter().position(|head| u32::from(*head) == used.id);
        missing.swap_remove(at.expect("a buffer that was parked"));
        assert_eq!(used.len, 1);
    }
    rig.quiet();
    for pending in parked {
        assert_eq!(rig.events().answer(pending)[0], irq_status::INVALID);
    }
}

#[test]
fn a_stop_after_buffers_came_back_out_of_order_loses_and_repeats_none() {
    let mut rig = Rig::new();
    let parked = one_of_four(&mut rig);
    let base = rig.guest.front.get_vring_base(EVENTQ.into()).unwrap();
    // The driver goes on where the ring stands: what lies before it must have come back, what lies behind is taken.
    let base = u16::try_from(base).unwrap();
    rig.guest.start_ring(EVENTQ.into(), base).unwrap();
    rig.guest.enable(EVENTQ.into(), true).unwrap();
    for line in [6, 3, 7] {
        rig.tell(kind::SET_IRQ_TYPE, line, irq::NONE);
    }
    all_back(&mut rig, &parked);
    rig.still_serves();
}

#[test]
fn a_kill_after_buffers_came_back_out_of_order_loses_and_repeats_none() {
    let mut rig = Rig::with(Options {
        inflight: true,
        ..Options::default()
    });
    for _ in 0..6 {
        let parked = one_of_four(&mut rig);
        rig.daemon.restart().unwrap();
        let front = connect(&rig.daemon);
        rig.guest.reconnect(front).unwrap();
        // The new daemon knows of no interrupt that is enabled.
        all_back(&mut rig, &parked);
    }
    rig.still_serves();
}

#[test]
fn a_guest_that_leaves_with_buffers_parked_leaves_nothing_to_the_next() {
    let mut rig = Rig::new();
    for _ in 0..30 {
        rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
        for line in [6, 1, 3, 7] {
            rig.arm(line, irq::EDGE_BOTH);
            rig.park(line);
        }
        rig.tell(kind::SET_VALUE, 0, 1);
        rig.next_guest();
        assert_eq!(
            rig.ask(kind::GET_VALUE, 1, 0),
            (status::OK, 0),
            "the output was released"
        );
        let pending = rig.park(1);
        assert_eq!(
            rig.back(&pending),
            irq_status::INVALID,
            "its interrupt is not enabled"
        );
    }
    rig.still_serves();
}

/// What a monitor does to a machine that it pauses: the lines are as they were when it goes on.
#[test]
fn a_stop_of_both_queues_keeps_levels_triggers_and_buffers() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.tell(kind::SET_VALUE, 0, 1);
    rig.arm(1, irq::EDGE_BOTH);
    let mut parked = rig.park(1);
    for level in [0, 1, 0, 1] {
        // Whether or not the buffer is taken by now, it is the last one.
        let bases = [0, EVENTQ].map(|queue| rig.guest.front.get_vring_base(queue.into()).unwrap());
        for (queue, base) in bases.into_iter().enumerate() {
            rig.guest.start_ring(queue, u16::try_from(base).unwrap()).unwrap();
            rig.guest.enable(queue, true).unwrap();
        }
        assert_eq!(rig.ask(kind::GET_VALUE, 1, 0), (status::OK, 1 - level as u8));
        rig.tell(kind::SET_VALUE, 0, level);
        assert_eq!(rig.back(&parked), irq_status::VALID);
        parked = rig.park(1);
    }
    rig.still_serves();
}
