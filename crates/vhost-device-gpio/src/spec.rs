// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Constants of the GPIO device (virtio 1.3, section 5.18), by their names there.

/// Virtio device id (section 5.18.1).
pub(crate) const VIRTIO_ID_GPIO: u32 = 41;
/// Virtqueue of the messages.
pub(crate) const REQUESTQ: usize = 0;
/// Virtqueue whose buffers unmask interrupts; each stays here until its line interrupts.
pub(crate) const EVENTQ: usize = 1;
/// Lines can interrupt.
pub(crate) const VIRTIO_GPIO_F_IRQ: u64 = 1 << 0;

/// Bytes of `struct virtio_gpio_config`.
pub(crate) const CONFIG_LEN: usize = 8;
/// Bytes of `struct virtio_gpio_request`.
pub(crate) const REQUEST_LEN: usize = 8;
/// Bytes of `struct virtio_gpio_irq_request`.
pub(crate) const IRQ_REQUEST_LEN: usize = 2;

pub(crate) const VIRTIO_GPIO_MSG_GET_LINE_NAMES: u16 = 1;
pub(crate) const VIRTIO_GPIO_MSG_GET_DIRECTION: u16 = 2;
pub(crate) const VIRTIO_GPIO_MSG_SET_DIRECTION: u16 = 3;
pub(crate) const VIRTIO_GPIO_MSG_GET_VALUE: u16 = 4;
pub(crate) const VIRTIO_GPIO_MSG_SET_VALUE: u16 = 5;
pub(crate) const VIRTIO_GPIO_MSG_SET_IRQ_TYPE: u16 = 6;

pub(crate) const VIRTIO_GPIO_STATUS_OK: u8 = 0;
pub(crate) const VIRTIO_GPIO_STATUS_ERR: u8 = 1;

pub(crate) const VIRTIO_GPIO_DIRECTION_NONE: u8 = 0;
pub(crate) const VIRTIO_GPIO_DIRECTION_OUT: u8 = 1;
pub(crate) const VIRTIO_GPIO_DIRECTION_IN: u8 = 2;

pub(crate) const VIRTIO_GPIO_IRQ_TYPE_NONE: u32 = 0;
pub(crate) const VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING: u32 = 1;
pub(crate) const VIRTIO_GPIO_IRQ_TYPE_EDGE_FALLING: u32 = 2;
pub(crate) const VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH: u32 = 3;
pub(crate) const VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH: u32 = 4;
pub(crate) const VIRTIO_GPIO_IRQ_TYPE_LEVEL_LOW: u32 = 8;

pub(crate) const VIRTIO_GPIO_IRQ_STATUS_INVALID: u8 = 0;
pub(crate) const VIRTIO_GPIO_IRQ_STATUS_VALID: u8 = 1;
