// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drivers that break the rules of the I2C adapter, over the real socket of the real daemon: what they get, what reaches
//! the bus, and that every request comes back once, also when the daemon is killed in the middle of a group.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vu_testkit::chains::{Descriptor, Framing, Placement, Request};
use vu_testkit::devices::FILL;
use vu_testkit::devices::i2c::{
    ARGS, ARGS_BLOCKING, DEGREES, HEADER, NOBODY, REGISTERS, SENSOR, flag, i2c, read, status, write,
};
use vu_testkit::driver::write_indirect;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};
use vu_testkit::process;
use vu_testkit::spawn::{Daemon, Launch, TempDir};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-i2c");
/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes of a message unless told otherwise.
const MAX_MESSAGE: usize = 8192;

struct Rig {
    guest: Guest,
    daemon: Daemon,
}

impl Rig {
    fn new() -> Self {
        Self::with(ARGS, Options::default())
    }

    fn with(args: &[&str], options: Options) -> Self {
        let daemon = Daemon::spawn(&Launch::ours(PROGRAM, args)).unwrap();
        let guest = boot(&daemon, options);
        Self { guest, daemon }
    }

    fn lane(&mut self) -> &mut Lane {
        self.guest.lane()
    }

    /// The status of one request.
    fn status(&mut self, request: Request) -> u8 {
        *ask(self.lane(), request).1.last().unwrap()
    }

    fn set(&mut self, register: u8, data: &[u8]) {
        let data = [&[register], data].concat();
        assert_eq!(
            ask(self.lane(), write(REGISTERS, 0, &data)),
            (1, vec![status::OK])
        );
    }

    /// Registers from this one on.
    fn get(&mut self, register: u8, len: usize) -> Vec<u8> {
        let lane = self.lane();
        let group = [
            write(REGISTERS, flag::FAIL_NEXT, &[register]),
            read(REGISTERS, 0, len),
        ];
        let mut answers = together(lane, &group);
        let (mut data, first) = (answers.pop().unwrap(), answers.pop().unwrap());
        assert_eq!((first, data.pop()), (vec![status::OK], Some(status::OK)));
        data
    }

    /// Another guest comes when this one has left.
    fn next_guest(&mut self) {
        let (placeholder, _) = UnixStream::pair().unwrap();
        self.guest.front = FrontEnd::from_stream(placeholder, DEADLINE).unwrap();
        self.guest = boot(&self.daemon, Options::default());
    }

    fn still_serves(mut self) {
        // The requests of the profile know registers as it fills them, and as they are at first.
        self.status(write(REGISTERS, 0, &[])); // may be the end of a group
        self.set(0, &[0; 256]);
        self.lane().burst(&i2c(), 64, 16).unwrap();
        self.next_guest();
        self.lane().burst(&i2c(), 64, 16).unwrap();
        assert_eq!(self.guest.front.peer_pid(), Some(self.daemon.pid()));
    }
}

fn boot(daemon: &Daemon, options: Options) -> Guest {
    let options = Options {
        deadline: DEADLINE,
        ..options
    };
    Guest::boot(connect(daemon), &i2c(), &options).unwrap()
}

