// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much may be under way on one connection, in each direction (section 5.10.6.3). Pure; counters wrap at 2^32.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use crate::request::Room;

/// Bytes of its room that the guest may need for a packet, beside the payload: what Linux takes for one (since 7.0 it resets a
/// connection whose packets take more than its room in this way), with a good measure more.
const OVERHEAD: u32 = 1024;

/// Packets that may be under way whatever the room is.
const MIN_PACKETS: u32 = 4;

/// What the guest has room for: bounds what we send.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outgoing {
    room: Room,
    sent: u32,
    /// Packets that may still be in the guest's room; never fewer than there are, if they are of one size.
    packets: u32,
    /// Packets that were sent, which wraps.
    count: u32,
    /// What `sent` and `count` were when credit was asked for last.
    asked: Option<(u32, u32)>,
    /// It was asked since the last packet, and had no more room than it had told before.
    confirmed: bool,
}

impl Outgoing {
    /// The guest told its room.
    pub(crate) fn update(&mut self, room: Room) {
        let before = self.under_way();
        self.confirmed = room == self.room && self.asked == Some((self.sent, self.count));
        self.room = room;
        let left = u64::from(self.packets).saturating_mul(self.under_way().into());
        let packets = left.div_ceil(u64::from(before).max(1));
        self.packets = u32::try_from(packets).unwrap_or(u32::MAX).min(self.packets);
    }

    fn under_way(&self) -> u32 {
        self.sent.wrapping_sub(self.room.fwd_cnt)
    }

    /// Bytes that may be sent now. A guest that counts wrong gets none.
    ///
    /// As long as something is under way, none rather than a few: else a guest that reads slowly would get
    /// its bytes in ever smaller packets. Unless it has confirmed that this is all: it may wait for just these bytes
    /// (`SO_RCVLOWAT`).
    pub(crate) fn free(&self) -> usize {
        let waits = self.is_short() && !self.confirmed;
        let full = self.under_way() > 0 && self.packets >= self.max_packets();
        if waits || full { 0 } else { self.room() as usize }
    }

    /// Whether the guest has room for a few bytes beside those under way.
    fn is_short(&self) -> bool {
        self.under_way() > 0 && (1..self.room.buf_alloc / 8).contains(&self.room())
    }

    /// Bytes that the guest has room for.
    fn room(&self) -> u32 {
        self.room.buf_alloc.saturating_sub(self.under_way())
    }

    fn max_packets(&self) -> u32 {
        (self.room.buf_alloc / OVERHEAD).max(MIN_PACKETS)
    }

    /// Whether the guest should be asked while there is still room: it tells by itself when many bytes have come, and
    /// nothing of many packets.
    pub(crate) fn has_many_packets(&self) -> bool {
        self.packets >= self.max_packets() / 2
    }

    /// Whether to ask for credit: not again before half the room was used anew, in bytes or in packets, or it has become
    /// so little that none is used.
    pub(crate) fn ask(&mut self) -> bool {
        let now = (self.sent, self.count);
        let due = self.asked.is_none_or(|(sent, count)| {
            self.sent.wrapping_sub(sent) >= (self.room.buf_alloc / 2).max(1)
                || self.count.wrapping_sub(count) >= self.max_packets() / 2
                || self.is_short() && self.asked != Some(now)
        });
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// Nothing has come for long: the question may be asked again.
    pub(crate) fn forget_asking(&mut self) {
        self.asked = None;
    }

    /// All that the guest has room for when nothing is under way.
    pub(crate) fn capacity(&self) -> usize {
        self.room.buf_alloc as usize
    }

    /// So many bytes were sent.
    pub(crate) fn sent(&mut self, len: usize) {
        self.confirmed = false;
        self.sent = self.sent.wrapping_add(len as u32);
        self.packets = self.packets.saturating_add(1);
        self.count = self.count.wrapping_add(1);
    }
}

/// What we have room for: bounds what the guest sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    buf_alloc: u32,
    received: u32,
    forwarded: u32,
    /// What of `forwarded` the guest knows.
    told: u32,
}

impl Incoming {
    /// With room for `buf_alloc` bytes.
    pub(crate) fn new(buf_alloc: u32) -> Self {
        Self {
            buf_alloc,
            received: 0,
            forwarded: 0,
            told: 0,
        }
    }

    /// Bytes came. `false` if the guest had no right to send them.
    #[must_use]
    pub(crate) fn received(&mut self, len: u32) -> bool {
        let held = self.received.wrapping_sub(self.forwarded);
        let fits = len <= self.buf_alloc.saturating_sub(held);
        self.received = self.received.wrapping_add(len);
        fits
    }

    /// Bytes went on to the host.
    pub(crate) fn forwarded(&mut self, len: usize) {
        self.forwarded = self.forwarded.wrapping_add(len as u32);
    }

