// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the frames that wait.

use super::{Backlog, MAX_EVENTS};
use crate::request::Event;
use crate::spec::{
    ABS_MT_POSITION_X, ABS_MT_SLOT, ABS_MT_TRACKING_ID, ABS_X, BTN_LEFT, EV_ABS, EV_KEY, EV_REL, REL_X, REL_Y,
};
use crate::state::State;

fn key(code: u16, value: i32) -> Event {
    Event::new(EV_KEY, code, value)
}

fn rel(code: u16, value: i32) -> Event {
    Event::new(EV_REL, code, value)
}

fn abs(code: u16, value: i32) -> Event {
    Event::new(EV_ABS, code, value)
}

/// The frames that a guest gets, without their ends.
fn take(backlog: &mut Backlog) -> Vec<Vec<Event>> {
    let mut frames = vec![Vec::new()];
    while let Some(event) = backlog.first() {
        backlog.advance();
        if event.is_report() {
            frames.push(Vec::new());
        } else {
            frames.last_mut().unwrap().push(event);
        }
    }
    assert_eq!(frames.pop(), Some(vec![]), "the last frame has an end");
    frames
}

#[test]
fn a_guest_that_takes_all_gets_every_frame_as_it_was() {
    let mut backlog = Backlog::default();
    for frame in [
        vec![rel(REL_X, 1)],
        vec![rel(REL_X, 2), rel(REL_Y, 3)],
        vec![key(30, 1)],
    ] {
        backlog.push(&frame);
        assert_eq!(take(&mut backlog), [frame]);
    }
    backlog.push(&[]);
    assert_eq!(backlog.first(), None);
}

#[test]
fn distances_are_added_and_positions_replaced() {
    let mut backlog = Backlog::default();
    backlog.push(&[rel(REL_X, 1), rel(REL_Y, 5)]);
    backlog.push(&[rel(REL_X, 2), abs(ABS_X, 1)]);
    backlog.push(&[rel(REL_Y, -5), abs(ABS_X, 9)]);
    assert_eq!(take(&mut backlog), [[rel(REL_X, 3), abs(ABS_X, 9)]]);
    backlog.push(&[rel(REL_X, i32::MAX)]);
    backlog.push(&[rel(REL_X, 1)]);
    assert_eq!(take(&mut backlog), [[rel(REL_X, i32::MAX)]]);
    backlog.push(&[rel(REL_X, 1)]);
    backlog.push(&[rel(REL_X, -1)]);
    assert!(take(&mut backlog).is_empty());
}

#[test]
fn motion_never_passes_a_press() {
    let mut backlog = Backlog::default();
    let frames = [
        [rel(REL_X, 1)],
        [key(BTN_LEFT, 1)],
        [rel(REL_X, 2)],
        [rel(REL_X, 4)],
        [key(BTN_LEFT, 0)],
    ];
    frames.iter().for_each(|frame| backlog.push(frame));
    let expected = [
        [rel(REL_X, 1)],
        [key(BTN_LEFT, 1)],
        [rel(REL_X, 6)],
        [key(BTN_LEFT, 0)],
    ];
    assert_eq!(take(&mut backlog), expected);
}

#[test]
fn a_frame_that_was_begun_stays_as_it_is() {
    let mut backlog = Backlog::default();
    backlog.push(&[rel(REL_X, 1), rel(REL_Y, 1)]);
    backlog.advance();
    backlog.push(&[rel(REL_X, 10)]);
    backlog.push(&[rel(REL_X, 20)]);
    assert_eq!(take(&mut backlog), [[rel(REL_Y, 1)], [rel(REL_X, 30)]]);
}

#[test]
fn each_contact_keeps_its_last_position_and_the_slot_stays_right() {
    let mut backlog = Backlog::default();
    let x = ABS_MT_POSITION_X;
    backlog.push(&[abs(x, 1), abs(ABS_MT_SLOT, 4), abs(x, 41)]);
    backlog.push(&[abs(x, 42), abs(ABS_MT_SLOT, 0), abs(x, 2)]);
    backlog.push(&[abs(ABS_MT_SLOT, 4), abs(x, 43), abs(ABS_X, 2)]);
    // A contact ends in the slot that the last frame of motion left.
    backlog.push(&[abs(ABS_MT_TRACKING_ID, -1)]);
    let slot = |slot| abs(ABS_MT_SLOT, slot);
    assert_eq!(
        take(&mut backlog),
        [
            vec![slot(0), abs(x, 2), slot(4), abs(x, 43), abs(ABS_X, 2)],
            vec![abs(ABS_MT_TRACKING_ID, -1)]
        ]
    );
}

