// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests that become one transfer, from the first one to the answers.

use std::io::{self, Read, Write};

use vu_common::{Chain, Cx};

use crate::backend::{Direction, Message};
use crate::request::Request;
use crate::spec::{IN_HDR_LEN, OUT_HDR_LEN, VIRTIO_I2C_MSG_ERR, VIRTIO_I2C_MSG_OK};

/// Longest buffer that is zeroed for a read that failed. A chain may describe 4 GiB, by one page many times over.
const MAX_ZEROED: usize = u16::MAX as usize;

/// The requests of a group, or of as much of it as was there, and the messages made of them.
#[derive(Default)]
pub(crate) struct Group {
    chains: Vec<Chain>,
    /// One for each chain, unless the transfer has them.
    pub(crate) messages: Vec<Message>,
    /// The last request has `VIRTIO_I2C_FLAGS_FAIL_NEXT`.
    open: bool,
    /// Buffers for messages to come.
    spare: Vec<Vec<u8>>,
}

impl Group {
    /// The number of requests.
    pub(crate) fn len(&self) -> usize {
        self.chains.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Bytes of all messages.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = self.messages.iter().map(|message| message.data.len());
        bytes.fold(0, usize::saturating_add)
    }

    /// Adds a request; `open` if the next one belongs to the group, too. Its length has been checked.
    pub(crate) fn push(&mut self, mut chain: Chain, request: Request, open: bool) {
        let mut data = self.spare.pop().unwrap_or_default();
        data.clear();
        data.resize(request.len, 0);
        if request.direction == Direction::Write {
            let mut reader = chain.reader();
            reader.skip(OUT_HDR_LEN);
            // As long as the request says: it was measured by the chain.
            let _ = reader.read_exact(&mut data);
        }
        self.messages.push(Message {
            address: request.address,
            direction: request.direction,
            data,
        });
        self.chains.push(chain);
        self.open = open;
    }

    /// Gives all requests back: none of them has reached the bus.
    pub(crate) fn give_back(&mut self, cx: &mut Cx<'_>) {
        self.spare
            .extend(self.messages.drain(..).map(|message| message.data));
        for chain in self.chains.drain(..).rev() {
            cx.give_back(chain);
        }
        self.open = false;
    }

    /// Answers the first `done` requests with what came of their messages, all others with an error. The next request
    /// is to fail, too, if it returns true.
    pub(crate) fn answer(&mut self, done: usize) -> bool {
        let failed = done < self.len();
        let mut messages = self.messages.drain(..);
        for (at, chain) in self.chains.drain(..).enumerate() {
            let message = messages.next();
            match message.as_ref().filter(|_| at < done) {
                Some(message) => succeed(chain, message),
                None => fail(chain),
            }
            self.spare.extend(message.map(|message| message.data));
        }
        failed && std::mem::take(&mut self.open)
    }
}

/// Answers a request with `VIRTIO_I2C_MSG_OK`, after what was read.
fn succeed(mut chain: Chain, message: &Message) {
    let read = match message.direction {
        Direction::Read => message.data.as_slice(),
        Direction::Write => &[],
    };
    let mut writer = chain.writer();
    let result = writer
        .write_all(read)
        .and_then(|()| writer.write_all(&[VIRTIO_I2C_MSG_OK]));
    let written = result.map_or(0, |()| read.len().saturating_add(IN_HDR_LEN));
    chain.complete(u32::try_from(written).unwrap_or(0));
}

/// Answers a request with `VIRTIO_I2C_MSG_ERR`, in the last byte of the chain, whatever is before it.
///
/// The used length covers all that was written from the start on (virtio 1.3, section 2.7.8.2), so what a read
/// did not get is zeroed; but where that is too much, only the status is written, and the used length is 0.
pub(crate) fn fail(mut chain: Chain) {
    let writable = chain.writable_len();
    let Some(buffer) = writable.checked_sub(IN_HDR_LEN) else {
        return chain.complete(0);
    };
    let mut writer = chain.writer();
    let zeroed = if buffer <= MAX_ZEROED {
        io::copy(&mut io::repeat(0).take(buffer as u64), &mut writer).is_ok()
    } else {
        writer.skip(buffer);
        false
    };
    let answered = writer.write_all(&[VIRTIO_I2C_MSG_ERR]).is_ok();
    let written = if zeroed && answered { writable } else { 0 };
    chain.complete(u32::try_from(written).unwrap_or(0));
}
