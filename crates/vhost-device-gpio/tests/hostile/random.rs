// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A driver that does anything in any order, the same things each time, beside a model of what it must get.

use std::collections::HashMap;

use vu_testkit::devices::gpio::{EVENTQ, LINES, direction, irq, irq_status, kind, status};
use vu_testkit::guest::{Options, Pending};

use crate::support::{Rig, connect};

/// Xorshift: enough to pick operations.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as u32 % end
    }
}

/// What the specification says of a line, on the board of the kit.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    output: bool,
    value: bool,
    trigger: u32,
    latched: bool,
    parked: bool,
    /// The driver was told by a returned buffer that the interrupt is not enabled, and is not told again.
    told: bool,
}

#[derive(Debug, Default)]
struct Model([Line; LINES as usize]);

impl Model {
    fn level(&self, at: usize) -> bool {
        let line = &self.0[at];
        match at {
            _ if line.output => line.value,
            1 | 3 | 5 | 7 => self.level(at - 1),
            _ => at == 2 || at == 4,
        }
    }

    fn levels(&self) -> [bool; LINES as usize] {
        std::array::from_fn(|at| self.level(at))
    }

    fn is_active(&self, at: usize) -> bool {
        match self.0[at].trigger {
            irq::LEVEL_HIGH => self.level(at),
            irq::LEVEL_LOW => !self.level(at),
            _ => false,
        }
    }

    /// Changes something; gives the lines whose buffers come back for that, and with which status.
    fn change(&mut self, change: impl FnOnce(&mut Self)) -> Vec<(usize, u8)> {
        let before = self.levels();
        change(self);
        let after = self.levels();
        let mut back = Vec::new();
        for at in 0..usize::from(LINES) {
            let edge = match self.0[at].trigger {
                irq::EDGE_RISING => !before[at] && after[at],
                irq::EDGE_FALLING => before[at] && !after[at],
                irq::EDGE_BOTH => before[at] != after[at],
                _ => false,
            };
            let active = before[at] != after[at] && self.is_active(at);
            let line = &mut self.0[at];
            if line.parked && (edge || active) {
                line.parked = false;
                back.push((at, irq_status::VALID));
            } else {
                line.latched |= edge;
            }
        }
        back
    }

    /// The interrupt of a line ends.
    fn disable(&mut self, at: usize) -> Vec<(usize, u8)> {
        let line = &mut self.0[at];
        (line.trigger, line.latched, line.told) = (irq::NONE, false, false);
        let parked = std::mem::take(&mut line.parked);
        parked.then_some((at, irq_status::INVALID)).into_iter().collect()
    }

    /// The interrupt of a line begins.
    fn enable(&mut self, at: usize, trigger: u32) -> Vec<(usize, u8)> {
        let line = &mut self.0[at];
        (line.trigger, line.told) = (trigger, false);
        let fires = line.parked && self.is_active(at);
        self.0[at].parked &= !fires;
        fires.then_some((at, irq_status::VALID)).into_iter().collect()
    }

    /// A buffer is put on the event queue for a line that has none.
    fn park(&mut self, at: usize) -> Vec<(usize, u8)> {
        let active = self.is_active(at);
        let line = &mut self.0[at];
        if line.trigger == irq::NONE && !std::mem::replace(&mut line.told, true) {
            return vec![(at, irq_status::INVALID)];
        }
        if std::mem::take(&mut line.latched) || active {
            return vec![(at, irq_status::VALID)];
        }
        line.parked = true;
        vec![]
    }
}

struct Driver {
    rig: Rig,
    model: Model,
    parked: HashMap<usize, Pending>,
    random: Random,
}

impl Driver {
    /// Waits for these buffers, and makes sure that no other comes back.
    fn expect(&mut self, mut back: Vec<(usize, u8)>, what: &str) {
        while !back.is_empty() {
            let lane = self.rig.events();
            let used = lane.queue.wait(lane.end());
            let used = used.unwrap_or_else(|error| panic!("{what}: {error}, {back:?} should come back"));
            let at = back
                .iter()
                .position(|(line, _)| u32::from(self.parked[line].head) == used.id);
            let (line, status) =
                back.swap_remove(at.unwrap_or_else(|| panic!("{what}: head {} came back", used.id)));
            let pending = self.parked.remove(&line).expect("it is parked");
            let answer = self.rig.events().answer(&pending);
            assert_eq!((used.len, answer[0]), (1, status), "{what}: line {line}");
        }
        self.rig.quiet();
    }

    fn step(&mut self) {
        let at = self.random.below(LINES.into()) as usize;
        let line = at as u16;
        let state = self.model.0[at];
        let choice = self.random.below(16);
        let what = format!("choice {choice} on line {at}, {state:?}");
        let back = match choice {
            0..=3 if !self.parked.contains_key(&at) => {
                let pending = self.rig.park(line);
                self.parked.insert(at, pending);
                self.model.park(at)
            }
            // Only an even line is ever driven: the others are for interrupts.
            4..=8 if at.is_multiple_of(2) => {
                let value = self.random.below(2);
                self.rig.tell(kind::SET_VALUE, line, value);
                self.model.change(|model| model.0[at].value = value == 1)
            }
            9 if at.is_multiple_of(2) && state.trigger == irq::NONE => {
                self.rig.tell(kind::SET_DIRECTION, line, direction::OUT);
                self.model.change(|model| model.0[at].output = true)
            }
            10 => {
                self.rig.tell(kind::SET_DIRECTION, line, direction::NONE);
                let back = self.model.disable(at);
                let rest = self.model.change(|model| model.0[at] = Line::default());
                [back, rest].concat()
            }
            11 | 12 if at % 2 == 1 && state.trigger == irq::NONE => {
                let trigger = [
                    irq::EDGE_RISING,
                    irq::EDGE_FALLING,
                    irq::EDGE_BOTH,
                    irq::LEVEL_HIGH,
                    irq::LEVEL_LOW,
                ];
                let trigger = trigger[self.random.below(5) as usize];
                self.rig.arm(line, trigger);
                self.model.enable(at, trigger)
            }
            13 => {
                self.rig.tell(kind::SET_IRQ_TYPE, line, irq::NONE);
                self.model.disable(at)
            }
            14 => {
                let level = u8::from(self.model.level(at));
                assert_eq!(
                    self.rig.ask(kind::GET_VALUE, line, 0),
                    (status::OK, level),
                    "{what}"
                );
                vec![]
            }
            15 if self.random.below(64) == 0 => self.kill(),
            _ => vec![],
        };
        self.expect(back, &what);
    }

    /// Kills the daemon; gives the buffers that come back for that.
    fn kill(&mut self) -> Vec<(usize, u8)> {
        self.rig.daemon.restart().unwrap();
        let front = connect(&self.rig.daemon);
        self.rig.guest.reconnect(front).unwrap();
        self.model = Model::default();
        // The new daemon knows of no interrupt that is enabled.
        let parked: Vec<usize> = self.parked.keys().copied().collect();
        parked.into_iter().flat_map(|at| self.model.park(at)).collect()
    }
}

#[test]
fn a_driver_that_does_anything_gets_what_the_specification_says() {
    for seed in 1..=8 {
        let options = Options {
            inflight: true,
            ..Options::default()
        };
        let mut driver = Driver {
            rig: Rig::with(options),
            model: Model::default(),
            parked: HashMap::new(),
            random: Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)),
        };
        for _ in 0..4000 {
            driver.step();
        }
        assert_eq!(
            driver.rig.guest.lanes[usize::from(EVENTQ)].queue.outstanding(),
            driver.parked.len()
        );
    }
}
