// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts: edges, levels, masks, and what they may not do to the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vu_testkit::devices::gpio::{direction, gpio, irq, irq_status, kind, status};
use vu_testkit::process::{cpu_time, open_fds};

use crate::support::{PAIR, Rig, WithoutInterrupts, ask, back, guest_of, threads, unmask};

#[test]
fn an_edge_during_a_read_does_not_deadlock() {
    let mut rig = Rig::new(PAIR);
    rig.arm(3, irq::EDGE_BOTH);
    let mut control = rig.control();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                control.tell("toggle 3");
            }
        });
        let mut pending = rig.unmask(3);
        for _ in 0..500 {
            for _ in 0..10 {
                rig.value(3);
            }
            rig.interrupted(&pending);
            pending = rig.unmask(3);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let level = rig.control().ask("get 3");
    assert_eq!(rig.value(3).to_string(), level);
}

#[test]
fn a_read_of_an_armed_line_does_not_wait_for_its_edge() {
    let mut rig = Rig::new(PAIR);
    for line in 0..8 {
        rig.arm(line, irq::EDGE_BOTH);
        rig.unmask(line);
    }
    let start = Instant::now();
    for line in (0..8).cycle().take(400) {
        assert_eq!(rig.value(line), 0);
    }
    // Far more than it takes, and far less than 400 waits of a second, or a tenth of one.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn thread_count_does_not_depend_on_armed_lines() {
    let mut rig = Rig::new("lines = 32");
    let pid = rig.daemon.pid();
    rig.value(0);
    let before = (threads(&rig.daemon), open_fds(pid).unwrap());
    for line in 0..32 {
        rig.arm(line, irq::EDGE_BOTH);
        rig.unmask(line);
    }
    assert_eq!((threads(&rig.daemon), open_fds(pid).unwrap()), before);
}

#[test]
fn armed_lines_that_are_quiet_cost_no_cpu_time() {
    let mut rig = Rig::new("lines = 32");
    for line in 0..32 {
        rig.arm(line, irq::LEVEL_HIGH);
        rig.unmask(line);
    }
    rig.quiet();
    let (start, before) = (Instant::now(), cpu_time(rig.daemon.pid()).unwrap());
    while start.elapsed() < Duration::from_millis(500) {
        std::thread::yield_now();
    }
    let spent = cpu_time(rig.daemon.pid()).unwrap() - before;
    assert!(spent < Duration::from_millis(20), "{spent:?}");
}

#[test]
fn every_edge_that_the_driver_waits_for_arrives() {
    let mut rig = Rig::new(PAIR);
    let mut control = rig.control();
    for (trigger, level) in [(irq::EDGE_RISING, 1), (irq::EDGE_FALLING, 0)] {
        rig.arm(5, trigger);
        for _ in 0..300 {
            control.tell(&format!("set 5 {}", 1 - level));
            let pending = rig.unmask(5);
            rig.quiet();
            control.tell(&format!("set 5 {level}"));
            rig.interrupted(&pending);
        }
        rig.tell(kind::SET_IRQ_TYPE, 5, irq::NONE);
    }
}

#[test]
fn edges_while_it_is_masked_are_told_once() {
    let mut rig = Rig::new(PAIR);
    let mut control = rig.control();
    rig.arm(3, irq::EDGE_RISING);
    for _ in 0..20 {
        control.tell("toggle 3");
    }
    // The edges are with the worker when it has answered this.
    rig.quiet();
    let pending = rig.unmask(3);
    rig.interrupted(&pending);
    let pending = rig.unmask(3);
    rig.quiet();
    rig.tell(kind::SET_IRQ_TYPE, 3, irq::NONE);
    rig.invalid(&pending);
}

#[test]
fn a_disabled_interrupt_forgets_its_edges() {
    let mut rig = Rig::new(PAIR);
    let mut control = rig.control();
    rig.arm(3, irq::EDGE_RISING);
    control.tell("set 3 1");
    rig.tell(kind::SET_IRQ_TYPE, 3, irq::NONE);
    rig.tell(kind::SET_IRQ_TYPE, 3, irq::EDGE_RISING);
    let pending = rig.unmask(3);
    rig.quiet();
    control.tell("toggle 3");
    control.tell("toggle 3");
    rig.interrupted(&pending);
}

#[test]
fn a_level_interrupts_for_as_long_as_it_lasts_and_no_longer() {
    let mut rig = Rig::new(PAIR);
    let mut control = rig.control();
    for (trigger, active) in [(irq::LEVEL_HIGH, 1), (irq::LEVEL_LOW, 0)] {
        control.tell(&format!("set 3 {}", 1 - active));
        rig.arm(3, trigger);
        let pending = rig.unmask(3);
        rig.quiet();
        control.tell(&format!("set 3 {active}"));
        rig.interrupted(&pending);
        for _ in 0..3 {
            let pending = rig.unmask(3);
            rig.interrupted(&pending);
        }
        // While it is masked, it comes and goes and is not kept.
        control.tell("toggle 3");
        control.tell("toggle 3");
        control.tell("toggle 3");
        let pending = rig.unmask(3);
        rig.quiet();
        rig.tell(kind::SET_IRQ_TYPE, 3, irq::NONE);
        rig.invalid(&pending);
    }
}

#[test]
fn an_output_does_not_interrupt_and_a_line_that_interrupts_is_no_output() {
    let mut rig = Rig::new(PAIR);
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.refused(kind::SET_IRQ_TYPE, 0, irq::EDGE_BOTH);
    rig.arm(3, irq::EDGE_BOTH);
    rig.refused(kind::SET_DIRECTION, 3, direction::OUT);
    let pending = rig.unmask(3);
    rig.control().tell("toggle 3");
    rig.interrupted(&pending);
}

#[test]
fn a_line_interrupts_whose_direction_was_never_set() {
    let mut rig = Rig::new(PAIR);
    rig.tell(kind::SET_IRQ_TYPE, 3, irq::EDGE_BOTH);
    let pending = rig.unmask(3);
    rig.control().tell("toggle 3");
    rig.interrupted(&pending);
}

#[test]
fn without_the_feature_nothing_interrupts() {
    let rig = Rig::new(PAIR);
    let Rig { guest, daemon, .. } = &rig;
    assert_ne!(guest.features & 1, 0, "the usual driver takes it");
    let daemon = daemon.socket();
    let mut rig = rig;
    rig.leave();
    let mut guest = guest_of(&daemon, &WithoutInterrupts(gpio()));
    assert_eq!(guest.features & 1, 0);
    assert_eq!(
        ask(guest.lane(), kind::SET_IRQ_TYPE, 3, irq::EDGE_BOTH),
        (status::ERR, 0)
    );
    assert_eq!(
        ask(guest.lane(), kind::SET_DIRECTION, 3, direction::IN),
        (status::OK, 0)
    );
    let events = &mut guest.lanes[1];
    let pending = unmask(events, 3);
    assert_eq!(back(events, &pending), irq_status::INVALID);
}

/// Linux does, when the interrupt was enabled at a daemon that has ended since.
#[test]
fn a_driver_that_unmasks_again_and_again_is_not_answered_again_and_again() {
    let mut rig = Rig::new(PAIR);
    rig.arm(3, irq::EDGE_BOTH);
    rig.next_guest();
    let pending = rig.unmask(3);
    rig.invalid(&pending);
    let pending = rig.unmask(3);
    rig.quiet();
    rig.arm(3, irq::EDGE_BOTH);
    rig.control().tell("toggle 3");
    rig.interrupted(&pending);
}
