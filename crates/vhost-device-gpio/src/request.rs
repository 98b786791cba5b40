// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages of the driver: bytes to checked requests. Pure.

use crate::spec::{
    IRQ_REQUEST_LEN, REQUEST_LEN, VIRTIO_GPIO_DIRECTION_IN, VIRTIO_GPIO_DIRECTION_NONE,
    VIRTIO_GPIO_DIRECTION_OUT, VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH, VIRTIO_GPIO_IRQ_TYPE_EDGE_FALLING,
    VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING, VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH, VIRTIO_GPIO_IRQ_TYPE_LEVEL_LOW,
    VIRTIO_GPIO_IRQ_TYPE_NONE, VIRTIO_GPIO_MSG_GET_DIRECTION, VIRTIO_GPIO_MSG_GET_LINE_NAMES,
    VIRTIO_GPIO_MSG_GET_VALUE, VIRTIO_GPIO_MSG_SET_DIRECTION, VIRTIO_GPIO_MSG_SET_IRQ_TYPE,
    VIRTIO_GPIO_MSG_SET_VALUE,
};

/// Number of a line that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line(u16);

impl Line {
    /// Line `number` of a device with `lines` of them.
    pub fn new(number: u16, lines: usize) -> Option<Self> {
        (usize::from(number) < lines).then_some(Self(number))
    }

    /// Its number, from 0.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}", self.0)
    }
}

/// Which way a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It is driven by the guest.
    Out,
    /// It is read by the guest.
    In,
}

/// What makes a line interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Low to high.
    EdgeRising,
    /// High to low.
    EdgeFalling,
    /// Either.
    EdgeBoth,
    /// For as long as it is high.
    LevelHigh,
    /// For as long as it is low.
    LevelLow,
}

/// A message on the request queue (section 5.18.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The names of all lines.
    GetLineNames,
    /// The direction of a line.
    GetDirection(Line),
    /// Activates a line, or deactivates it (`None`).
    SetDirection(Line, Option<Direction>),
    /// The level of a line.
    GetValue(Line),
    /// The level of a line that is an output, or will be.
    SetValue(Line, bool),
    /// Enables the interrupt of a line, or disables it (`None`).
    SetIrqType(Line, Option<Trigger>),
}

/// What is wrong with a message. The driver gets `VIRTIO_GPIO_STATUS_ERR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No such message.
    #[error("unknown message type {0}")]
    Type(u16),
    /// No such line.
    #[error("line {0} does not exist")]
    Line(u16),
    /// A value that the message does not have.
    #[error("message type {0} with value {1}")]
    Value(u16, u32),
}

impl Request {
    /// Reads `struct virtio_gpio_request` for a device with `lines` lines.
    ///
    /// # Errors
    /// [`Malformed`] for whatever the specification does not define.
    pub fn parse(bytes: [u8; REQUEST_LEN], lines: usize) -> Result<Self, Malformed> {
        let [t0, t1, g0, g1, v0, v1, v2, v3] = bytes;
        let (kind, gpio) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([g0, g1]));
        let value = u32::from_le_bytes([v0, v1, v2, v3]);
        let line = || Line::new(gpio, lines).ok_or(Malformed::Line(gpio));
        let bad_value = Malformed::Value(kind, value);
        Ok(match kind {
            VIRTIO_GPIO_MSG_GET_LINE_NAMES => Self::GetLineNames,
            VIRTIO_GPIO_MSG_GET_DIRECTION => Self::GetDirection(line()?),
            VIRTIO_GPIO_MSG_SET_DIRECTION => Self::SetDirection(line()?, direction(value).ok_or(bad_value)?),
            VIRTIO_GPIO_MSG_GET_VALUE => Self::GetValue(line()?),
            VIRTIO_GPIO_MSG_SET_VALUE if value <= 1 => Self::SetValue(line()?, value == 1),
            VIRTIO_GPIO_MSG_SET_VALUE => return Err(bad_value),
            VIRTIO_GPIO_MSG_SET_IRQ_TYPE => Self::SetIrqType(line()?, trigger(value).ok_or(bad_value)?),
            unknown => return Err(Malformed::Type(unknown)),
        })
    }
}

