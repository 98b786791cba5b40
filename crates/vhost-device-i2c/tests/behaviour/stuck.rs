// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bus that takes its time, or never comes back.

use std::time::{Duration, Instant};

use vhost_device_i2c::Limits;
use vu_testkit::chains::Placement;
use vu_testkit::devices::i2c::flag::FAIL_NEXT;
use vu_testkit::devices::i2c::{read, write};
use vu_testkit::guest::Lane;
use vu_testkit::process::cpu_time;

use crate::support::{
    DEADLINE, ERR, LIMITS, LINUX, OK, Recorder, ask, boot, daemon, device, guest, options, statuses,
};

const SHORT: Limits = Limits {
    timeout: Duration::from_millis(50),
    ..LIMITS
};

/// Asks until the bus is there again.
fn wait_until_served(lane: &mut Lane) {
    let end = Instant::now() + DEADLINE;
    while statuses(lane, &[write(0x20, 0, &[])]) != [OK] {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
}

#[test]
fn a_stuck_bus_times_out() {
    // Longer than the test may take.
    let daemon = daemon(&["--bus", "sim:slow@0x31=60s,regs@0x20", "--timeout", "500"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    assert_eq!(statuses(lane, &[write(0x20, 0, &[1])]), [OK]);
    let (start, cpu) = (Instant::now(), cpu_time(daemon.pid()).unwrap());
    assert_eq!(ask(lane, &[read(0x31, 0, 2)]), [(ERR, vec![0; 2])]);
    assert!(
        start.elapsed() >= Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    // Nobody waits for the bus any more; else these would take 50 seconds.
    for _ in 0..100 {
        assert_eq!(
            statuses(lane, &[write(0x20, 0, &[1]), read(0x20, 0, 1)]),
            [ERR, ERR]
        );
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let cpu = cpu_time(daemon.pid()).unwrap() - cpu;
    assert!(cpu < Duration::from_secs(1), "{cpu:?}");
}

#[test]
fn a_group_that_timed_out_fails_as_a_whole_and_its_rest_with_it() {
    let bus = Recorder::new(true);
    let mut guest = boot(&device(&bus, "", SHORT), &options());
    let lane = guest.lane();
    bus.stick(true);
    let group = [write(0x20, FAIL_NEXT, &[1]), read(0x20, FAIL_NEXT, 2)];
    assert_eq!(statuses(lane, &group), [ERR, ERR]);
    bus.stick(false);
    assert_eq!(statuses(lane, &[read(0x20, 0, 2)]), [ERR]);
    wait_until_served(lane);
    let transfers = bus.take();
    assert_eq!((transfers[0].len(), transfers[1].len()), (2, 1));
}

#[test]
fn what_comes_too_late_is_no_answer_to_what_is_asked_next() {
    let bus = Recorder::new(true);
    let mut guest = boot(&device(&bus, "", SHORT), &options());
    let lane = guest.lane();
    bus.stick(true);
    let late = lane.place(read(0x20, 0, 2), LINUX, Placement::Direct);
    lane.queue.submit();
    lane.queue.wait(lane.end()).unwrap();
    bus.stick(false);
    wait_until_served(lane);
    let number = bus.take().len() as u8 + 1;
    assert_eq!(ask(lane, &[read(0x20, 0, 2)]), [(OK, vec![number; 2])]);
    assert_eq!(lane.answer(&late), [0, 0, ERR]);
}

#[test]
fn a_slow_bus_answers_everything_in_order() {
    let daemon = daemon(&["--bus", "sim:slow@0x31=2ms,regs@0x20"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    for round in 0..5 {
        let requests = [
            write(0x31, 0, &[7, round]),
            write(0x20, 0, &[7, round + 100]),
            write(0x31, FAIL_NEXT, &[7]),
            read(0x31, 0, 1),
            write(0x20, FAIL_NEXT, &[7]),
            read(0x20, 0, 1),
            write(0x50, 0, &[]),
        ];
        let answers = ask(lane, &requests);
        assert_eq!(
            (&answers[3], &answers[5]),
            (&(OK, vec![round]), &(OK, vec![round + 100]))
        );
        assert_eq!(answers[6].0, ERR);
    }
}

#[test]
fn a_stop_waits_no_longer_than_the_timeout_and_what_was_not_begun_stays() {
    let daemon = daemon(&["--bus", "sim:slow@0x31=60s", "--timeout", "200"]);
    let mut guest = guest(&daemon.socket());
    let start = Instant::now();
    let lane = guest.lane();
    for _ in 0..3 {
        lane.place(read(0x31, 0, 1), LINUX, Placement::Direct);
    }
    lane.queue.submit();
    let base = guest.front.get_vring_base(0).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    // What was answered by then, and no more, will not be served again.
    assert_eq!(base, u32::from(guest.lane().queue.used_index()));
    guest.start_ring(0, base as u16).unwrap();
    guest.enable(0, true).unwrap();
    guest.lane().queue.wait_all(Instant::now() + DEADLINE).unwrap();
}

#[test]
fn a_bus_that_is_on_its_way_is_answered_before_the_stop() {
    let bus = Recorder::new(true);
    let mut guest = boot(&device(&bus, "", LIMITS), &options());
    bus.stick(true);
    let lane = guest.lane();
    lane.place(read(0x20, 0, 1), LINUX, Placement::Direct);
    lane.place(read(0x21, 0, 1), LINUX, Placement::Direct);
    lane.queue.submit();
    bus.wait_begun(1);
    let base = std::thread::scope(|scope| {
        let stop = scope.spawn(|| guest.front.get_vring_base(0).unwrap());
        bus.stick(false);
        stop.join().unwrap()
    });
    let used = guest.lane().queue.used_index();
    assert_eq!(base, u32::from(used));
    assert_eq!(bus.take().len(), usize::from(used));
    assert!(used >= 1);
}

#[test]
fn sigterm_ends_a_daemon_whose_bus_is_stuck() {
    let mut daemon = daemon(&["--bus", "sim:slow@0x31=60s", "--timeout", "20000"]);
    let mut guest = guest(&daemon.socket());
    let lane = guest.lane();
    lane.place(read(0x31, 0, 1), LINUX, Placement::Direct);
    lane.queue.submit();
    let start = Instant::now();
    daemon.process().terminate();
    assert!(daemon.process().wait(DEADLINE).unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn a_guest_that_comes_back_meets_a_bus_that_is_still_stuck_and_later_is_served() {
    let bus = Recorder::new(true);
    let device = device(&bus, "", SHORT);
    bus.stick(true);
    let mut first = boot(&device, &options());
    assert_eq!(statuses(first.lane(), &[read(0x20, 0, 1)]), [ERR]);
    drop(first);
    let mut second = boot(&device, &options());
    assert_eq!(statuses(second.lane(), &[read(0x20, 0, 1)]), [ERR]);
    bus.stick(false);
    wait_until_served(second.lane());
}

#[test]
fn the_bus_of_one_guest_does_not_hold_up_another_guest() {
    let args = [
        "--bus",
        "sim:slow@0x31=60s",
        "--socket-path",
        "{stem}1",
        "--bus",
        "sim:regs@0x20",
    ];
    let daemon = daemon(&args);
    let mut stuck = guest(&daemon.socket());
    let mut other = guest(&daemon.dir().join("s1"));
    let lane = stuck.lane();
    lane.place(read(0x31, 0, 1), LINUX, Placement::Direct);
    lane.queue.submit();
    for _ in 0..100 {
        assert_eq!(statuses(other.lane(), &[read(0x20, 0, 1)]), [OK]);
    }
    let lane = stuck.lane();
    assert_eq!(lane.queue.wait_all(lane.end()).unwrap().len(), 1);
}
