// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drivers that break the rules of the GPIO device, over the real socket of the real daemon: what they get, and that no
//! buffer is lost or comes back twice, neither then nor when the ring stops or the daemon is killed.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vu_testkit::chains::{Descriptor, Framing, Placement, Request};
use vu_testkit::devices::gpio::{
    ARGS, EVENTQ, Gpio, LINES, direction, event, gpio, irq, irq_status, kind, message, names, status,
};
use vu_testkit::devices::{FILL, Profile as _};
use vu_testkit::driver::{Used, write_indirect};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};
use vu_testkit::process;
use vu_testkit::spawn::{Daemon, Launch};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-gpio");
/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon on the board of the kit, where line 1 follows line 0, and a guest.
struct Rig {
    guest: Guest,
    daemon: Daemon,
    profile: Gpio,
}

impl Rig {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let profile = gpio();
        let launch = Launch::ours(PROGRAM, ARGS).on(profile.storage().as_deref());
        let daemon = Daemon::spawn(&launch).unwrap();
        let guest = boot(&daemon, &profile, options);
        Self {
            guest,
            daemon,
            profile,
        }
    }

    fn ask(&mut self, kind: u16, line: u16, value: u32) -> (u8, u8) {
        let (_, answer) = ask(self.guest.lane(), message(kind, line, value));
        (answer[0], answer[1])
    }

    /// The same for a message that must succeed.
    fn tell(&mut self, kind: u16, line: u16, value: u32) {
        assert_eq!(
            self.ask(kind, line, value),
            (status::OK, 0),
            "message {kind}, line {line}"
        );
    }

    /// Makes `line` an input whose interrupt is enabled.
    fn arm(&mut self, line: u16, trigger: u32) {
        self.tell(kind::SET_DIRECTION, line, direction::IN);
        self.tell(kind::SET_IRQ_TYPE, line, trigger);
    }

    fn events(&mut self) -> &mut Lane {
        &mut self.guest.lanes[usize::from(EVENTQ)]
    }

    /// Puts a buffer on the event queue.
    fn park(&mut self, line: u16) -> Pending {
        let lane = self.events();
        let pending = lane.place(event(line), Framing::Whole, Placement::Direct);
        lane.queue.submit();
        pending
    }

    /// The next buffer that comes back, and its status.
    fn next(&mut self) -> Used {
        let lane = self.events();
        lane.queue.wait(lane.end()).unwrap()
    }

    /// Waits for this buffer; gives its status.
    fn back(&mut self, pending: &Pending) -> u8 {
        let used = self.next();
        assert_eq!((used.id, used.len), (pending.head.into(), 1));
        self.events().answer(pending)[0]
    }

    /// Nothing has come back that was not asked for: messages on the other queue are the barrier.
    fn quiet(&mut self) {
        for _ in 0..4 {
            self.tell(kind::SET_VALUE, 6, 0);
        }
        assert_eq!(self.events().queue.pop().unwrap(), None);
    }

    /// Another guest comes when this one has left.
    fn next_guest(&mut self) {
        let (placeholder, _) = UnixStream::pair().unwrap();
        self.guest.front = FrontEnd::from_stream(placeholder, DEADLINE).unwrap();
        self.guest = boot(&self.daemon, &self.profile, Options::default());
    }

    fn still_serves(mut self) {
        self.guest.lane().burst(&self.profile, 64, 16).unwrap();
        self.next_guest();
        self.guest.lane().burst(&self.profile, 64, 16).unwrap();
        assert_eq!(self.guest.front.peer_pid(), Some(self.daemon.pid()));
    }
}

fn boot(daemon: &Daemon, profile: &Gpio, options: Options) -> Guest {
    let options = Options {
        deadline: DEADLINE,
        ..options
    };
    Guest::boot(connect(daemon), profile, &options).unwrap()
}

fn connect(daemon: &Daemon) -> FrontEnd {
    // The former connection may have ended a moment ago only.
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

fn raw(readable: &[u8], writable: usize) -> Request {
    Request {
        readable: readable.to_vec(),
        writable,
    }
}

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

#[test]
fn buffers_for_lines_that_cannot_interrupt_come_back_at_once() {
    let mut rig = Rig::new();
    for line in [0, 7, LINES, 0x100, u16::MAX] {
        let pending = rig.park(line);
        assert_eq!(rig.back(&pending), irq_status::INVALID, "line {line}");
    }
    for (readable, writable, used) in [(0, 1, 1), (1, 1, 1), (0, 0, 0), (1, 9, 1), (2, 0, 0), (64, 1, 1)] {
        if readable + writable == 0 {
            continue; // a chain has at least one descriptor
        }
        let (len, answer) = ask(rig.events(), raw(&vec![0xff; readable], writable));
        assert_eq!(len, used, "{readable} readable, {writable} writable");
        assert!(answer.first().is_none_or(|status| *status == irq_status::INVALID));
    }
    rig.still_serves();
}

#[test]
fn a_flood_of_invalid_lines_does_not_keep_a_good_one_from_interrupting() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.arm(1, irq::EDGE_BOTH);
    let good = rig.park(1);
    for round in 0..200 {
        let lane = rig.events();
        let place =
            |number: u16| lane.place(event(LINES + number * 0x400), Framing::Whole, Placement::Direct);
        let flood: Vec<_> = (0..30).map(place).collect();
        lane.queue.submit();
        for _ in &flood {
            let used = lane.queue.wait(lane.end()).unwrap();
            assert_eq!(used.len, 1, "round {round}");
            let found = flood.iter().find(|pending| u32::from(pending.head) == used.id);
            assert_eq!(
                lane.answer(found.expect("one of the flood"))[0],
                irq_status::INVALID
            );
        }
    }
    rig.tell(kind::SET_VALUE, 0, 1);
    assert_eq!(rig.back(&good), irq_status::VALID);
    assert!(
        rig.daemon.log().lines() < 100,
        "{} lines",
        rig.daemon.log().lines()
    );
    rig.still_serves();
}

