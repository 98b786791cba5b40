// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes through the rings: every shape of chain, byte for byte.

use std::os::fd::AsFd;
use std::sync::Arc;

use vu_testkit::chains::{Descriptor, Framing, Placement, Request};
use vu_testkit::driver::{Used, write_indirect};
use vu_testkit::frontend::wire::feature;
use vu_testkit::guest::{ADJACENT, Guest, Lane, NOWHERE, Options};
use vu_testkit::memory::Region;

use crate::support::{Bench, ECHO, Echo, HELD, Random, Rig, SECOND, echo, hold, place_any};

fn exchange(mut lane: Lane, seed: u64, count: usize) -> Lane {
    let mut random = Random(seed);
    let mut left = count;
    while left > 0 {
        let mut batch = Vec::new();
        let wanted = 1 + random.below(48).min(left - 1);
        while batch.len() < wanted && lane.queue.free() >= 24 {
            batch.push(place_any(&mut lane, &mut random));
        }
        left -= batch.len();
        lane.queue.submit();
        lane.settle(&Echo, batch).unwrap();
    }
    lane
}

fn load_two_queues(features: u64, count: usize) {
    let (bench, _calls) = Bench::new();
    let options = Options {
        size: 256,
        features,
        ..Options::default()
    };
    let mut rig = Rig::boot(&bench, options);
    let second = rig.guest.lanes.remove(SECOND);
    let held = rig.guest.lanes.remove(HELD);
    let first = rig.guest.lanes.remove(ECHO);
    let other = std::thread::spawn(move || exchange(second, 1, count));
    rig.guest.lanes = vec![exchange(first, 2, count), held, other.join().unwrap()];
    for index in [ECHO, SECOND] {
        let base = rig.guest.front.get_vring_base(index as u32).unwrap();
        assert_eq!(base as u16, count as u16);
        assert_eq!(rig.guest.lanes[index].queue.used_index(), count as u16);
    }
}

const RING_FEATURES: u64 = feature::VERSION_1 | feature::PROTOCOL_FEATURES | feature::INDIRECT_DESC;

#[test]
fn random_chains_come_back_byte_for_byte_with_event_idx() {
    load_two_queues(RING_FEATURES | feature::EVENT_IDX, 75_000);
}

#[test]
fn random_chains_come_back_byte_for_byte_without_event_idx() {
    load_two_queues(RING_FEATURES, 75_000);
}

#[test]
fn buffers_may_straddle_regions_that_touch() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let lane = &mut rig.guest.lanes[ECHO];
    let inside = ADJACENT + 0x1000;
    for (readable, writable, table) in [
        (ADJACENT - 50, inside, inside + 0x1000),
        (inside, ADJACENT - 30, inside + 0x1000),
        (inside, inside + 0x2000, ADJACENT - 24),
    ] {
        lane.memory.write(readable, &[7; 100]);
        lane.memory.write(writable, &[0; 100]);
        let buffers = [
            Descriptor::readable(readable, 100),
            Descriptor::writable(writable, 100),
        ];
        let table = write_indirect(&lane.memory, table, &buffers);
        lane.queue.add(&[table], Some(100));
        lane.queue.submit();
        assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 100);
        let mut bytes = [0; 100];
        lane.memory.read(writable, &mut bytes);
        assert_eq!(bytes, [7; 100]);
    }
}

#[test]
fn a_malformed_chain_costs_one_buffer_and_the_queue_goes_on() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let lane = &mut rig.guest.lanes[ECHO];
    let good = lane.allocate(16, 16);
    let faults: [&[Descriptor]; 4] = [
        &[Descriptor::writable(NOWHERE, 4)],
        &[Descriptor::writable(good, 0)],
        &[Descriptor::writable(good, 4), Descriptor::readable(good, 4)],
        &[Descriptor::indirect(good, 0)],
    ];
    for fault in faults {
        lane.queue.add(fault, None);
        lane.queue.submit();
        assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 0, "{fault:?}");
        lane.round_trip(&Echo, 10).unwrap();
    }
}

