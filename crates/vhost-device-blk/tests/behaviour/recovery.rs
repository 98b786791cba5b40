// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nothing is lost and nothing is done twice: several queues against a model, hanging up, kills, migration.

use std::collections::HashMap;

use crate::support::{
    DEADLINE, Image, SECTORS, SIZE, config, connect, guest_with, offset, options, read, request, sectors,
    write,
};
use vu_testkit::chains::{Framing, Placement};
use vu_testkit::devices::blk::{SECTOR, kind, status};
use vu_testkit::frontend::wire::feature;
use vu_testkit::guest::{ADJACENT, ADJACENT_SIZE, Guest, Lane, Options, Pending, RINGS, RINGS_SIZE};
use vu_testkit::memory::{Mapping, PAGE, RegionSpec};
use vu_testkit::spawn::Daemon;

const QUEUES: u16 = 4;
const ENGINES: [&str; 3] = ["inline", "io-uring", "threads"];

/// A small generator, so that each run is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// The model of one queue's part of the disk: which version of its contents each sector holds.
struct Model {
    start: u64,
    versions: Vec<u64>,
    random: Random,
}

/// A request that is with the device, and what its answer has to be.
struct Expected {
    pending: Pending,
    data: Vec<u8>,
}

impl Model {
    fn new(queue: u16) -> Self {
        let share = SECTORS / u64::from(QUEUES);
        Self {
            start: share * u64::from(queue),
            versions: vec![0; share as usize],
            random: Random(0x1234_5678_9abc_def1 + u64::from(queue)),
        }
    }

    /// Contents of a sector in a version; version 0 is zeroes.
    fn contents(&self, at: usize) -> Vec<u8> {
        match self.versions[at] {
            0 => vec![0; SECTOR],
            version => sectors((self.start + at as u64) << 24 | version, 1),
        }
    }

    fn range(&self, at: usize, count: usize) -> Vec<u8> {
        (at..at + count)
            .map(|at| self.contents(at))
            .collect::<Vec<_>>()
            .concat()
    }

    /// Reads and writes that do not overlap, so that their order is all the same.
    fn batch(&mut self, lane: &mut Lane, count: usize) -> Vec<Expected> {
        let slot = self.versions.len() / count;
        let mut batch = Vec::new();
        for number in 0..count {
            let len = 1 + self.random.below(16.min(slot as u64)) as usize;
            let at = number * slot + self.random.below((slot - len + 1) as u64) as usize;
            let sector = self.start + at as u64;
            let (request, data) = if self.random.below(2) == 0 {
                for version in &mut self.versions[at..at + len] {
                    *version += 1;
                }
                (request(kind::OUT, sector, &self.range(at, len), 1), Vec::new())
            } else {
                (
                    request(kind::IN, sector, &[], len * SECTOR + 1),
                    self.range(at, len),
                )
            };
            let framing = [Framing::Whole, Framing::SplitAt(21), Framing::Pieces(700)][number % 3];
            let placement = [Placement::Direct, Placement::Indirect][number % 2];
            let pending = lane.place(request, framing, placement);
            batch.push(Expected { pending, data });
        }
        batch
    }

    /// Waits for a batch; every answer must be right.
    fn settle(lane: &mut Lane, batch: Vec<Expected>) {
        let mut batch: HashMap<u32, Expected> = batch
            .into_iter()
            .map(|expected| (u32::from(expected.pending.head), expected))
            .collect();
        let end = lane.end();
        while !batch.is_empty() {
            let used = lane.queue.wait(end).unwrap();
            let expected = batch.remove(&used.id).expect("the driver knows its heads");
            let answer = crate::support::answer(lane, &expected.pending, used.len);
            assert_eq!(answer.status, status::OK);
            assert!(
                answer.data == expected.data,
                "a read gave other bytes than were written"
            );
        }
    }

    fn work(&mut self, lane: &mut Lane, rounds: usize) {
        for _ in 0..rounds {
            let batch = self.batch(lane, 20);
            lane.queue.submit();
            Self::settle(lane, batch);
        }
    }

    /// What the host finds in the image.
    fn verify(&self, image: &Image) {
        let found = image.read(self.start, self.versions.len());
        assert!(
            found == self.range(0, self.versions.len()),
            "the image differs from the model"
        );
    }
}

fn models() -> Vec<Model> {
    (0..QUEUES).map(Model::new).collect()
}

