// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages as SMBus commands, for adapters that know nothing else.
//!
//! A driver in the guest that speaks SMBus had its commands made messages by its kernel; here they become commands again.
//! A command stands for messages if it puts the same bytes on the wire. A read of a block whose length comes from the
//! device cannot be told from another read, so there is none.

use std::ffi::c_ulong;

use super::super::{Direction, Message};

/// Most bytes of a block.
const BLOCK: usize = 32;

/// What an adapter can do: the bits `I2C_FUNC_*` of include/uapi/linux/i2c.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Functions(pub(super) c_ulong);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    bit: c_ulong,
    pub(super) name: &'static str,
}

const fn function(bit: c_ulong, name: &'static str) -> Function {
    Function { bit, name }
}

pub(super) const PLAIN: Function = function(0x0000_0001, "plain I2C");
pub(super) const TEN_BITS: Function = function(0x0000_0002, "addresses of ten bits");
const QUICK: Function = function(0x0001_0000, "SMBus quick");
const READ_BYTE: Function = function(0x0002_0000, "SMBus read byte");
const WRITE_BYTE: Function = function(0x0004_0000, "SMBus write byte");
const READ_BYTE_DATA: Function = function(0x0008_0000, "SMBus read byte data");
const WRITE_BYTE_DATA: Function = function(0x0010_0000, "SMBus write byte data");
const READ_WORD_DATA: Function = function(0x0020_0000, "SMBus read word data");
const WRITE_WORD_DATA: Function = function(0x0040_0000, "SMBus write word data");
const PROCESS_CALL: Function = function(0x0080_0000, "SMBus process call");
const WRITE_BLOCK: Function = function(0x0200_0000, "SMBus write block");
const READ_I2C_BLOCK: Function = function(0x0400_0000, "SMBus read I2C block");
const WRITE_I2C_BLOCK: Function = function(0x0800_0000, "SMBus write I2C block");

impl Functions {
    pub(super) fn has(self, function: Function) -> bool {
        self.0 & function.bit != 0
    }
}

/// An SMBus command. The first byte of most is what SMBus calls the command code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Quick(Direction),
    ReadByte,
    WriteByte(u8),
    ReadByteData(u8),
    WriteByteData(u8, u8),
    ReadWordData(u8),
    WriteWordData(u8, u16),
    ProcessCall(u8, u16),
    WriteBlock(u8, &'a [u8]),
    ReadI2cBlock(u8, u8),
    WriteI2cBlock(u8, &'a [u8]),
}

impl Command<'_> {
    fn needs(self) -> Function {
        match self {
            Self::Quick(_) => QUICK,
            Self::ReadByte => READ_BYTE,
            Self::WriteByte(_) => WRITE_BYTE,
            Self::ReadByteData(_) => READ_BYTE_DATA,
            Self::WriteByteData(..) => WRITE_BYTE_DATA,
            Self::ReadWordData(_) => READ_WORD_DATA,
            Self::WriteWordData(..) => WRITE_WORD_DATA,
            Self::ProcessCall(..) => PROCESS_CALL,
            Self::WriteBlock(..) => WRITE_BLOCK,
            Self::ReadI2cBlock(..) => READ_I2C_BLOCK,
            Self::WriteI2cBlock(..) => WRITE_I2C_BLOCK,
        }
    }
}

/// The command that does the same as `messages`, on an adapter with `functions`; else what that adapter lacks.
pub(super) fn command(functions: Functions, messages: &[Message]) -> Result<Command<'_>, Function> {
    let mut commands = commands(messages).into_iter().flatten().peekable();
    let lacking = commands.peek().map_or(PLAIN, |command| command.needs());
    commands
        .find(|command| functions.has(command.needs()))
        .ok_or(lacking)
}

