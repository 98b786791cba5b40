// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages on the request queue, in every shape.

use std::time::{Duration, Instant};

use vu_testkit::chains::{Descriptor, Framing, Placement, Request};
use vu_testkit::devices::FILL;
use vu_testkit::devices::gpio::{EVENTQ, LINES, kind, message, names, status};
use vu_testkit::driver::write_indirect;
use vu_testkit::guest::{Lane, Options};
use vu_testkit::process;

use crate::support::{Rig, ask, ask_as, raw};

#[test]
fn a_message_may_be_cut_anywhere() {
    let mut rig = Rig::with(Options {
        size: 256,
        ..Options::default()
    });
    let lane = rig.guest.lane();
    let mut block = vec![status::OK];
    block.extend(names());
    for placement in [Placement::Direct, Placement::Indirect, Placement::IndirectTail] {
        for cut in 1..10 {
            let framing = Framing::SplitAt(cut);
            let value = ask_as(lane, message(kind::GET_VALUE, 2, 0), framing, placement);
            assert_eq!(value, (2, vec![status::OK, 1]), "{cut} {placement:?}");
        }
        let request = message(kind::GET_LINE_NAMES, 0, 0);
        for framing in [Framing::Pieces(1), Framing::Pieces(5), Framing::SplitAt(9)] {
            let answer = ask_as(lane, request.clone(), framing, placement);
            assert_eq!(answer, (57, block.clone()), "{framing:?} {placement:?}");
        }
    }
    rig.still_serves();
}

#[test]
fn messages_that_do_not_exist_get_an_error() {
    let mut rig = Rig::new();
    let table = (2..=6)
        .flat_map(|kind| [LINES, LINES + 1, 0x100, 0x8000, u16::MAX].map(|line| (kind, line, 0)))
        .chain([0, 7, 8, 0x100, 0x101, 0x600, u16::MAX].map(|kind| (kind, 0, 0)))
        .chain([3, 4, 0x100, 0x102, 1 << 16, u32::MAX].map(|value| (kind::SET_DIRECTION, 7, value)))
        .chain([2, 0x100, 1 << 16, 1 << 31, u32::MAX].map(|value| (kind::SET_VALUE, 7, value)))
        .chain([5, 6, 7, 12, 15, 16, 0x101, 1 << 16, u32::MAX].map(|value| (kind::SET_IRQ_TYPE, 7, value)));
    for (kind, line, value) in table {
        let answer = ask(rig.guest.lane(), message(kind, line, value));
        assert_eq!(answer, (2, vec![status::ERR, 0]), "{kind} {line} {value}");
    }
    rig.still_serves();
}

#[test]
fn messages_of_any_length_come_back_with_what_there_is_room_for() {
    let mut rig = Rig::new();
    let lane = rig.guest.lane();
    let get = message(kind::GET_VALUE, 2, 0).readable;
    let longer = [&get[..], &[0xee; 40]].concat();
    for (readable, writable, used, answer) in [
        (&get[..0], 2, 2, vec![status::ERR, 0]),
        (&get[..1], 2, 2, vec![status::ERR, 0]),
        (&get[..7], 2, 2, vec![status::ERR, 0]),
        (&get[..7], 1, 1, vec![status::ERR]),
        (&get, 1, 1, vec![status::OK]),
        (&get, 2, 2, vec![status::OK, 1]),
        (&get, 5, 2, vec![status::OK, 1, FILL, FILL, FILL]),
        (&longer, 2, 2, vec![status::OK, 1]),
        (&get, 0, 0, vec![]),
        (&longer, 0, 0, vec![]),
    ] {
        let request = raw(readable, writable);
        assert_eq!(
            ask(lane, request),
            (used, answer),
            "{} readable, {writable} writable",
            readable.len()
        );
    }
    rig.still_serves();
}

#[test]
fn names_come_whole_or_not_at_all() {
    let mut rig = Rig::new();
    let lane = rig.guest.lane();
    let ask_names = |lane: &mut Lane, writable| {
        let request = message(kind::GET_LINE_NAMES, u16::MAX, u32::MAX);
        ask(lane, Request { writable, ..request })
    };
    for writable in 1..=56 {
        let (used, answer) = ask_names(lane, writable);
        assert_eq!((used, answer[0]), (1, status::ERR), "{writable}");
        assert!(answer[1..].iter().all(|byte| *byte == FILL), "{writable}");
    }
    for writable in [57, 58, 65536, 1 << 20] {
        let (used, answer) = ask_names(lane, writable);
        assert_eq!((used, answer[0]), (57, status::OK), "{writable}");
        assert_eq!(answer[1..57], names());
    }
    rig.still_serves();
}

#[test]
fn four_gib_by_one_buffer_many_times_cost_nothing() {
    let mut rig = Rig::with(Options {
        size: 1024,
        ..Options::default()
    });
    let lane = rig.guest.lane();
    let header = lane.allocate(8, 8);
    lane.memory
        .write(header, &message(kind::GET_LINE_NAMES, 0, 0).readable);
    let buffer = lane.allocate(2 << 20, 4096);
    let table = lane.allocate(16 * 1024, 16);
    for count in [1000_usize, 1023] {
        let mut chain = vec![Descriptor::readable(header, 8)];
        chain.extend(vec![Descriptor::writable(buffer, 2 << 20); count]);
        let began = Instant::now();
        for _ in 0..100 {
            let indirect = write_indirect(&lane.memory, table, &chain);
            lane.queue.add(&[indirect], Some(57));
            lane.queue.submit();
            let used = lane.queue.wait(lane.end()).unwrap();
            assert!([0, 57].contains(&used.len), "{}", used.len);
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    let resident = process::resident(rig.daemon.pid()).unwrap();
    assert!(resident < 64 << 20, "{resident} bytes");
    rig.still_serves();
}

#[test]
fn a_buffer_on_the_wrong_side_is_not_touched() {
    let mut rig = Rig::new();
    for queue in [0, usize::from(EVENTQ)] {
        let lane = &mut rig.guest.lanes[queue];
        let addr = lane.allocate(32, 8);
        let readable = Descriptor::readable(addr, 8);
        for (chain, expected) in [
            (vec![readable, Descriptor::readable(addr + 8, 2)], 0..=0),
            (vec![Descriptor::readable(addr, 8)], 0..=0),
            // The message in a writable buffer is no message; there is room for the answer.
            (
                vec![Descriptor::writable(addr, 8), Descriptor::writable(addr + 8, 2)],
                1..=2,
            ),
            (
                vec![Descriptor::writable(addr, 8), Descriptor::readable(addr + 8, 2)],
                0..=0,
            ),
        ] {
            lane.memory.write(addr, &[FILL; 32]);
            lane.queue.add(&chain, None);
            lane.queue.submit();
            let used = lane.queue.wait(lane.end()).unwrap();
            assert!(
                expected.contains(&used.len),
                "queue {queue}: {chain:?}: {}",
                used.len
            );
            let mut bytes = [0; 32];
            lane.memory.read(addr, &mut bytes);
            let touched = bytes.iter().filter(|byte| **byte != FILL).count();
            assert_eq!(touched, used.len as usize, "queue {queue}: {chain:?}");
        }
    }
    rig.still_serves();
}
