// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages on the request queue, and the configuration space.

use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::gpio::{direction, irq, irq_status, kind, message, status};

use crate::support::{PAIR, Rig, send};

#[test]
fn a_line_number_beyond_the_last_gets_an_error() {
    let mut rig = Rig::new(PAIR);
    for line in [8, 9, 255, 256, u16::MAX] {
        for kind in kind::GET_DIRECTION..=kind::SET_IRQ_TYPE {
            rig.refused(kind, line, 1);
        }
        let pending = rig.unmask(line);
        rig.invalid(&pending);
    }
    assert_eq!(rig.value(7), 0);
}

#[test]
fn an_empty_response_buffer_loses_one_request_only() {
    let mut rig = Rig::new(PAIR);
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    for kind in kind::GET_LINE_NAMES..=kind::SET_IRQ_TYPE {
        let request = Request {
            writable: 0,
            ..message(kind, 0, 1)
        };
        let answer = send(rig.guest.lane(), request, Framing::Whole, Placement::Direct);
        assert!(answer.is_empty(), "message {kind}: {answer:?}");
    }
    // Nobody could have been told of it, so nothing was done.
    assert_eq!(rig.value(0), 0);
    let request = Request {
        writable: 0,
        ..vu_testkit::devices::gpio::event(0)
    };
    assert!(send(rig.events(), request, Framing::Whole, Placement::Direct).is_empty());
    let pending = rig.unmask(0);
    rig.invalid(&pending);
}

#[test]
fn a_message_in_any_pieces_is_understood() {
    let mut rig = Rig::new(PAIR);
    for framing in [
        Framing::Pieces(1),
        Framing::Pieces(3),
        Framing::SplitAt(2),
        Framing::SplitAt(9),
    ] {
        for placement in [Placement::Direct, Placement::Indirect, Placement::IndirectTail] {
            let lane = rig.guest.lane();
            let answer = send(
                lane,
                message(kind::SET_DIRECTION, 2, direction::IN),
                framing,
                placement,
            );
            assert_eq!(answer, [status::OK, 0], "{framing:?} {placement:?}");
            let request = vu_testkit::devices::gpio::event(2);
            let answer = send(rig.events(), request, framing, placement);
            assert_eq!(answer, [irq_status::INVALID], "{framing:?} {placement:?}");
            // So that the line is told of its next buffer, too.
            rig.tell(kind::SET_IRQ_TYPE, 2, irq::NONE);
        }
    }
}

#[test]
fn a_read_of_the_configuration_ends_where_it_ends() {
    let rig = Rig::new(PAIR);
    let whole = [8, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(rig.guest.front.get_config(0, 8).unwrap(), whole);
    for (offset, size) in [(0, 256), (4, 200), (7, 8), (200, 56)] {
        let mut expected = whole.get(offset as usize..).unwrap_or_default().to_vec();
        expected.resize(size as usize, 0);
        match rig.guest.front.get_config(offset, size) {
            Ok(bytes) => assert_eq!(bytes, expected, "{offset} {size}"),
            // To refuse it is right, too, as long as the connection goes on.
            Err(_) => assert_eq!(rig.guest.front.get_config(0, 8).unwrap(), whole),
        }
    }
}

#[test]
fn without_names_there_is_nothing_to_fetch() {
    let mut rig = Rig::new(PAIR);
    assert_eq!(rig.guest.front.get_config(4, 4).unwrap(), [0; 4]);
    let request = message(kind::GET_LINE_NAMES, 0, 0);
    let answer = send(rig.guest.lane(), request, Framing::Whole, Placement::Direct);
    assert_eq!(answer, [status::ERR]);
}

#[test]
fn a_thousand_lines_have_their_names() {
    let name = |line: u32| format!("line-{line}-with-a-long-name");
    let board: String = (0..1000)
        .map(|line| format!("[line.{line}]\nname = \"{}\"\n", name(line)))
        .collect();
    let mut rig = Rig::new(&board);
    let expected: Vec<u8> = (0..1000)
        .flat_map(|line| (name(line) + "\0").into_bytes())
        .collect();
    let config = rig.guest.front.get_config(0, 8).unwrap();
    assert_eq!(config[..2], 1000_u16.to_le_bytes());
    assert_eq!(config[4..], (expected.len() as u32).to_le_bytes());
    let request = Request {
        writable: expected.len() + 1,
        ..message(kind::GET_LINE_NAMES, 0, 0)
    };
    let answer = send(rig.guest.lane(), request, Framing::Whole, Placement::Direct);
    assert_eq!((answer[0], &answer[1..]), (status::OK, &expected[..]));
    assert_eq!(rig.value(999), 0);
}

#[test]
fn an_output_starts_with_the_level_that_was_set_before() {
    let mut rig = Rig::new(PAIR);
    let mut control = rig.control();
    control.tell("watch");
    rig.tell(kind::SET_VALUE, 0, 1);
    assert_eq!(control.ask("get 0"), "0", "it is no output yet");
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.tell(kind::SET_VALUE, 0, 0);
    for change in ["0 1", "1 1", "0 0", "1 0"] {
        assert_eq!(control.line(), change);
    }
}

#[test]
fn a_deactivated_line_forgets_its_level() {
    let mut rig = Rig::new(PAIR);
    rig.tell(kind::SET_VALUE, 0, 1);
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    assert_eq!(rig.value(1), 1);
    rig.tell(kind::SET_DIRECTION, 0, direction::NONE);
    assert_eq!(
        rig.ask(kind::GET_DIRECTION, 0, 0),
        (status::OK, direction::NONE as u8)
    );
    assert_eq!(rig.value(1), 0);
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    assert_eq!(rig.value(1), 0);
}

#[test]
fn to_look_at_a_line_does_not_take_it() {
    let mut rig = Rig::new(PAIR);
    let mut control = rig.control();
    control.tell("set 3 1");
    assert_eq!(rig.value(3), 1);
    assert_eq!(
        rig.ask(kind::GET_DIRECTION, 3, 0),
        (status::OK, direction::IN as u8)
    );
    rig.tell(kind::SET_VALUE, 3, 0);
    assert_eq!(control.lines()[3], "3 - unused 1");
}