fn tracked() -> Options {
    Options {
        size: 256,
        inflight: true,
        ..options()
    }
}

fn daemon(image: &Image, engine: &str, more: &[&str]) -> Daemon {
    let queues = QUEUES.to_string();
    image.spawn(&[&["--aio", engine, "--num-queues", &queues], more].concat())
}

#[test]
fn several_queues_at_once_keep_to_the_model() {
    for engine in ENGINES {
        for threads in ["1", "2"] {
            let image = Image::new(SIZE);
            let daemon = daemon(&image, engine, &["--threads", threads]);
            let mut guest = guest_with(&daemon.socket(), QUEUES, &tracked());
            assert_eq!(config(&guest.front, offset::NUM_QUEUES, 2), u64::from(QUEUES));
            let mut models = models();
            std::thread::scope(|scope| {
                for (lane, model) in guest.lanes.iter_mut().zip(&mut models) {
                    scope.spawn(move || model.work(lane, 100));
                }
            });
            models.iter().for_each(|model| model.verify(&image));
        }
    }
}

/// Interrupts the guest `rounds` times with requests in flight on all queues, and has the model checked each time.
fn interrupted(engine: &str, rounds: usize, mut interrupt: impl FnMut(&mut Daemon)) {
    let image = Image::new(SIZE);
    let mut daemon = daemon(&image, engine, &[]);
    let mut guest = guest_with(&daemon.socket(), QUEUES, &tracked());
    let mut models = models();
    for round in 0..rounds {
        let mut batches = Vec::new();
        for (lane, model) in guest.lanes.iter_mut().zip(&mut models) {
            batches.push(model.batch(lane, 40));
        }
        let before = guest.lanes[0].queue.used_index();
        for lane in &mut guest.lanes {
            lane.queue.submit();
        }
        let end = guest.lanes[0].end();
        let some = (round * 40 / rounds) as u16;
        while guest.lanes[0].queue.used_index().wrapping_sub(before) < some && std::time::Instant::now() < end
        {
            std::hint::spin_loop();
        }
        interrupt(&mut daemon);
        // Hang up before the next connection is made: the daemon serves one at a time.
        let (placeholder, _) = std::os::unix::net::UnixStream::pair().unwrap();
        guest.front = vu_testkit::frontend::FrontEnd::from_stream(placeholder, DEADLINE).unwrap();
        guest.reconnect(connect(&daemon.socket())).unwrap();
        for (lane, batch) in guest.lanes.iter_mut().zip(batches) {
            Model::settle(lane, batch);
        }
    }
    models.iter().for_each(|model| model.verify(&image));
}

#[test]
fn hanging_up_with_requests_in_flight_answers_each_once_on_the_next_connection() {
    for engine in ENGINES {
        interrupted(engine, 20, |_| {});
    }
}

#[test]
fn a_kill_with_requests_in_flight_answers_each_once_by_the_next_daemon() {
    for engine in ENGINES {
        interrupted(engine, 10, |daemon| daemon.restart().unwrap());
    }
}

/// Requests that wait for the limit are in flight for sure.
#[test]
fn requests_that_a_limit_holds_back_survive_a_kill() {
    let image = Image::new(SIZE);
    let mut slow = image.spawn(&["--rate-iops", "1"]);
    let mut guest = guest_with(&slow.socket(), 1, &tracked());
    let lane = guest.lane();
    let batch: Vec<_> = (0..16)
        .map(|number| {
            let out = request(kind::OUT, number, &sectors(number, 1), 1);
            lane.place(out, Framing::Whole, Placement::Direct)
        })
        .collect();
    lane.queue.submit();
    let before = lane.queue.used_index();
    crate::support::wait_until("the first request", || lane.queue.used_index() > 0);
    assert!(
        before < 16 && lane.queue.used_index() < 16,
        "nothing is held back"
    );
    slow.process().kill().unwrap();
    let fast = image.spawn(&[]);
    guest.reconnect(connect(&fast.socket())).unwrap();
    let lane = guest.lane();
    for used in lane.queue.wait_all(lane.end()).unwrap() {
        let pending = batch
            .iter()
            .find(|pending| u32::from(pending.head) == used.id)
            .unwrap();
        assert_eq!(crate::support::answer(lane, pending, used.len).status, status::OK);
    }
    assert_eq!(image.read(0, 16), sectors(0, 16));
}

