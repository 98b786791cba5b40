// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device is and can do, and the configuration space that tells it (virtio 1.3, section 5.8.4).

use std::collections::{BTreeMap, HashMap};

use crate::spec::{
    CONFIG_HEAD, CONFIG_LEN, CONFIG_UNION, EV_ABS, VIRTIO_INPUT_CFG_ABS_INFO, VIRTIO_INPUT_CFG_EV_BITS,
    VIRTIO_INPUT_CFG_ID_DEVIDS, VIRTIO_INPUT_CFG_ID_NAME, VIRTIO_INPUT_CFG_ID_SERIAL,
    VIRTIO_INPUT_CFG_PROP_BITS,
};

/// A set of numbers below 1024, as the guest gets it: bit n of byte n / 8, without trailing zeroes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u8>);

impl Bits {
    /// Whether a number is in it.
    #[must_use]
    pub fn has(&self, number: u16) -> bool {
        let byte = self.0.get(usize::from(number / 8));
        byte.is_some_and(|byte| byte & 1 << (number % 8) != 0)
    }
}

impl FromIterator<u16> for Bits {
    /// Numbers for which there is no room are left out.
    fn from_iter<I: IntoIterator<Item = u16>>(numbers: I) -> Self {
        let mut bytes = Vec::new();
        for number in numbers {
            let at = usize::from(number / 8);
            if at < CONFIG_UNION {
                bytes.resize(bytes.len().max(at + 1), 0);
                bytes[at] |= 1 << (number % 8);
            }
        }
        Self(bytes)
    }
}

/// The range of an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Axis {
    /// Least value.
    pub min: i32,
    /// Greatest value.
    pub max: i32,
    /// Changes below this are noise.
    pub fuzz: i32,
    /// Values this close to the centre are the centre.
    pub flat: i32,
    /// Units per millimetre, or per radian for axes that rotate; 0 if it is not known.
    pub res: i32,
}

/// What a device is and can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Name; whatever bytes the host has.
    pub name: Vec<u8>,
    /// Serial number, empty if it has none.
    pub serial: Vec<u8>,
    /// Bus type, vendor, product, version.
    pub ids: [u16; 4],
    /// `INPUT_PROP_*`.
    pub props: Bits,
    /// The codes of each type that it has.
    pub codes: BTreeMap<u16, Bits>,
    /// The range of each absolute axis.
    pub axes: BTreeMap<u16, Axis>,
}

impl Description {
    /// Whether such events are among those that it may send.
    #[must_use]
    pub fn has(&self, kind: u16, code: u16) -> bool {
        self.codes.get(&kind).is_some_and(|codes| codes.has(code))
    }
}

/// All answers, made once.
#[derive(Debug)]
pub(crate) struct Answers(HashMap<[u8; 2], Vec<u8>>);

impl Answers {
    /// The answers of a device. What it does not have is not among them, so its size reads as zero.
    pub(crate) fn new(device: &Description) -> Self {
        let mut answers = HashMap::new();
        let mut answer = |select, subsel: u16, mut bytes: Vec<u8>| {
            bytes.truncate(CONFIG_UNION);
            if let Ok(subsel) = u8::try_from(subsel)
                && !bytes.is_empty()
            {
                answers.insert([select, subsel], bytes);
            }
        };
        answer(VIRTIO_INPUT_CFG_ID_NAME, 0, device.name.clone());
        answer(VIRTIO_INPUT_CFG_ID_SERIAL, 0, device.serial.clone());
        let ids = device.ids.map(u16::to_le_bytes).concat();
        answer(VIRTIO_INPUT_CFG_ID_DEVIDS, 0, ids);
        answer(VIRTIO_INPUT_CFG_PROP_BITS, 0, device.props.0.clone());
        for (kind, codes) in &device.codes {
            answer(VIRTIO_INPUT_CFG_EV_BITS, *kind, codes.0.clone());
        }
        for (code, axis) in device.axes.iter().filter(|(code, _)| device.has(EV_ABS, **code)) {
            let fields = [axis.min, axis.max, axis.fuzz, axis.flat, axis.res];
            answer(
                VIRTIO_INPUT_CFG_ABS_INFO,
                *code,
                fields.map(i32::to_le_bytes).concat(),
            );
        }
        Self(answers)
    }