/// Reads `struct virtio_gpio_irq_request`: the line to unmask.
///
/// # Errors
/// [`Malformed::Line`].
pub(crate) fn parse_irq_request(bytes: [u8; IRQ_REQUEST_LEN], lines: usize) -> Result<Line, Malformed> {
    let gpio = u16::from_le_bytes(bytes);
    Line::new(gpio, lines).ok_or(Malformed::Line(gpio))
}

fn direction(value: u32) -> Option<Option<Direction>> {
    match u8::try_from(value).ok()? {
        VIRTIO_GPIO_DIRECTION_NONE => Some(None),
        VIRTIO_GPIO_DIRECTION_OUT => Some(Some(Direction::Out)),
        VIRTIO_GPIO_DIRECTION_IN => Some(Some(Direction::In)),
        _ => None,
    }
}

fn trigger(value: u32) -> Option<Option<Trigger>> {
    Some(Some(match value {
        VIRTIO_GPIO_IRQ_TYPE_NONE => return Some(None),
        VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING => Trigger::EdgeRising,
        VIRTIO_GPIO_IRQ_TYPE_EDGE_FALLING => Trigger::EdgeFalling,
        VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH => Trigger::EdgeBoth,
        VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH => Trigger::LevelHigh,
        VIRTIO_GPIO_IRQ_TYPE_LEVEL_LOW => Trigger::LevelLow,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::{Direction, Line, Malformed, Request, Trigger, parse_irq_request};

    fn parse(kind: u16, gpio: u16, value: u32) -> Result<Request, Malformed> {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&gpio.to_le_bytes());
        bytes[4..].copy_from_slice(&value.to_le_bytes());
        Request::parse(bytes, 8)
    }

    #[test]
    fn every_message_of_the_specification_is_known() {
        let line = Line(7);
        for ((kind, value), request) in [
            ((1, 0), Request::GetLineNames),
            ((2, 0), Request::GetDirection(line)),
            ((3, 0), Request::SetDirection(line, None)),
            ((3, 1), Request::SetDirection(line, Some(Direction::Out))),
            ((3, 2), Request::SetDirection(line, Some(Direction::In))),
            ((4, 0), Request::GetValue(line)),
            ((5, 0), Request::SetValue(line, false)),
            ((5, 1), Request::SetValue(line, true)),
            ((6, 0), Request::SetIrqType(line, None)),
            ((6, 1), Request::SetIrqType(line, Some(Trigger::EdgeRising))),
            ((6, 2), Request::SetIrqType(line, Some(Trigger::EdgeFalling))),
            ((6, 3), Request::SetIrqType(line, Some(Trigger::EdgeBoth))),
            ((6, 4), Request::SetIrqType(line, Some(Trigger::LevelHigh))),
            ((6, 8), Request::SetIrqType(line, Some(Trigger::LevelLow))),
        ] {
            assert_eq!(parse(kind, 7, value), Ok(request));
        }
    }

    #[test]
    fn a_line_must_exist_where_the_message_has_one() {
        for kind in 2..=6 {
            for gpio in [8, 9, u16::MAX] {
                assert_eq!(parse(kind, gpio, 0), Err(Malformed::Line(gpio)));
            }
        }
        assert_eq!(parse(1, 8, 0), Ok(Request::GetLineNames));
        assert_eq!(parse_irq_request([7, 0], 8), Ok(Line(7)));
        assert_eq!(parse_irq_request([8, 0], 8), Err(Malformed::Line(8)));
        assert_eq!(parse_irq_request([0, 1], 8), Err(Malformed::Line(256)));
    }

    #[test]
    fn what_the_specification_does_not_define_is_refused() {
        for kind in [0, 7, 0x100, u16::MAX] {
            assert_eq!(parse(kind, 0, 0), Err(Malformed::Type(kind)));
        }
        for (kind, value) in [
            (3, 3),
            (3, 0x100),
            (5, 2),
            (5, u32::MAX),
            (6, 5),
            (6, 7),
            (6, 0x10),
            (6, 0x104),
        ] {
            assert_eq!(parse(kind, 0, value), Err(Malformed::Value(kind, value)));
        }
    }
}