/// A guest below 4 MiB with a dirty log, which is told of the used ring as well.
fn logged(socket: &std::path::Path) -> (Guest, Mapping) {
    use std::os::fd::AsFd;
    let layout = vec![
        RegionSpec::new(RINGS, RINGS_SIZE),
        RegionSpec::new(ADJACENT, ADJACENT_SIZE),
    ];
    let mut guest = guest_with(socket, 1, &Options { layout, ..options() });
    guest.lane().use_buffers(ADJACENT, ADJACENT_SIZE);
    let bytes = ((RINGS_SIZE + ADJACENT_SIZE) / PAGE / 8).next_multiple_of(PAGE);
    let file = std::fs::File::from(rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(bytes).unwrap();
    guest.front.set_log_base(file.as_fd(), bytes, 0).unwrap();
    guest
        .front
        .set_features(guest.features | feature::LOG_ALL)
        .unwrap();
    (guest, Mapping::new(file.as_fd(), 0, bytes as usize).unwrap())
}

#[test]
fn pages_that_the_kernel_filled_are_in_the_dirty_log() {
    for engine in ENGINES {
        let image = Image::full(SIZE);
        let daemon = image.spawn(&["--aio", engine]);
        let (mut guest, log) = logged(&daemon.socket());
        let lane = guest.lane();
        for (round, count) in [1, 8, 9, 64, 200].into_iter().enumerate() {
            for byte in 0..((RINGS_SIZE + ADJACENT_SIZE) / PAGE / 8) as usize {
                log.write(byte, &[0]);
            }
            let len = (count * SECTOR) as u32;
            let start = ADJACENT + 0x2_0000 * round as u64 + 0x1230;
            let (head, status) = (
                ADJACENT + ADJACENT_SIZE - 0x2000,
                ADJACENT + ADJACENT_SIZE - 0x1000,
            );
            lane.memory
                .write(head, &vu_testkit::devices::blk::header(kind::IN, 40));
            let chain = [
                vu_testkit::chains::Descriptor::readable(head, 16),
                vu_testkit::chains::Descriptor::writable(start, len),
                vu_testkit::chains::Descriptor::writable(status, 1),
            ];
            lane.queue.add(&chain, None);
            lane.queue.submit();
            assert_eq!(lane.queue.wait(lane.end()).unwrap().len, len + 1);
            let mut data = vec![0; len as usize];
            lane.memory.read(start, &mut data);
            assert!(data == sectors(40, count));
            let marked = |addr: u64| log.load_u8((addr / PAGE / 8) as usize) >> (addr / PAGE % 8) & 1 == 1;
            for page in start / PAGE..=(start + u64::from(len) - 1) / PAGE {
                assert!(
                    marked(page * PAGE),
                    "{engine}: page {page:#x} of a read of {count} is not marked"
                );
            }
            assert!(
                marked(status),
                "{engine}: the status was written and is not marked"
            );
            assert!(
                !marked(head) && !marked(start - 2 * PAGE),
                "{engine}: an untouched page is marked"
            );
        }
    }
}

#[test]
fn a_stopped_queue_has_answered_all_that_it_took() {
    for engine in ENGINES {
        let image = Image::new(SIZE);
        let daemon = image.spawn(&["--aio", engine]);
        let mut guest = guest_with(
            &daemon.socket(),
            1,
            &Options {
                size: 256,
                ..options()
            },
        );
        for round in 0..20_u64 {
            let lane = guest.lane();
            for number in 0..60 {
                let sector = number * 32;
                let out = request(kind::OUT, sector, &sectors(sector + round, 32), 1);
                lane.place(out, Framing::Whole, Placement::Direct);
            }
            lane.queue.submit();
            let base = guest.front.get_vring_base(0).unwrap();
            let lane = guest.lane();
            assert_eq!(base, u32::from(lane.queue.used_index()), "{engine}");
            // What was not taken stays in the ring; the image does not change any more.
            let taken = image.read(0, 60 * 32);
            guest.front.get_features().unwrap();
            assert!(
                taken == image.read(0, 60 * 32),
                "{engine}: written after the stop"
            );
            guest.start_ring(0, base as u16).unwrap();
            guest.enable(0, true).unwrap();
            let lane = guest.lane();
            lane.queue.wait_all(lane.end()).unwrap();
        }
        assert_eq!(write(guest.lane(), 0, &sectors(0, 1)), status::OK);
        assert_eq!(read(guest.lane(), 0, 1), sectors(0, 1));
    }
}