#[test]
fn of_two_buffers_for_a_line_each_comes_back_once() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.arm(1, irq::EDGE_RISING);
    for _ in 0..20 {
        let first = rig.park(1);
        let second = rig.park(1);
        let used = rig.next();
        let (early, late) = if used.id == u32::from(first.head) {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!((used.id, used.len), (early.head.into(), 1));
        assert_eq!(rig.events().answer(&early)[0], irq_status::INVALID);
        rig.tell(kind::SET_VALUE, 0, 1);
        assert_eq!(rig.back(&late), irq_status::VALID);
        rig.tell(kind::SET_VALUE, 0, 0);
        rig.quiet();
    }
    rig.still_serves();
}

#[test]
fn changing_the_trigger_or_the_direction_while_a_buffer_is_parked_does_not_lose_it() {
    let mut rig = Rig::new();
    let table: [&[(u16, u32)]; 7] = [
        &[(kind::SET_IRQ_TYPE, irq::NONE)],
        &[(kind::SET_DIRECTION, direction::NONE)],
        &[
            (kind::SET_IRQ_TYPE, irq::EDGE_FALLING),
            (kind::SET_IRQ_TYPE, irq::NONE),
        ],
        &[
            (kind::SET_IRQ_TYPE, irq::LEVEL_HIGH),
            (kind::SET_DIRECTION, direction::NONE),
        ],
        &[
            (kind::SET_DIRECTION, direction::IN),
            (kind::SET_IRQ_TYPE, irq::NONE),
        ],
        &[
            (kind::SET_DIRECTION, direction::OUT),
            (kind::SET_IRQ_TYPE, irq::NONE),
        ],
        &[
            (kind::SET_DIRECTION, direction::OUT),
            (kind::SET_VALUE, 1),
            (kind::SET_VALUE, 0),
            (kind::SET_DIRECTION, direction::NONE),
        ],
    ];
    for messages in table {
        rig.arm(7, irq::EDGE_RISING);
        let pending = rig.park(7);
        rig.quiet();
        for (kind, value) in messages {
            // Some of these are mistakes of the driver, which may be refused.
            rig.ask(*kind, 7, *value);
        }
        let used = rig.next();
        assert_eq!((used.id, used.len), (pending.head.into(), 1), "{messages:?}");
        rig.tell(kind::SET_DIRECTION, 7, direction::NONE);
        rig.quiet();
    }
    rig.still_serves();
}

#[test]
fn a_level_comes_back_with_each_unmasking_for_as_long_as_it_lasts() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    for (trigger, active) in [(irq::LEVEL_HIGH, 1), (irq::LEVEL_LOW, 0)] {
        rig.tell(kind::SET_VALUE, 0, 1 - active);
        rig.arm(1, trigger);
        let pending = rig.park(1);
        rig.quiet();
        rig.tell(kind::SET_VALUE, 0, active);
        assert_eq!(rig.back(&pending), irq_status::VALID);
        for _ in 0..50 {
            let pending = rig.park(1);
            assert_eq!(rig.back(&pending), irq_status::VALID, "still active");
        }
        rig.tell(kind::SET_VALUE, 0, 1 - active);
        let pending = rig.park(1);
        rig.quiet();
        rig.tell(kind::SET_IRQ_TYPE, 1, irq::NONE);
        assert_eq!(rig.back(&pending), irq_status::INVALID);
    }
    rig.still_serves();
}

#[test]
fn twenty_thousand_edges_while_the_line_is_read_lose_none() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.arm(1, irq::EDGE_BOTH);
    for number in 0..20_000_u32 {
        let pending = rig.park(1);
        let level = 1 - number % 2;
        // The edge, and reads of the line at the same time.
        let lane = rig.guest.lane();
        for request in [
            message(kind::GET_VALUE, 1, 0),
            message(kind::SET_VALUE, 0, level),
            message(kind::GET_VALUE, 1, 0),
        ] {
            lane.place(request, Framing::Whole, Placement::Direct);
        }
        lane.queue.submit();
        assert_eq!(lane.queue.wait_all(lane.end()).unwrap().len(), 3);
        assert_eq!(rig.back(&pending), irq_status::VALID, "edge {number}");
    }
    // While it is masked, one edge is kept, however many there were.
    for level in [1, 0, 1, 0] {
        rig.tell(kind::SET_VALUE, 0, level);
    }
    let pending = rig.park(1);
    assert_eq!(rig.back(&pending), irq_status::VALID);
    let pending = rig.park(1);
    rig.quiet();
    rig.tell(kind::SET_IRQ_TYPE, 1, irq::NONE);
    assert_eq!(rig.back(&pending), irq_status::INVALID);
    rig.still_serves();
}

