// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory that comes and goes while requests run.

use std::sync::Arc;

use vu_testkit::frontend::Error;
use vu_testkit::frontend::wire::protocol;
use vu_testkit::guest::{Load, Options, USUAL_PROTOCOL};
use vu_testkit::memory::RegionSpec;

use crate::support::{Bench, ECHO, Echo, HELD, Rig, SECOND, echo};

/// Where the region that comes and goes lies.
const PLUGGED: RegionSpec = RegionSpec {
    guest_addr: 2 << 32,
    size: 1 << 20,
    offset: 0x2000,
};

fn options() -> Options {
    Options {
        protocol: USUAL_PROTOCOL | protocol::CONFIGURE_MEM_SLOTS,
        ..Options::default()
    }
}

#[test]
fn regions_are_added_and_removed_under_load() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    let mut second = rig.guest.lanes.remove(SECOND);
    let load = Load::start(rig.guest.lanes.remove(ECHO), Arc::new(Echo), 64);
    for _ in 0..60 {
        let region = rig.guest.memory.add(PLUGGED).unwrap();
        rig.guest.front.add_mem_reg(&region).unwrap();
        second.use_buffers(PLUGGED.guest_addr, PLUGGED.size);
        second.burst(&Echo, 8, 200).unwrap();
        rig.guest.front.rem_mem_reg(&region).unwrap();
        rig.guest.memory.remove(PLUGGED.guest_addr).unwrap();
    }
    let (lane, count) = load.stop().unwrap();
    assert!(count > 0);
    rig.guest.lanes = vec![lane];
    rig.round_trip(ECHO);
}

#[test]
fn a_chain_keeps_the_memory_that_it_was_popped_with() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    let region = rig.guest.memory.add(PLUGGED).unwrap();
    rig.guest.front.add_mem_reg(&region).unwrap();
    let lane = &mut rig.guest.lanes[HELD];
    lane.use_buffers(PLUGGED.guest_addr, PLUGGED.size);
    let pending = lane.place_next(&Echo, 5000);
    lane.queue.submit();
    bench.wait_held(&calls, 1);
    rig.guest.front.rem_mem_reg(&region).unwrap();
    bench.run(HELD, |desk, _| desk.held.drain(..).for_each(echo));
    let lane = &mut rig.guest.lanes[HELD];
    let used = lane.queue.wait(lane.end()).unwrap();
    // The front end still has the region, so the answer can be looked at.
    lane.check(&Echo, &pending, used).unwrap();
    // The next chain there is not served.
    lane.place_next(&Echo, 100);
    lane.queue.submit();
    assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 0);
}

#[test]
fn regions_that_overlap_wrap_or_do_not_exist_are_refused() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    let other = vu_testkit::memory::GuestMemory::default();
    for guest_addr in [0x1000, u64::MAX - 0xfff] {
        let region = other.add(RegionSpec::new(guest_addr, 0x2000)).unwrap();
        for refused in [
            rig.guest.front.add_mem_reg(&region),
            rig.guest.front.rem_mem_reg(&region),
        ] {
            assert!(matches!(refused, Err(Error::Refused(..))), "{refused:?}");
        }
    }
    rig.round_trip(ECHO);
}

#[test]
fn a_file_that_is_truncated_stops_the_rings_in_it_and_not_the_process() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, options());
    rig.round_trip(ECHO);
    let lane = &rig.guest.lanes[ECHO];
    let region = rig.guest.memory.regions().into_iter().next().unwrap();
    region.truncate().unwrap();
    lane.queue.force_kick();
    assert!(lane.queue.err.wait_until(lane.end()));
    rig.guest.front.get_features().unwrap();
    // Another guest of the same process is none the wiser.
    let (bench, _calls) = Bench::new();
    Rig::boot(&bench, options()).round_trip(ECHO);
}