fn connect(daemon: &Daemon) -> FrontEnd {
    // A daemon that was killed leaves its socket, at which nobody listens until the next one is ready.
    let end = Instant::now() + DEADLINE;
    loop {
        match FrontEnd::connect(&daemon.socket(), DEADLINE) {
            Ok(front) => return front,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// One request; the used length and the writable bytes.
fn ask(lane: &mut Lane, request: Request) -> (u32, Vec<u8>) {
    ask_as(lane, request, Framing::Whole, Placement::Direct)
}

fn ask_as(lane: &mut Lane, request: Request, framing: Framing, placement: Placement) -> (u32, Vec<u8>) {
    let pending = lane.place(request, framing, placement);
    lane.queue.submit();
    let used = lane.queue.wait(lane.end()).unwrap();
    assert_eq!(used.id, u32::from(pending.head));
    (used.len, lane.answer(&pending))
}

fn place(lane: &mut Lane, requests: &[Request]) -> Vec<Pending> {
    let each =
        |request: &Request| lane.place(request.clone(), Framing::Fields(HEADER, 1), Placement::Indirect);
    requests.iter().map(each).collect()
}

/// Requests that are made available at once; the writable bytes of each. They come back in order.
fn together(lane: &mut Lane, requests: &[Request]) -> Vec<Vec<u8>> {
    let pending = place(lane, requests);
    lane.queue.submit();
    let used = lane.queue.wait_all(lane.end()).unwrap();
    let heads: Vec<u32> = used.iter().map(|used| used.id).collect();
    let expected: Vec<u32> = pending.iter().map(|pending| pending.head.into()).collect();
    assert_eq!(heads, expected);
    pending.iter().map(|pending| lane.answer(pending)).collect()
}

/// The statuses of these.
fn statuses(lane: &mut Lane, requests: &[Request]) -> Vec<u8> {
    let answers = together(lane, requests);
    answers.iter().map(|answer| *answer.last().unwrap()).collect()
}

/// A request with other bytes of `addr` and `flags`.
fn odd(addr: u16, flags: u32, data: &[u8], writable: usize) -> Request {
    let mut readable = addr.to_le_bytes().to_vec();
    readable.extend([0; 2]);
    readable.extend(flags.to_le_bytes());
    readable.extend(data);
    Request { readable, writable }
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let mut rig = Rig::with(
        ARGS,
        Options {
            size: 128,
            ..Options::default()
        },
    );
    let data: Vec<u8> = (1..=20).collect();
    for placement in [Placement::Direct, Placement::Indirect, Placement::IndirectTail] {
        let cuts = (1..30).map(Framing::SplitAt);
        for framing in cuts.chain([Framing::Pieces(1), Framing::Pieces(3), Framing::Fields(8, 1)]) {
            rig.set(40, &[0; 20]);
            let request = write(REGISTERS, 0, &[&[40], &data[..]].concat());
            let answer = ask_as(rig.lane(), request, framing, placement);
            assert_eq!(answer, (1, vec![status::OK]), "{framing:?} {placement:?}");
            rig.set(40, &[]);
            let (used, answer) = ask_as(rig.lane(), read(REGISTERS, 0, 20), framing, placement);
            assert_eq!((used, &answer[..20], answer[20]), (21, &data[..], status::OK));
        }
    }
    rig.still_serves();
}

/// Requests to the registers that are malformed, too long or for nobody, and would write to the first of them otherwise.
fn malformed() -> Vec<(String, Request)> {
    let to = u16::from(REGISTERS) << 1;
    let header = odd(to, 0, &[], 1).readable;
    let mut table: Vec<(String, Request)> = (1..8)
        .map(|len| {
            (
                format!("{len} bytes of header"),
                Request {
                    readable: header[..len].to_vec(),
                    writable: 1,
                },
            )
        })
        .collect();
    for bit in 2..32 {
        table.push((format!("flag {bit}"), odd(to, 1 << bit, &[0, 0xee], 1)));
        table.push((
            format!("flag {bit} of a read"),
            odd(to, 1 << bit | flag::M_RD, &[], 9),
        ));
    }
    for (addr, what) in [
        (to | 1, "bit 0"),
        (to | 0x100, "bit 8"),
        (to | 0x8000, "bit 15"),
        (0xffff, "all bits"),
    ] {
        table.push((format!("address with {what}"), odd(addr, 0, &[0, 0xee], 1)));
    }
    table.push(("a write with writable data".into(), odd(to, 0, &[0, 0xee], 9)));
    table.push(("a write with writable data alone".into(), odd(to, 0, &[], 9)));
    table.push((
        "a read with readable data".into(),
        odd(to, flag::M_RD, &[0, 0xee], 9),
    ));
    table.push((
        "a read with readable data alone".into(),
        odd(to, flag::M_RD, &[0, 0xee], 1),
    ));
    table.push((
        "too long a write".into(),
        write(REGISTERS, 0, &vec![0xee; MAX_MESSAGE + 1]),
    ));
    table.push(("too long a read".into(), read(REGISTERS, 0, MAX_MESSAGE + 1)));
    table.push(("nobody there".into(), write(NOBODY, 0, &[0, 0xee])));
    table
}

#[test]
fn a_malformed_request_gets_an_error_and_does_not_reach_the_bus() {
    let mut rig = Rig::new();
    rig.set(0, &[0x11; 8]);
    for (what, request) in malformed() {
        let total = request.writable;
        let (used, answer) = ask(rig.lane(), request);
        assert_eq!(answer.last(), Some(&status::ERR), "{what}");
        assert!(
            (1..=total).contains(&(used as usize)),
            "{what}: used length {used}"
        );
    }
    let to = u16::from(REGISTERS) << 1;
    // No room for a status.
    for request in [odd(to, 0, &[0, 0xee], 0), odd(to, flag::M_RD, &[], 0)] {
        assert_eq!(ask(rig.lane(), request).0, 0);
    }
    assert_eq!(rig.get(0, 8), [0x11; 8], "something was written");
    rig.still_serves();
}

#[test]
fn of_all_values_of_the_address_two_are_somebody() {
    let mut rig = Rig::with(
        ARGS,
        Options {
            size: 1024,
            ..Options::default()
        },
    );
    let lane = rig.lane();
    let mut found = Vec::new();
    for block in 0..256_u16 {
        let all: Vec<u16> = (block * 256..=block * 256 + 255).collect();
        let requests: Vec<_> = all.iter().map(|addr| odd(*addr, 0, &[], 1)).collect();
        let answers = statuses(lane, &requests);
        found.extend(
            all.iter()
                .zip(answers)
                .filter(|(_, answer)| *answer == status::OK)
                .map(|(addr, _)| *addr),
        );
    }
    assert_eq!(found, [u16::from(REGISTERS) << 1, u16::from(SENSOR) << 1]);
    rig.still_serves();
}

#[test]
fn zero_length_requests_are_answered_by_who_is_there() {
    let mut rig = Rig::new();
    for (address, expected) in [
        (REGISTERS, status::OK),
        (SENSOR, status::OK),
        (NOBODY, status::ERR),
    ] {
        for request in [write(address, 0, &[]), read(address, 0, 0)] {
            assert_eq!(ask(rig.lane(), request), (1, vec![expected]), "{address:#x}");
        }
    }
    rig.still_serves();
}

#[test]
fn what_is_queued_beside_a_request_that_is_allowed_is_checked_for_itself() {
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("eeprom");
    fs::write(&image, [0x55; 256]).unwrap();
    let bus = format!("sim:regs@0x20,24c02@0x50={}:0x20", image.display());
    let mut rig = Rig::with(&["--bus", &bus], Options::default());
    let (good, bad) = (write(REGISTERS, 0, &[0, 7]), write(0x50, 0, &[0, 0xee]));
    let row = [&good, &bad, &good, &read(0x50, 0, 8), &good].map(Clone::clone);
    let lane = rig.lane();
    assert_eq!(statuses(lane, &row), [0, 1, 0, 1, 0]);
    // In one group with what is allowed.
    let open = write(REGISTERS, flag::FAIL_NEXT, &[0, 9]);
    let last = statuses(lane, &[open.clone(), bad]);
    assert_eq!(last[1], status::ERR);
    let answers = together(lane, &[open, read(0x50, 0, 8)]);
    assert!(!answers[1].contains(&0x55), "{answers:x?}");
    assert_eq!(fs::read(&image).unwrap(), [0x55; 256]);
    assert_eq!(rig.get(0, 1), [7], "half a group was done");
}

#[test]
fn after_a_failure_the_rest_of_its_group_fails_and_the_next_group_does_not() {
    for args in [ARGS, ARGS_BLOCKING] {
        let mut rig = Rig::with(args, Options::default());
        let open = |register, value| write(REGISTERS, flag::FAIL_NEXT, &[register, value]);
        let close = |register, value| write(REGISTERS, 0, &[register, value]);
        let bad = write(NOBODY, flag::FAIL_NEXT, &[0]);
        for round in 0..100 {
            rig.set(0, &[0; 8]);
            let row = [
                bad.clone(),
                open(0, 1),
                open(1, 1),
                close(2, 1),
                open(3, 1),
                close(4, 1),
            ];
            assert_eq!(statuses(rig.lane(), &row), [1, 1, 1, 1, 0, 0], "round {round}");
            assert_eq!(rig.get(0, 6), [0, 0, 0, 1, 1, 0]);
            // What a group that failed begins with may have been done, but what follows the failure is not.
            let row = [open(5, 1), bad.clone(), open(6, 1), close(7, 1)];
            assert_eq!(statuses(rig.lane(), &row)[1..], [1, 1, 1], "round {round}");
            assert_eq!(rig.get(6, 2), [0, 0]);
            // A group may come in two parts: the failure of the first is that of the second.
            assert_eq!(statuses(rig.lane(), std::slice::from_ref(&bad)), [1]);
            assert_eq!(statuses(rig.lane(), &[close(6, 1)]), [1], "the rest of a group");
            assert_eq!(statuses(rig.lane(), &[close(7, 1)]), [0], "a group of its own");
            assert_eq!(rig.get(6, 2), [0, 1]);
        }
        rig.still_serves();
    }
}

#[test]
fn a_storm_of_groups_that_never_end_is_answered() {
    for args in [ARGS, ARGS_BLOCKING] {
        let mut rig = Rig::with(
            args,
            Options {
                size: 1024,
                ..Options::default()
            },
        );
        let began = Instant::now();
        for round in 0..20_u8 {
            // 43 messages are more than Linux takes at once.
            for count in [1, 41, 42, 43, 44, 500, 1024] {
                let request = write(REGISTERS, flag::FAIL_NEXT, &[round, 1]);
                assert_eq!(statuses(rig.lane(), &vec![request; count]).len(), count);
            }
        }
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
        let resident = process::resident(rig.daemon.pid()).unwrap();
        assert!(resident < 64 << 20, "{resident} bytes");
        assert!(
            rig.daemon.log().lines() < 100,
            "{} lines",
            rig.daemon.log().lines()
        );
        rig.still_serves();
    }
}

#[test]
fn groups_are_served_by_a_ring_of_four() {
    let mut rig = Rig::with(
        ARGS,
        Options {
            size: 4,
            ..Options::default()
        },
    );
    let data: Vec<u8> = (100..116).collect();
    for _ in 0..500 {
        rig.set(7, &data);
        assert_eq!(rig.get(7, 16), data);
        let row = [
            write(REGISTERS, flag::FAIL_NEXT, &[7]),
            read(REGISTERS, flag::FAIL_NEXT, 8),
            read(REGISTERS, flag::FAIL_NEXT, 8),
            read(SENSOR, 0, 2),
        ];
        let answers = together(rig.lane(), &row);
        assert_eq!([&answers[1][..8], &answers[2][..8]].concat(), data);
        assert_eq!(answers[3][..2], DEGREES);
    }
    rig.still_serves();
}

#[test]
fn four_gib_by_one_buffer_many_times_cost_nothing() {
    let mut rig = Rig::with(
        ARGS,
        Options {
            size: 1024,
            ..Options::default()
        },
    );
    let lane = rig.guest.lane();
    let header = lane.allocate(8, 8);
    let end = lane.allocate(1, 1);
    let buffer = lane.allocate(2 << 20, 4096);
    let table = lane.allocate(16 * 1024, 16);
    for (flags, count) in [(0, 1000), (flag::M_RD, 1000), (0, 1022), (flag::M_RD, 1022)] {
        lane.memory.write(header, &write(REGISTERS, flags, &[]).readable);
        let data = if flags == 0 {
            Descriptor::readable(buffer, 2 << 20)
        } else {
            Descriptor::writable(buffer, 2 << 20)
        };
        let mut chain = vec![Descriptor::readable(header, 8)];
        chain.extend(vec![data; count]);
        chain.push(Descriptor::writable(end, 1));
        for _ in 0..50 {
            lane.memory.write(end, &[FILL]);
            let writable = if flags == 0 { 1 } else { (count as u64) << 21 | 1 };
            lane.queue
                .add(&[write_indirect(&lane.memory, table, &chain)], Some(writable));
            lane.queue.submit();
            let used = lane.queue.wait(lane.end()).unwrap().len;
            let mut status = [0];
            lane.memory.read(end, &mut status);
            assert!(
                status[0] == status::ERR || used == 0,
                "{flags} {count}: {status:?}, used length {used}"
            );
        }
    }
    let resident = process::resident(rig.daemon.pid()).unwrap();
    assert!(resident < 64 << 20, "{resident} bytes");
    rig.still_serves();
}

#[test]
fn a_guest_that_leaves_in_the_middle_of_a_group_leaves_nothing_to_the_next() {
    for bus in ["sim:regs@0x20,lm75@0x48=23.5", "sim:slow@0x20=3ms,lm75@0x48=23.5"] {
        let mut rig = Rig::with(&["--bus", bus], Options::default());
        for _ in 0..30 {
            let open = [
                write(NOBODY, flag::FAIL_NEXT, &[0]),
                read(REGISTERS, flag::FAIL_NEXT, 8),
            ];
            let lane = rig.lane();
            place(lane, &open);
            lane.queue.submit();
            rig.next_guest();
            // The rest of the group is not this guest's.
            assert_eq!(rig.status(write(REGISTERS, 0, &[3, 9])), status::OK);
            let lane = rig.lane();
            place(lane, &vec![read(REGISTERS, flag::FAIL_NEXT, 8); 20]);
            lane.queue.submit();
            rig.next_guest();
        }
        rig.still_serves();
    }
}

#[test]
fn a_kill_in_the_middle_of_groups_loses_and_repeats_none() {
    for bus in ["sim:regs@0x20,lm75@0x48=23.5", "sim:slow@0x20=2ms,lm75@0x48=23.5"] {
        let mut rig = Rig::with(
            &["--bus", bus],
            Options {
                inflight: true,
                size: 256,
                ..Options::default()
            },
        );
        for round in 0..6 {
            let group = [
                write(REGISTERS, flag::FAIL_NEXT, &[16, 1, 2, 3]),
                read(SENSOR, flag::FAIL_NEXT, 4),
                read(SENSOR, 0, 2),
            ];
            let lane = rig.guest.lane();
            let pending: Vec<_> = (0..20).flat_map(|_| place(lane, &group)).collect();
            let before = lane.queue.used_index();
            lane.queue.submit();
            while lane.queue.used_index().wrapping_sub(before) < 1 + round * 7 {
                std::thread::yield_now();
            }
            rig.daemon.restart().unwrap();
            let front = connect(&rig.daemon);
            rig.guest.reconnect(front).unwrap();
            let lane = rig.guest.lane();
            // The driver half finds a head that comes back twice.
            let used = lane.queue.wait_all(lane.end()).unwrap();
            assert_eq!(used.len(), pending.len());
            for (at, pending) in pending.iter().enumerate() {
                let answer = lane.answer(pending);
                let (status, data) = answer.split_last().unwrap();
                assert_eq!(*status, status::OK, "round {round}, request {at}");
                assert!(
                    data.chunks(2).all(|chunk| chunk == DEGREES),
                    "round {round}, request {at}: {data:x?}"
                );
            }
        }
        rig.still_serves();
    }
}