#[test]
fn a_slot_that_was_only_entered_is_entered_still() {
    let mut backlog = Backlog::default();
    backlog.push(&[abs(ABS_X, 1)]);
    backlog.push(&[abs(ABS_X, 2), abs(ABS_MT_SLOT, 3)]);
    backlog.push(&[abs(ABS_MT_TRACKING_ID, 5)]);
    let mut state = State::default();
    for event in take(&mut backlog).concat() {
        state.apply(event);
    }
    assert_eq!(state.touched().collect::<Vec<_>>(), [3]);
}

/// Whatever waits and merges: a guest ends in the state of the device, having moved as far.
#[test]
fn a_guest_that_takes_events_now_and_then_ends_where_the_device_is() {
    let mut random = 1_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let (mut backlog, mut device, mut guest) = (Backlog::default(), State::default(), State::default());
    let (mut moved, mut seen) = (0_i64, 0_i64);
    let mut deliver = |backlog: &mut Backlog, guest: &mut State, count: u64| {
        for _ in 0..count {
            let Some(event) = backlog.first() else { break };
            backlog.advance();
            guest.apply(event);
            seen += if event.kind == EV_REL {
                i64::from(event.value)
            } else {
                0
            };
        }
        seen
    };
    for _ in 0..20_000 {
        let value = next(3) as i32;
        let frame: Vec<Event> = (0..=next(5))
            .map(|_| match next(6) {
                0 => key(30 + next(4) as u16, value & 1),
                1 | 2 => rel(REL_X, value - 1),
                3 => abs(ABS_MT_SLOT, value),
                4 => abs(ABS_MT_POSITION_X, next(100) as i32),
                _ => abs(ABS_MT_TRACKING_ID, value - 1),
            })
            .collect();
        for event in &frame {
            device.apply(*event);
            moved += if event.kind == EV_REL {
                i64::from(event.value)
            } else {
                0
            };
        }
        backlog.push(&frame);
        let count = next(6);
        deliver(&mut backlog, &mut guest, count);
        assert!(backlog.events.len() <= MAX_EVENTS);
    }
    assert_eq!(deliver(&mut backlog, &mut guest, u64::MAX), moved);
    assert_eq!(guest, device);
}

#[test]
fn a_thousand_keystrokes_a_second_wait_for_seconds_without_loss() {
    let mut backlog = Backlog::default();
    let strokes: Vec<Vec<Event>> = (0..5000)
        .map(|n| vec![key(30 + n % 7, i32::from(n / 7 % 2 == 0))])
        .collect();
    strokes.iter().for_each(|frame| backlog.push(frame));
    assert_eq!(take(&mut backlog), strokes);
}

#[test]
fn a_guest_that_takes_nothing_gets_each_key_once_up_and_down_in_the_end() {
    let mut backlog = Backlog::default();
    backlog.push(&[key(31, 1), key(32, 1)]);
    backlog.advance();
    // 30 is tapped, 31 is released, 32 is let go and pressed again, 33 stays down.
    for _ in 0..MAX_EVENTS {
        backlog.push(&[key(30, 1), rel(REL_X, 1)]);
        backlog.push(&[key(30, 0)]);
        backlog.push(&[key(32, 0)]);
        backlog.push(&[key(32, 1)]);
    }
    backlog.push(&[key(31, 0)]);
    backlog.push(&[key(33, 1)]);
    assert!(backlog.events.len() <= MAX_EVENTS);
    backlog.collapse();
    let moved = rel(REL_X, MAX_EVENTS as i32);
    assert_eq!(
        take(&mut backlog),
        [
            vec![key(32, 1)],
            vec![moved, key(30, 1), key(31, 0), key(32, 0), key(33, 1)],
            vec![key(30, 0), key(32, 1)],
        ]
    );
}

#[test]
fn releasing_lifts_what_is_down_when_all_has_arrived() {
    let mut backlog = Backlog::default();
    backlog.push(&[key(30, 1)]);
    backlog.release();
    assert_eq!(take(&mut backlog), [[key(30, 1)], [key(30, 0)]]);
    backlog.release();
    assert!(take(&mut backlog).is_empty());
}

#[test]
fn a_guest_that_stops_gets_its_keys_lifted_later() {
    let mut backlog = Backlog::default();
    backlog.push(&[key(30, 1)]);
    assert_eq!(take(&mut backlog).len(), 1);
    backlog.push(&[key(30, 0)]);
    backlog.push(&[key(31, 1)]);
    backlog.forget();
    assert_eq!(backlog.first(), None);
    backlog.bring_to(&State::default());
    assert_eq!(take(&mut backlog), [[key(30, 0)]]);
}