/// All commands that do the same as `messages`, the best first.
fn commands(messages: &[Message]) -> [Option<Command<'_>>; 3] {
    match messages {
        [message] => match message.direction {
            Direction::Write => writes(&message.data),
            Direction::Read => match message.data.len() {
                0 => [Some(Command::Quick(Direction::Read)), None, None],
                1 => [Some(Command::ReadByte), None, None],
                _ => [None; 3],
            },
        },
        [first, second] if first.address == second.address => match (first.direction, second.direction) {
            (Direction::Write, Direction::Read) => reads(&first.data, second.data.len()),
            _ => [None; 3],
        },
        _ => [None; 3],
    }
}

/// The commands that write `data`.
fn writes(data: &[u8]) -> [Option<Command<'_>>; 3] {
    let Some((&code, rest)) = data.split_first() else {
        return [Some(Command::Quick(Direction::Write)), None, None];
    };
    let short = match *rest {
        [] => return [Some(Command::WriteByte(code)), None, None],
        [value] => Some(Command::WriteByteData(code, value)),
        [low, high] => Some(Command::WriteWordData(code, u16::from_le_bytes([low, high]))),
        _ => None,
    };
    let counted = rest
        .split_first()
        .filter(|(count, block)| usize::from(**count) == block.len());
    let counted = counted.map(|(_, block)| block).filter(|block| fits(block.len()));
    let block = Some(rest).filter(|rest| fits(rest.len()));
    [
        short,
        counted.map(|block| Command::WriteBlock(code, block)),
        block.map(|block| Command::WriteI2cBlock(code, block)),
    ]
}

/// The commands that write `data` and then read `len` bytes.
fn reads(data: &[u8], len: usize) -> [Option<Command<'_>>; 3] {
    match (data, len) {
        ([code], _) => {
            let short = match len {
                1 => Some(Command::ReadByteData(*code)),
                2 => Some(Command::ReadWordData(*code)),
                _ => None,
            };
            let len = u8::try_from(len).ok().filter(|len| fits((*len).into()));
            [short, len.map(|len| Command::ReadI2cBlock(*code, len)), None]
        }
        ([code, low, high], 2) => {
            let value = u16::from_le_bytes([*low, *high]);
            [Some(Command::ProcessCall(*code, value)), None, None]
        }
        _ => [None; 3],
    }
}

fn fits(len: usize) -> bool {
    (1..=BLOCK).contains(&len)
}

#[cfg(test)]
mod tests {
    use super::super::super::Address;
    use super::*;

    const ALL: Functions = Functions(0x0fff_0000);

    fn w(data: &[u8]) -> Message {
        message(0x50, Direction::Write, data.to_vec())
    }

    fn r(count: usize) -> Message {
        message(0x50, Direction::Read, vec![0; count])
    }

    fn message(address: u8, direction: Direction, data: Vec<u8>) -> Message {
        Message {
            address: Address::Seven(address),
            direction,
            data,
        }
    }

    /// All functions but some.
    fn without(functions: &[Function]) -> Functions {
        Functions(functions.iter().fold(ALL.0, |all, one| all & !one.bit))
    }

