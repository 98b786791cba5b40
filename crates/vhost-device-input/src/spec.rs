// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Constants of the input device (virtio 1.3, section 5.8), and those of Linux's evdev that it builds upon, by their names
//! there.

/// Virtio device id (section 5.8.1).
pub(crate) const VIRTIO_ID_INPUT: u32 = 18;
/// Virtqueue of what happens at the device.
pub(crate) const EVENTQ: usize = 0;
/// Virtqueue of what the guest tells the device, as its LEDs.
pub(crate) const STATUSQ: usize = 1;

/// Bytes of `struct virtio_input_event`.
pub(crate) const EVENT_LEN: usize = 8;
/// Bytes of `struct virtio_input_config`.
pub(crate) const CONFIG_LEN: usize = 136;
/// Bytes before its union.
pub(crate) const CONFIG_HEAD: usize = 8;
/// Bytes of its union.
pub(crate) const CONFIG_UNION: usize = CONFIG_LEN - CONFIG_HEAD;

pub(crate) const VIRTIO_INPUT_CFG_ID_NAME: u8 = 0x01;
pub(crate) const VIRTIO_INPUT_CFG_ID_SERIAL: u8 = 0x02;
pub(crate) const VIRTIO_INPUT_CFG_ID_DEVIDS: u8 = 0x03;
pub(crate) const VIRTIO_INPUT_CFG_PROP_BITS: u8 = 0x10;
pub(crate) const VIRTIO_INPUT_CFG_EV_BITS: u8 = 0x11;
pub(crate) const VIRTIO_INPUT_CFG_ABS_INFO: u8 = 0x12;

pub(crate) const EV_SYN: u16 = 0x00;
pub(crate) const EV_KEY: u16 = 0x01;
pub(crate) const EV_REL: u16 = 0x02;
pub(crate) const EV_ABS: u16 = 0x03;
pub(crate) const EV_MSC: u16 = 0x04;
pub(crate) const EV_SW: u16 = 0x05;
pub(crate) const EV_LED: u16 = 0x11;
pub(crate) const EV_SND: u16 = 0x12;
pub(crate) const EV_REP: u16 = 0x14;

pub(crate) const SYN_REPORT: u16 = 0;
pub(crate) const SYN_DROPPED: u16 = 3;
pub(crate) const MSC_TIMESTAMP: u16 = 0x05;

pub(crate) const REL_X: u16 = 0x00;
pub(crate) const REL_Y: u16 = 0x01;
pub(crate) const REL_HWHEEL: u16 = 0x06;
pub(crate) const REL_WHEEL: u16 = 0x08;
pub(crate) const REL_WHEEL_HI_RES: u16 = 0x0b;
pub(crate) const REL_HWHEEL_HI_RES: u16 = 0x0c;

pub(crate) const ABS_X: u16 = 0x00;
pub(crate) const ABS_Y: u16 = 0x01;
pub(crate) const ABS_MT_SLOT: u16 = 0x2f;
/// The axes from here to [`ABS_MT_LAST`] belong to a slot.
pub(crate) const ABS_MT_FIRST: u16 = 0x30;
pub(crate) const ABS_MT_POSITION_X: u16 = 0x35;
pub(crate) const ABS_MT_POSITION_Y: u16 = 0x36;
pub(crate) const ABS_MT_TRACKING_ID: u16 = 0x39;
pub(crate) const ABS_MT_LAST: u16 = 0x3d;

pub(crate) const BTN_LEFT: u16 = 0x110;
pub(crate) const BTN_EXTRA: u16 = 0x114;
pub(crate) const BTN_TOUCH: u16 = 0x14a;

pub(crate) const INPUT_PROP_DIRECT: u16 = 0x01;
pub(crate) const BUS_VIRTUAL: u16 = 0x06;
