// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated devices, as a guest finds them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::{Axis, Description};
use crate::spec::{
    ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_MT_SLOT, ABS_MT_TRACKING_ID, ABS_X, ABS_Y, BTN_EXTRA, BTN_LEFT,
    BTN_TOUCH, BUS_VIRTUAL, EV_ABS, EV_KEY, EV_LED, EV_REL, EV_REP, EV_SND, INPUT_PROP_DIRECT, REL_HWHEEL,
    REL_HWHEEL_HI_RES, REL_WHEEL, REL_WHEEL_HI_RES, REL_X, REL_Y,
};

/// Contacts of the touch screen.
pub const SLOTS: i32 = 10;

/// A simulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A keyboard of a PC with three LEDs and a beeper
    Keyboard,
    /// A mouse with five buttons and two wheels
    Mouse,
    /// A pointer with absolute positions, 0 to 32767 each way
    Tablet,
    /// A touch screen for ten fingers, 0 to 32767 each way
    Touch,
    /// Two sticks, two triggers, a directional pad
    Gamepad,
}

/// Keys of a PC: `KEY_ESC` to `KEY_COMPOSE`, `KEY_F13` to `KEY_F24`.
const PC_KEYS: [RangeInclusive<u16>; 2] = [1..=127, 183..=194];
/// `BTN_SOUTH` to `BTN_THUMBR`.
const PAD_KEYS: RangeInclusive<u16> = 0x130..=0x13e;

const fn axis(min: i32, max: i32, fuzz: i32, flat: i32, res: i32) -> Axis {
    Axis {
        min,
        max,
        fuzz,
        flat,
        res,
    }
}

/// A surface of 273 mm.
const SURFACE: Axis = axis(0, 32767, 0, 0, 120);
const STICK: Axis = axis(-32768, 32767, 16, 128, 0);
const TRIGGER: Axis = axis(0, 1023, 0, 0, 0);
const PAD: Axis = axis(-1, 1, 0, 0, 0);
/// X, Y and Z, each of the left and of the right hand, and the two of the directional pad.
const GAMEPAD: [(u16, Axis); 8] = [
    (0, STICK),
    (1, STICK),
    (2, TRIGGER),
    (3, STICK),
    (4, STICK),
    (5, TRIGGER),
    (0x10, PAD),
    (0x11, PAD),
];
const TOUCH: [(u16, Axis); 6] = [
    (ABS_X, SURFACE),
    (ABS_Y, SURFACE),
    (ABS_MT_SLOT, axis(0, SLOTS - 1, 0, 0, 0)),
    (ABS_MT_POSITION_X, SURFACE),
    (ABS_MT_POSITION_Y, SURFACE),
    (ABS_MT_TRACKING_ID, axis(0, 65535, 0, 0, 0)),
];
const WHEELS: [u16; 4] = [REL_HWHEEL, REL_WHEEL, REL_WHEEL_HI_RES, REL_HWHEEL_HI_RES];

impl Kind {
    /// What the guest finds.
    #[must_use]
    pub fn description(self) -> Description {
        let name = match self {
            Self::Keyboard => "keyboard",
            Self::Mouse => "mouse",
            Self::Tablet => "tablet",
            Self::Touch => "touch",
            Self::Gamepad => "gamepad",
        };
        let axes: BTreeMap<u16, Axis> = match self {
            Self::Keyboard | Self::Mouse => BTreeMap::new(),
            Self::Tablet => [(ABS_X, SURFACE), (ABS_Y, SURFACE)].into(),
            Self::Touch => TOUCH.into(),
            Self::Gamepad => GAMEPAD.into(),
        };
        let keys: Vec<u16> = match self {
            Self::Keyboard => PC_KEYS.into_iter().flatten().collect(),
            Self::Mouse | Self::Tablet => (BTN_LEFT..=BTN_EXTRA).collect(),
            Self::Touch => vec![BTN_TOUCH],
            Self::Gamepad => PAD_KEYS.collect(),
        };
        let distances = match self {
            Self::Mouse => [&[REL_X, REL_Y], &WHEELS[..]].concat(),
            Self::Tablet => WHEELS.to_vec(),
            _ => Vec::new(),
        };
        let is_keyboard = self == Self::Keyboard;
        let codes = [
            (EV_KEY, keys),
            (EV_REL, distances),
            (EV_ABS, axes.keys().copied().collect()),
            // Num lock, caps lock and scroll lock; a bell and a tone; delay and period.
            (EV_LED, if is_keyboard { vec![0, 1, 2] } else { vec![] }),
            (EV_SND, if is_keyboard { vec![1, 2] } else { vec![] }),
            (EV_REP, if is_keyboard { vec![0, 1] } else { vec![] }),
        ];
        let codes = codes.into_iter().filter(|(_, codes)| !codes.is_empty());
        Description {
            name: format!("Simulated {name}").into(),
            serial: format!("sim-{name}").into(),
            ids: [BUS_VIRTUAL, 0, self as u16 + 1, 1],
            props: (self == Self::Touch)
                .then_some(INPUT_PROP_DIRECT)
                .into_iter()
                .collect(),
            codes: codes
                .map(|(kind, codes)| (kind, codes.into_iter().collect()))
                .collect(),
            axes,
        }
    }
}