    /// Fills `dst` with the bytes from `offset` on of `struct virtio_input_config` for a selection.
    pub(crate) fn read(&self, selection: [u8; 2], offset: usize, dst: &mut [u8]) {
        let mut config = [0; CONFIG_LEN];
        let answer = self.0.get(&selection).map_or(&[][..], Vec::as_slice);
        config[..2].copy_from_slice(&selection);
        config[2] = u8::try_from(answer.len()).unwrap_or(0);
        config[CONFIG_HEAD..CONFIG_HEAD + answer.len()].copy_from_slice(answer);
        for (at, byte) in dst.iter_mut().enumerate() {
            *byte = config.get(offset.saturating_add(at)).copied().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answers, Axis, Bits, Description};
    use crate::spec::{CONFIG_LEN, EV_ABS, EV_KEY, EV_REP};

    fn device() -> Description {
        Description {
            name: b"M\xfcll".to_vec(),
            serial: Vec::new(),
            ids: [3, 0x102, 0x304, 5],
            props: [1].into_iter().collect(),
            codes: [
                (EV_KEY, [30, 0x2ff].into_iter().collect()),
                (EV_ABS, [0x35].into_iter().collect()),
                (EV_REP, [0, 1].into_iter().collect()),
            ]
            .into(),
            axes: [
                (
                    0x35,
                    Axis {
                        min: -1,
                        max: 2,
                        fuzz: 3,
                        flat: 4,
                        res: 0x506,
                    },
                ),
                (0x36, Axis::default()),
            ]
            .into(),
        }
    }

    /// Size and content of an answer.
    fn ask(select: u8, subsel: u8) -> Vec<u8> {
        let mut config = [0xff; CONFIG_LEN];
        Answers::new(&device()).read([select, subsel], 0, &mut config);
        assert_eq!(config[..2], [select, subsel]);
        assert_eq!(config[3..8], [0; 5]);
        let (answer, rest) = config[8..].split_at(config[2].into());
        assert!(rest.iter().all(|byte| *byte == 0));
        answer.to_vec()
    }

    #[test]
    fn every_answer_has_its_exact_size() {
        assert_eq!(ask(1, 0), b"M\xfcll", "a name that is not UTF-8 is told as it is");
        assert_eq!(ask(3, 0), [3, 0, 2, 1, 4, 3, 5, 0]);
        assert_eq!(ask(0x10, 0), [2]);
        let keys = ask(0x11, 1);
        assert_eq!((keys.len(), keys[3], keys[95]), (96, 1 << 6, 0x80));
        assert_eq!(ask(0x11, 0x14), [3]);
        let axis = [[0xff; 4], [2, 0, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0], [6, 5, 0, 0]].concat();
        assert_eq!(ask(0x12, 0x35), axis);
    }

    #[test]
    fn what_is_absent_has_size_zero() {
        for (select, subsel) in [
            (0, 0),
            (2, 0),
            (1, 1),
            (3, 1),
            (0x10, 1),
            (0x11, 0),
            (0x11, 2),
            (0x12, 0x36),
            (0xff, 0xff),
        ] {
            assert!(ask(select, subsel).is_empty(), "{select:#x} {subsel:#x}");
        }
    }

    #[test]
    fn a_long_name_is_cut_to_what_there_is_room_for() {
        let device = Description {
            name: vec![b'x'; 300],
            ..Description::default()
        };
        let mut size = [0];
        Answers::new(&device).read([1, 0], 2, &mut size);
        assert_eq!(size, [128]);
    }

    #[test]
    fn parts_and_what_lies_beyond_read_like_the_whole() {
        let answers = Answers::new(&device());
        let mut whole = [0; CONFIG_LEN + 9];
        answers.read([0x11, 1], 0, &mut whole);
        assert_eq!(whole[CONFIG_LEN..], [0; 9]);
        for start in [0, 1, 2, 7, 8, 100, 135, 140] {
            let mut part = [0xff; 5];
            answers.read([0x11, 1], start, &mut part);
            assert_eq!(part, whole[start..start + 5]);
        }
    }

    #[test]
    fn a_number_without_room_is_left_out() {
        let bits: Bits = [1023, 1024, u16::MAX].into_iter().collect();
        assert_eq!(bits.0.len(), 128);
        assert!(bits.has(1023) && !bits.has(1024) && !bits.has(0));
    }
}