/// Has buffers parked for the lines 6, 1, 3 and 7, and the one of line 1, which was not the first, come back.
fn one_of_four(rig: &mut Rig) -> Vec<Pending> {
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    for line in [6, 1, 3, 7] {
        rig.arm(line, irq::EDGE_BOTH);
    }
    let mut parked: Vec<_> = [6, 1, 3, 7].map(|line| rig.park(line)).to_vec();
    rig.quiet();
    rig.tell(kind::SET_VALUE, 0, 1);
    let done = parked.remove(1);
    assert_eq!(rig.back(&done), irq_status::VALID);
    parked
}

/// Waits for all of these, each once, and for no other; none of them says that its line interrupted.
fn all_back(rig: &mut Rig, parked: &[Pending]) {
    let mut missing: Vec<u16> = parked.iter().map(|pending| pending.head).collect();
    for _ in parked {
        let used = rig.next();
        let at = missing.iter().position(|head| u32::from(*head) == used.id);
        missing.swap_remove(at.expect("a buffer that was parked"));
        assert_eq!(used.len, 1);
    }
    rig.quiet();
    for pending in parked {
        assert_eq!(rig.events().answer(pending)[0], irq_status::INVALID);
    }
}

#[test]
fn a_stop_after_buffers_came_back_out_of_order_loses_and_repeats_none() {
    let mut rig = Rig::new();
    let parked = one_of_four(&mut rig);
    let base = rig.guest.front.get_vring_base(EVENTQ.into()).unwrap();
    // The driver goes on where the ring stands: what lies before it must have come back, what lies behind is taken.
    let base = u16::try_from(base).unwrap();
    rig.guest.start_ring(EVENTQ.into(), base).unwrap();
    rig.guest.enable(EVENTQ.into(), true).unwrap();
    for line in [6, 3, 7] {
        rig.tell(kind::SET_IRQ_TYPE, line, irq::NONE);
    }
    all_back(&mut rig, &parked);
    rig.still_serves();
}

#[test]
fn a_kill_after_buffers_came_back_out_of_order_loses_and_repeats_none() {
    let mut rig = Rig::with(Options {
        inflight: true,
        ..Options::default()
    });
    for _ in 0..6 {
        let parked = one_of_four(&mut rig);
        rig.daemon.restart().unwrap();
        let front = connect(&rig.daemon);
        rig.guest.reconnect(front).unwrap();
        // The new daemon knows of no interrupt that is enabled.
        all_back(&mut rig, &parked);
    }
    rig.still_serves();
}

#[test]
fn a_guest_that_leaves_with_buffers_parked_leaves_nothing_to_the_next() {
    let mut rig = Rig::new();
    for _ in 0..30 {
        rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
        for line in [6, 1, 3, 7] {
            rig.arm(line, irq::EDGE_BOTH);
            rig.park(line);
        }
        rig.tell(kind::SET_VALUE, 0, 1);
        rig.next_guest();
        assert_eq!(
            rig.ask(kind::GET_VALUE, 1, 0),
            (status::OK, 0),
            "the output was released"
        );
        let pending = rig.park(1);
        assert_eq!(
            rig.back(&pending),
            irq_status::INVALID,
            "its interrupt is not enabled"
        );
    }
    rig.still_serves();
}

/// What a monitor does to a machine that it pauses: the lines are as they were when it goes on.
#[test]
fn a_stop_of_both_queues_keeps_levels_triggers_and_buffers() {
    let mut rig = Rig::new();
    rig.tell(kind::SET_DIRECTION, 0, direction::OUT);
    rig.tell(kind::SET_VALUE, 0, 1);
    rig.arm(1, irq::EDGE_BOTH);
    let mut parked = rig.park(1);
    for level in [0, 1, 0, 1] {
        rig.quiet();
        let bases = [0, EVENTQ].map(|queue| rig.guest.front.get_vring_base(queue.into()).unwrap());
        for (queue, base) in bases.into_iter().enumerate() {
            rig.guest.start_ring(queue, u16::try_from(base).unwrap()).unwrap();
            rig.guest.enable(queue, true).unwrap();
        }
        assert_eq!(rig.ask(kind::GET_VALUE, 1, 0), (status::OK, 1 - level as u8));
        rig.tell(kind::SET_VALUE, 0, level);
        assert_eq!(rig.back(&parked), irq_status::VALID);
        parked = rig.park(1);
    }
    rig.still_serves();
}
