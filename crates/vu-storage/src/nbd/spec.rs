// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers of the NBD protocol, with the names that its specification (`doc/proto.md` of the reference
//! implementation) gives them without `NBD_`. All fields are big-endian.

/// `NBDMAGIC`: the first bytes that a server sends.
pub(super) const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: newstyle, and the start of each option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The start of each reply to an option.
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The start of each request.
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The start of a simple reply.
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The start of a chunk of a structured reply.
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, of the server and of the client alike.
pub(super) const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
pub(super) const FLAG_NO_ZEROES: u16 = 1 << 1;

pub(super) const OPT_LIST: u32 = 3;
pub(super) const OPT_GO: u32 = 7;
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;

pub(super) const REP_ACK: u32 = 1;
pub(super) const REP_SERVER: u32 = 2;
pub(super) const REP_INFO: u32 = 3;
/// Set in the type of each reply that is an error.
pub(super) const REP_FLAG_ERROR: u32 = 1 << 31;
pub(super) const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR | 1;
pub(super) const REP_ERR_POLICY: u32 = REP_FLAG_ERROR | 2;
pub(super) const REP_ERR_TLS_REQD: u32 = REP_FLAG_ERROR | 5;
pub(super) const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR | 6;
pub(super) const REP_ERR_SHUTDOWN: u32 = REP_FLAG_ERROR | 7;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags.
pub(super) const FLAG_READ_ONLY: u16 = 1 << 1;
pub(super) const FLAG_SEND_FLUSH: u16 = 1 << 2;
pub(super) const FLAG_SEND_FUA: u16 = 1 << 3;
pub(super) const FLAG_ROTATIONAL: u16 = 1 << 4;
pub(super) const FLAG_SEND_TRIM: u16 = 1 << 5;
pub(super) const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(super) const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;

pub(super) const CMD_READ: u16 = 0;
pub(super) const CMD_WRITE: u16 = 1;
pub(super) const CMD_DISC: u16 = 2;
pub(super) const CMD_FLUSH: u16 = 3;
pub(super) const CMD_TRIM: u16 = 4;
pub(super) const CMD_WRITE_ZEROES: u16 = 6;

pub(super) const CMD_FLAG_FUA: u16 = 1 << 0;
pub(super) const CMD_FLAG_NO_HOLE: u16 = 1 << 1;

pub(super) const REPLY_FLAG_DONE: u16 = 1 << 0;

pub(super) const REPLY_TYPE_NONE: u16 = 0;
pub(super) const REPLY_TYPE_OFFSET_DATA: u16 = 1;
pub(super) const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Set in the type of each chunk that is an error.
pub(super) const REPLY_FLAG_ERROR: u16 = 1 << 15;
pub(super) const REPLY_TYPE_ERROR_OFFSET: u16 = REPLY_FLAG_ERROR | 2;

/// Longest string of either side.
pub(super) const MAX_STRING: usize = 4096;
/// What a server takes and sends at once if it does not say otherwise.
pub(super) const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;
/// The port that clients try first.
pub(super) const PORT: u16 = 10809;

/// Bytes of a request without its payload.
pub(super) const REQUEST_LEN: usize = 28;

/// A request of `len` bytes from `offset` on.
pub(super) fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Takes fields off the front of a message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `N` bytes; `None` if there are fewer.
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }
}
