// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live migration: the dirty log, and the state beside the rings.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vu_testkit::chains::{Descriptor, Framing, Placement, Request};
use vu_testkit::frontend::Error;
use vu_testkit::frontend::wire::feature;
use vu_testkit::guest::{BUFFERS, BUFFERS_SIZE, Load, Options};
use vu_testkit::memory::{Mapping, PAGE};

use crate::support::{Bench, Call, ECHO, Echo, HELD, Rig};

/// A log for all of the guest's memory, as the front end sees it.
struct Log {
    file: std::os::fd::OwnedFd,
    map: Mapping,
    len: usize,
}

impl Log {
    fn new() -> Self {
        let len = ((BUFFERS + BUFFERS_SIZE) / PAGE / 8) as usize;
        let file = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, len as u64).unwrap();
        let map = Mapping::new(file.as_fd(), 0, len).unwrap();
        Self { file, map, len }
    }

    /// Numbers of the pages that are marked.
    fn pages(&self) -> BTreeSet<u64> {
        let mut bytes = vec![0; self.len];
        self.map.read(0, &mut bytes);
        let bits = |(at, byte): (usize, &u8)| {
            let byte = *byte;
            (0..8_u64)
                .filter(move |bit| byte & 1 << bit != 0)
                .map(move |bit| at as u64 * 8 + bit)
        };
        bytes.iter().enumerate().flat_map(bits).collect()
    }

    fn clear(&self) {
        self.map.write(0, &vec![0; self.len]);
    }
}

fn start_logging(rig: &Rig, log: &Log) {
    let front = &rig.guest.front;
    front.set_log_base(log.file.as_fd(), log.len as u64, 0).unwrap();
    set_logging(rig, true);
}

/// What a front end sends to running rings when it starts or ends to log.
fn set_logging(rig: &Rig, on: bool) {
    let front = &rig.guest.front;
    let bit = if on { feature::LOG_ALL } else { 0 };
    front.set_features(rig.guest.features | bit).unwrap();
    for lane in &rig.guest.lanes {
        let (queue, memory) = (&lane.queue, &rig.guest.memory);
        front
            .set_vring_addr(
                queue.index,
                memory,
                queue.address,
                on.then_some(queue.address.used),
            )
            .unwrap();
    }
}

fn pages(addr: u64, len: u64) -> std::ops::RangeInclusive<u64> {
    addr / PAGE..=(addr + len - 1) / PAGE
}

/// The pages of the used ring, of which some must be marked.
fn used_ring(rig: &Rig, q: usize) -> BTreeSet<u64> {
    let queue = &rig.guest.lanes[q].queue;
    pages(queue.address.used, 6 + 8 * u64::from(queue.size)).collect()
}

#[test]
fn the_log_names_the_writable_pages_and_the_used_ring_and_no_others() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    rig.round_trip(ECHO);
    let log = Log::new();
    start_logging(&rig, &log);
    assert_eq!(log.pages(), BTreeSet::new());
    let lane = &mut rig.guest.lanes[ECHO];
    // Three pages from the middle of one to the middle of another, and a buffer alone in its page.
    let long = BUFFERS + 0x10_0800;
    let short = BUFFERS + 0x20_0010;
    let descriptors = [
        Descriptor::readable(BUFFERS + 0x30_0000, 3 * PAGE as u32),
        Descriptor::writable(long, 2 * PAGE as u32),
        Descriptor::writable(short, 1),
    ];
    lane.queue.add(&descriptors, None);
    lane.queue.submit();
    assert_eq!(lane.queue.wait(lane.end()).unwrap().len, 2 * PAGE as u32 + 1);
    let mut expected: BTreeSet<u64> = pages(long, 2 * PAGE).chain(pages(short, 1)).collect();
    let marked = log.pages();
    let used = used_ring(&rig, ECHO);
    assert!(marked.intersection(&used).next().is_some());
    expected.extend(marked.intersection(&used));
    assert_eq!(marked, expected);
    set_logging(&rig, false);
    log.clear();
    rig.round_trip(ECHO);
    assert_eq!(log.pages(), BTreeSet::new());
}

