// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same device under `VhostUserDaemon` of vhost-user-backend: what must be equal, and why we have our own session.

mod adapter;
mod limits;
#[path = "../support/mod.rs"]
mod support;

use std::time::Instant;

use vu_testkit::frontend::wire::{feature, protocol};
use vu_testkit::guest::{BUFFERS, BUFFERS_SIZE, Guest, Options};

use adapter::Stock;
use support::{Bench, DEADLINE, ECHO, Echo, Random, place_any, serve};

/// All that a driver can see at the end of a run.
#[derive(PartialEq)]
struct Outcome {
    used: Vec<vu_testkit::driver::Used>,
    ring: Vec<u8>,
    buffers: Vec<u8>,
    base: u32,
}

fn options(event_idx: bool) -> Options {
    let event_idx = if event_idx { feature::EVENT_IDX } else { 0 };
    Options {
        features: feature::VERSION_1 | feature::INDIRECT_DESC | feature::PROTOCOL_FEATURES | event_idx,
        protocol: protocol::MQ | protocol::REPLY_ACK,
        deadline: DEADLINE,
        ..Options::default()
    }
}

/// Sends the same requests to each device, and waits until its ring is at rest.
fn drive(guest: &mut Guest, event_idx: bool) -> Outcome {
    let mut random = Random(0x5eed);
    let lane = &mut guest.lanes[ECHO];
    let mut used = Vec::new();
    for _ in 0..400 {
        let wanted = 1 + random.below(12);
        let mut batch = Vec::new();
        while batch.len() < wanted && lane.queue.free() >= 24 {
            batch.push(place_any(lane, &mut random));
        }
        lane.queue.submit();
        for pending in batch {
            // Polled, since the driver's own writes must not depend on timing.
            let entry = lane.queue.poll(lane.end()).unwrap();
            lane.check(&Echo, &pending, entry).unwrap();
            used.push(entry);
        }
    }
    let address = lane.queue.address;
    let size = usize::from(lane.queue.size);
    let mut ring = vec![0; 6 + 8 * size];
    let available = lane.queue.available_index();
    let end = Instant::now() + DEADLINE;
    loop {
        lane.memory.read(address.used, &mut ring);
        let field = |at: usize| u16::from_le_bytes([ring[at], ring[at + 1]]);
        let at_rest = if event_idx {
            field(4 + 8 * size) == available
        } else {
            field(0) == 0
        };
        if at_rest {
            break;
        }
        assert!(Instant::now() < end, "the device does not ask for a kick");
        std::thread::yield_now();
    }
    let mut buffers = vec![0; BUFFERS_SIZE as usize];
    lane.memory.read(BUFFERS, &mut buffers);
    let base = guest.front.get_vring_base(ECHO as u32).unwrap();
    Outcome {
        used,
        ring,
        buffers,
        base,
    }
}

#[test]
fn both_sessions_leave_the_same_rings_and_bytes() {
    for event_idx in [false, true] {
        let (bench, _calls) = Bench::new();
        let (front, session) = serve(&bench);
        let mut guest = Guest::boot(front, &Echo, &options(event_idx)).unwrap();
        let ours = drive(&mut guest, event_idx);
        drop(guest);
        session.join();

        let (front, _daemon) = Stock::serve();
        let mut guest = Guest::boot(front, &Echo, &options(event_idx)).unwrap();
        let theirs = drive(&mut guest, event_idx);

        assert_eq!(ours.used, theirs.used, "EVENT_IDX {event_idx}");
        assert_eq!(ours.base, theirs.base);
        assert_eq!(ours.ring, theirs.ring);
        assert!(ours.buffers == theirs.buffers);
    }
}