#[test]
fn one_read_from_a_file_fills_at_most_64_descriptors_and_the_next_goes_on() {
    let (bench, calls) = Bench::new();
    let options = Options {
        size: 512,
        ..Options::default()
    };
    let mut rig = Rig::boot(&bench, options);
    let lane = &mut rig.guest.lanes[HELD];
    let request = Request {
        readable: Vec::new(),
        writable: 600,
    };
    lane.place(request, Framing::Pieces(3), Placement::Direct);
    lane.queue.submit();
    bench.wait_held(&calls, 1);
    let mut chain = bench.take_held().remove(0);
    let source = source(0..=255);
    let mut writer = chain.writer();
    assert_eq!(writer.skip(10), 10);
    // Descriptors 3 to 66, of which the first has two bytes left.
    assert_eq!(writer.read_from(source.file(), usize::MAX).unwrap(), 64 * 3 - 1);
    assert_eq!(writer.remaining(), 600 - 10 - 191);
    assert_eq!(writer.read_from(source.file(), 40).unwrap(), 40);
    assert_eq!(writer.read_from(source.file(), 0).unwrap(), 0);
    let rest = writer.read_from(source.file(), usize::MAX).unwrap();
    assert_eq!(rest, 64 * 3 - 1);
    chain.complete(10 + 191 + 40 + 191);
    let lane = &mut rig.guest.lanes[HELD];
    let used = lane.queue.wait(lane.end()).unwrap();
    assert_eq!(used.len, 432);
}

/// A file of one page that starts with `bytes`, again and again.
fn source(bytes: std::ops::RangeInclusive<u8>) -> Arc<Region> {
    let memory = vu_testkit::memory::GuestMemory::default();
    let region = memory.add(vu_testkit::memory::RegionSpec::new(0, 4096)).unwrap();
    let page: Vec<u8> = bytes.cycle().take(4096).collect();
    memory.write(0, &page);
    region
}

fn next_used(guest: &mut Guest) -> Used {
    let lane = &mut guest.lanes[HELD];
    lane.queue.wait(lane.end()).unwrap()
}

#[test]
fn chains_may_be_answered_on_another_thread_in_any_order() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    for reverse in [false, true] {
        let mut heads = hold(&mut rig, 12);
        bench.wait_held(&calls, 12);
        let mut chains = bench.take_held();
        if reverse {
            heads.reverse();
            chains.reverse();
        }
        let answerer = std::thread::spawn(move || chains.into_iter().for_each(echo));
        for head in heads {
            assert_eq!(next_used(&mut rig.guest), Used { id: head, len: 40 });
        }
        answerer.join().unwrap();
    }
}

#[test]
fn the_used_length_never_exceeds_the_writable_bytes() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let heads = hold(&mut rig, 1);
    bench.wait_held(&calls, 1);
    bench.take_held().remove(0).complete(u32::MAX);
    assert_eq!(
        next_used(&mut rig.guest),
        Used {
            id: heads[0],
            len: 40
        }
    );
}

#[test]
fn a_chain_that_is_dropped_comes_back_empty_and_is_a_bug_under_test() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let heads = hold(&mut rig, 1);
    bench.wait_held(&calls, 1);
    let chain = bench.take_held().remove(0);
    let dropped = std::thread::spawn(move || drop(chain)).join();
    assert_eq!(dropped.is_err(), cfg!(debug_assertions));
    assert_eq!(next_used(&mut rig.guest), Used { id: heads[0], len: 0 });
    rig.guest.front.get_vring_base(HELD as u32).unwrap();
}

#[test]
fn a_read_that_finds_nothing_says_so() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    hold(&mut rig, 1);
    bench.wait_held(&calls, 1);
    let mut chain = bench.take_held().remove(0);
    let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
    reader.set_nonblocking(true).unwrap();
    let error = chain.writer().read_from(reader.as_fd(), 40).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    chain.complete(0);
    assert_eq!(next_used(&mut rig.guest).len, 0);
}