    /// What the next packet to the guest says. It knows then.
    pub(crate) fn tell(&mut self) -> Room {
        self.told = self.forwarded;
        Room {
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.forwarded,
        }
    }

    /// Whether the guest should be told without being asked: from what it knows, half the room is taken.
    pub(crate) fn is_news(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= self.buf_alloc / 2 && self.forwarded != self.told
    }
}

#[cfg(test)]
mod tests {
    use super::{Incoming, Outgoing};
    use crate::request::Room;

    fn room(buf_alloc: u32, fwd_cnt: u32) -> Room {
        Room { buf_alloc, fwd_cnt }
    }

    #[test]
    fn we_send_what_the_guest_has_room_for() {
        let mut credit = Outgoing::default();
        assert_eq!(credit.free(), 0, "nothing before it has told");
        credit.update(room(100, 0));
        credit.sent(60);
        assert_eq!(credit.free(), 40);
        credit.update(room(100, 50));
        assert_eq!(credit.free(), 90);
        credit.update(room(5, 50));
        assert_eq!(credit.free(), 0, "its room shrank");
    }

    #[test]
    fn a_few_bytes_of_room_are_not_used_while_more_is_coming() {
        let mut credit = Outgoing::default();
        credit.update(room(8192, 0));
        credit.sent(8000);
        assert_eq!(credit.free(), 0);
        credit.update(room(8192, 8000));
        assert_eq!(credit.free(), 8192);
        credit.update(room(1, 8000));
        assert_eq!(credit.free(), 1, "all that this guest ever has");
    }

    #[test]
    fn a_few_bytes_of_room_are_used_when_the_guest_has_no_more() {
        let mut credit = Outgoing::default();
        credit.update(room(8192, 0));
        credit.sent(4100);
        assert!(credit.ask());
        credit.sent(3900);
        credit.update(room(8192, 0));
        assert_eq!(credit.free(), 0, "that was no answer");
        assert!(credit.ask() && !credit.ask());
        credit.update(room(8192, 0));
        assert_eq!(credit.free(), 192);
        credit.sent(100);
        assert_eq!(credit.free(), 0);
    }

    #[test]
    fn small_packets_end_before_the_guest_has_no_room_for_their_overhead() {
        let mut credit = Outgoing::default();
        credit.update(room(65536, 0));
        let sent = (0..100).take_while(|_| {
            let free = credit.free();
            credit.sent(10);
            free > 0
        });
        assert_eq!(sent.count(), 64);
        credit.update(room(65536, 650));
        assert_eq!(credit.free(), 65536, "all of them were read");
    }

    #[test]
    fn credit_is_asked_for_once_in_half_the_room() {
        let mut credit = Outgoing::default();
        credit.update(room(100, 0));
        assert!(credit.ask() && !credit.ask());
        credit.sent(49);
        assert!(!credit.ask());
        credit.sent(1);
        assert!(credit.ask() && !credit.ask());
        credit.forget_asking();
        assert!(credit.ask());
    }

    #[test]
    fn credit_is_asked_for_once_in_half_the_packets() {
        let mut credit = Outgoing::default();
        credit.update(room(65536, 0));
        let mut asked = Vec::new();
        for number in 1..=80 {
            credit.sent(1);
            if credit.has_many_packets() && credit.ask() {
                asked.push(number);
            }
        }
        assert_eq!(asked, [32, 64]);
    }

    #[test]
    fn counters_wrap() {
        let mut credit = Outgoing::default();
        credit.sent(u32::MAX as usize);
        credit.update(room(100, u32::MAX));
        credit.sent(10);
        assert_eq!(credit.free(), 90);
        let mut credit = Incoming::new(100);
        credit.received = u32::MAX - 20;
        credit.forwarded = u32::MAX - 20;
        assert!(credit.received(100));
        assert!(!credit.received(1));
    }

    #[test]
    fn a_guest_that_counts_more_than_we_sent_gets_nothing() {
        let mut credit = Outgoing::default();
        credit.update(Room {
            buf_alloc: 100,
            fwd_cnt: 1,
        });
        assert_eq!(credit.free(), 0);
    }

    #[test]
    fn the_guest_is_told_before_its_credit_ends() {
        let mut credit = Incoming::new(100);
        assert!(credit.received(60));
        credit.forwarded(49);
        assert!(!credit.is_news());
        credit.forwarded(1);
        assert!(credit.is_news());
        assert_eq!(
            credit.tell(),
            Room {
                buf_alloc: 100,
                fwd_cnt: 50
            }
        );
        assert!(!credit.is_news());
    }

    #[test]
    fn more_than_the_room_is_told_from_what_fits() {
        let mut credit = Incoming::new(100);
        assert!(credit.received(100));
        credit.forwarded(30);
        assert!(credit.received(30));
        assert!(!credit.received(1));
    }
}