    #[test]
    fn every_command_is_made_of_its_messages() {
        let block: Vec<u8> = (100..132).collect();
        let long = [&[7], &block[..]].concat();
        let counted = [&[7, 32], &block[..]].concat();
        let table: [(&[Message], Command<'_>); 16] = [
            (&[w(&[])], Command::Quick(Direction::Write)),
            (&[r(0)], Command::Quick(Direction::Read)),
            (&[w(&[7])], Command::WriteByte(7)),
            (&[r(1)], Command::ReadByte),
            (&[w(&[7, 8])], Command::WriteByteData(7, 8)),
            (&[w(&[7]), r(1)], Command::ReadByteData(7)),
            (&[w(&[7, 0x34, 0x12])], Command::WriteWordData(7, 0x1234)),
            (&[w(&[7]), r(2)], Command::ReadWordData(7)),
            (&[w(&[7, 0x34, 0x12]), r(2)], Command::ProcessCall(7, 0x1234)),
            (&[w(&[7]), r(3)], Command::ReadI2cBlock(7, 3)),
            (&[w(&[7]), r(32)], Command::ReadI2cBlock(7, 32)),
            (&[w(&[7, 8, 9, 10])], Command::WriteI2cBlock(7, &[8, 9, 10])),
            (&[w(&long)], Command::WriteI2cBlock(7, &block)),
            (&[w(&[7, 2, 9, 10])], Command::WriteBlock(7, &[9, 10])),
            (&[w(&counted)], Command::WriteBlock(7, &block)),
            // A word, although it could be a block of one byte, too.
            (&[w(&[7, 1, 9])], Command::WriteWordData(7, 0x0901)),
        ];
        for (messages, expected) in table {
            assert_eq!(command(ALL, messages), Ok(expected), "{messages:?}");
        }
    }

    #[test]
    fn another_command_with_the_same_bytes_stands_in() {
        let table: [(&[Message], &[Function], Command<'_>); 6] = [
            (&[w(&[7, 8])], &[WRITE_BYTE_DATA], Command::WriteI2cBlock(7, &[8])),
            (
                &[w(&[7, 8, 9])],
                &[WRITE_WORD_DATA],
                Command::WriteI2cBlock(7, &[8, 9]),
            ),
            (&[w(&[7, 1, 9])], &[WRITE_WORD_DATA], Command::WriteBlock(7, &[9])),
            (
                &[w(&[7, 2, 9, 10])],
                &[WRITE_BLOCK],
                Command::WriteI2cBlock(7, &[2, 9, 10]),
            ),
            (&[w(&[7]), r(1)], &[READ_BYTE_DATA], Command::ReadI2cBlock(7, 1)),
            (&[w(&[7]), r(2)], &[READ_WORD_DATA], Command::ReadI2cBlock(7, 2)),
        ];
        for (messages, lacking, expected) in table {
            assert_eq!(command(without(lacking), messages), Ok(expected), "{messages:?}");
        }
    }

    #[test]
    fn what_the_adapter_lacks_is_named() {
        let table: [(&[Message], Function); 11] = [
            (&[w(&[])], QUICK),
            (&[r(0)], QUICK),
            (&[w(&[7])], WRITE_BYTE),
            (&[r(1)], READ_BYTE),
            (&[w(&[7, 8])], WRITE_BYTE_DATA),
            (&[w(&[7, 8, 9])], WRITE_WORD_DATA),
            (&[w(&[7, 8, 9, 10])], WRITE_I2C_BLOCK),
            (&[w(&[7]), r(1)], READ_BYTE_DATA),
            (&[w(&[7]), r(2)], READ_WORD_DATA),
            (&[w(&[7]), r(9)], READ_I2C_BLOCK),
            (&[w(&[7, 8, 9]), r(2)], PROCESS_CALL),
        ];
        for (messages, function) in table {
            assert_eq!(command(Functions(0), messages), Err(function), "{messages:?}");
            assert!(command(Functions(function.bit), messages).is_ok(), "{messages:?}");
        }
    }

    #[test]
    fn what_is_no_command_needs_plain_i2c() {
        let other = message(0x51, Direction::Read, vec![0]);
        let table: [&[Message]; 13] = [
            &[],
            &[r(2)],
            &[w(&[7; 35])],
            // 33 bytes after the first, and the count of them is wrong.
            &[w(&[7; 34])],
            &[w(&[7]), r(33)],
            &[w(&[7]), r(0)],
            &[w(&[]), r(1)],
            &[w(&[7, 8]), r(1)],
            &[w(&[7, 8, 9]), r(3)],
            &[w(&[7, 8]), w(&[9, 10])],
            &[r(1), w(&[7])],
            &[w(&[7]), other],
            &[w(&[7]), r(1), w(&[])],
        ];
        for messages in table {
            assert_eq!(command(ALL, messages), Err(PLAIN), "{messages:?}");
        }
    }
}
