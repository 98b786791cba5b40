// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages that are not about rings: configuration space, the back end's own channel, broken framing.

use vu_testkit::frontend::Error;
use vu_testkit::frontend::wire::{BACKEND_CONFIG_CHANGE_MSG, NEED_REPLY, VERSION, header, request, u64s};
use vu_testkit::guest::Options;

use crate::support::{Bench, CONFIG_LEN, DEADLINE, ECHO, Rig, serve};

#[test]
fn the_configuration_space_is_read_and_written_within_its_length() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let front = &rig.guest.front;
    assert_eq!(front.get_config(0, CONFIG_LEN as u32).unwrap(), b"configspace\0");
    assert_eq!(front.get_config(6, 4).unwrap(), b"spac");
    assert_eq!(front.get_config(10, 6).unwrap(), b"e\0\0\0\0\0");
    assert_eq!(front.get_config(0x800, 4).unwrap(), [0; 4]);
    front.set_config(6, b"SPACE").unwrap();
    let refused = [
        front.set_config(0, b"C"),
        front.set_config(10, b"too long"),
        front.set_config(0x800, b"beyond"),
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Refused(..))), "{result:?}");
    }
    assert_eq!(
        rig.guest.front.get_config(0, CONFIG_LEN as u32).unwrap(),
        b"configSPACE\0"
    );
    rig.round_trip(ECHO);
}

#[test]
fn a_change_of_the_configuration_reaches_the_front_end() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    bench.run(ECHO, |_, cx| cx.config_changed());
    let channel = rig.guest.front.open_backend_channel(DEADLINE).unwrap();
    bench.run(ECHO, |_, cx| cx.config_changed());
    bench.config_change().notify();
    for _ in 0..2 {
        let message = channel.receive("CONFIG_CHANGE_MSG").unwrap();
        assert_eq!(message.request, BACKEND_CONFIG_CHANGE_MSG);
        assert_eq!(message.flags, VERSION);
        assert!(message.payload.is_empty());
    }
    rig.disconnect();
    // Nobody is there to be told any more, and the channel is closed.
    bench.config_change().notify();
    let closed = channel.receive("the end");
    assert!(matches!(closed, Err(Error::Closed(_))), "{closed:?}");
}

#[test]
fn refused_setters_are_answered_once_and_the_connection_goes_on() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let front = &rig.guest.front;
    // Each is refused at another depth: by the parser before it asks us, by us, and by us in its place.
    let messages: [(&str, u32, Vec<u8>); 4] = [
        ("SET_VRING_ENABLE 2", request::SET_VRING_ENABLE, u64s(&[2 << 32])),
        ("SET_FEATURES", request::SET_FEATURES, u64s(&[u64::MAX])),
        ("SET_LOG_FD", request::SET_LOG_FD, Vec::new()),
        ("SET_VRING_NUM", request::SET_VRING_NUM, u64s(&[3 << 32])),
    ];
    for (name, id, payload) in messages {
        front.send(id, VERSION | NEED_REPLY, &payload, &[]).unwrap();
        let reply = front.receive("refusal").unwrap();
        assert_eq!((reply.request, reply.payload), (id, u64s(&[1])), "{name}");
        front.get_features().unwrap();
    }
    rig.round_trip(ECHO);
}

#[test]
fn a_first_message_that_is_no_negotiation_ends_the_connection() {
    let (bench, _calls) = Bench::new();
    let (front, session) = serve(&bench);
    let closed = front.get_vring_base(0);
    assert!(matches!(closed, Err(Error::Closed(_))), "{closed:?}");
    session.join();
}

#[test]
fn a_front_end_that_goes_in_the_middle_of_a_message_is_forgotten() {
    let whole = header(request::SET_FEATURES, VERSION, 8);
    for len in [1, 11, 12] {
        let (bench, _calls) = Bench::new();
        let (front, session) = serve(&bench);
        front.get_features().unwrap();
        front.send_bytes(&whole[..len], &[]).unwrap();
        drop(front);
        session.join();
    }
}

#[test]
fn a_message_in_pieces_is_a_message() {
    let (bench, _calls) = Bench::new();
    let (front, session) = serve(&bench);
    for byte in header(request::GET_FEATURES, VERSION, 0) {
        front.send_bytes(&[byte], &[]).unwrap();
    }
    let reply = front.receive("GET_FEATURES").unwrap();
    assert_eq!(reply.payload.len(), 8);
    drop(front);
    session.join();
}