#[test]
fn the_log_names_what_the_kernel_wrote_and_what_another_thread_answered() {
    let (bench, calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let log = Log::new();
    start_logging(&rig, &log);
    let lane = &mut rig.guest.lanes[HELD];
    let request = Request {
        readable: Vec::new(),
        writable: 4 * PAGE as usize,
    };
    let at = lane.allocate(0, PAGE);
    lane.place(request, Framing::Whole, Placement::Indirect);
    lane.queue.submit();
    bench.wait_held(&calls, 1);
    let mut chain = bench.take_held().remove(0);
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[1; 5000]).unwrap();
    assert_eq!(
        chain.writer().read_from(reader.as_fd(), usize::MAX).unwrap(),
        5000
    );
    chain.complete(5000);
    let lane = &mut rig.guest.lanes[HELD];
    lane.queue.wait(lane.end()).unwrap();
    let marked = log.pages();
    for page in pages(at, 5000) {
        assert!(marked.contains(&page), "page {page:#x} of {marked:x?}");
    }
    assert!(!marked.is_disjoint(&used_ring(&rig, HELD)));
}

#[test]
fn logging_is_turned_on_and_off_while_the_ring_runs() {
    let (bench, _calls) = Bench::new();
    let mut rig = Rig::boot(&bench, Options::default());
    let log = Log::new();
    rig.guest
        .front
        .set_log_base(log.file.as_fd(), log.len as u64, 0)
        .unwrap();
    let lane = rig.guest.lanes.remove(ECHO);
    let (queue, address) = (lane.queue.index, lane.queue.address);
    let load = Load::start(lane, std::sync::Arc::new(Echo), 64);
    for round in 0..200 {
        let on = round % 2 == 0;
        set_logging(&rig, on);
        let log = on.then_some(address.used);
        rig.guest
            .front
            .set_vring_addr(queue, &rig.guest.memory, address, log)
            .unwrap();
    }
    let (lane, count) = load.stop().unwrap();
    assert!(count > 0);
    rig.guest.lanes.insert(ECHO, lane);
    rig.round_trip(ECHO);
}

fn stop_all(rig: &Rig) {
    for q in 0..3 {
        rig.guest.front.get_vring_base(q).unwrap();
    }
}

#[test]
fn the_state_is_saved_and_loaded_through_a_pipe() {
    let (bench, calls) = Bench::new();
    let rig = Rig::boot(&bench, Options::default());
    let front = &rig.guest.front;
    let (reader, writer) = std::io::pipe().unwrap();
    let early = front.set_device_state_fd(false, writer.as_fd());
    assert!(
        matches!(early, Err(Error::Refused(..))),
        "the rings run: {early:?}"
    );
    stop_all(&rig);
    // More than a pipe holds, so that the transfer has to wait for us.
    let state: Vec<u8> = (0..300_000).map(|at: u32| at as u8).collect();
    bench.state.lock().unwrap().clone_from(&state);
    front.set_device_state_fd(false, writer.as_fd()).unwrap();
    drop(writer);
    let mut saved = Vec::new();
    (&reader).read_to_end(&mut saved).unwrap();
    assert!(saved == state);
    front.check_device_state().unwrap();
    calls.take();

    let (reader, mut writer) = std::io::pipe().unwrap();
    front.set_device_state_fd(true, reader.as_fd()).unwrap();
    writer.write_all(&saved).unwrap();
    drop(writer);
    front.check_device_state().unwrap();
    assert_eq!(calls.take(), [Call::Load(state)]);
    let twice = front.check_device_state();
    assert!(matches!(twice, Err(Error::Refused(..))), "{twice:?}");
}

#[test]
fn a_state_that_cannot_be_loaded_fails_the_check() {
    let (bench, calls) = Bench::new();
    let rig = Rig::boot(&bench, Options::default());
    stop_all(&rig);
    calls.take();
    let front = &rig.guest.front;
    let (reader, mut writer) = std::io::pipe().unwrap();
    front.set_device_state_fd(true, reader.as_fd()).unwrap();
    writer.write_all(b"bad").unwrap();
    drop(writer);
    let bad = front.check_device_state();
    assert!(matches!(bad, Err(Error::Refused(..))), "{bad:?}");

    // One byte more than is taken in.
    let file = memfd_create("state", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, (64 << 20) + 1).unwrap();
    front.set_device_state_fd(true, file.as_fd()).unwrap();
    let large = front.check_device_state();
    assert!(matches!(large, Err(Error::Refused(..))), "{large:?}");
    assert_eq!(calls.take(), []);
    front.get_features().unwrap();
}
