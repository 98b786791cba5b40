// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages that are malformed, unknown, out of place or too many (T5, T20, T21).

use std::os::fd::AsFd;

use anyhow::{Context as _, ensure};

use crate::conformance::{Cx, Result};
use crate::event::Event;
use crate::frontend::wire::{self, NEED_REPLY, REPLY, VERSION, request, u32s, u64s};
use crate::process;

/// One past the highest id that any published version of the protocol knows.
const IDS: u32 = 48;

/// Sends one message on a fresh connection and hangs up; `good` negotiates first.
fn send(cx: &Cx, good: bool, bytes: &[u8]) -> Result<()> {
    let front = if good {
        cx.negotiated()?
    } else {
        cx.connect_unseen()?
    };
    let _ = front.send_bytes(bytes, &[]);
    Ok(())
}

fn message(id: u32, flags: u32, size: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::header(id, flags, size).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn unknown_ids(cx: &mut Cx) -> Result<()> {
    for id in [0, IDS, 100, 0xffff, u32::MAX] {
        for good in [false, true] {
            send(cx, good, &message(id, VERSION | NEED_REPLY, 8, &[0; 8]))?;
        }
        cx.still_serves().with_context(|| format!("after id {id}"))?;
    }
    Ok(())
}

pub(crate) fn odd_header_flags(cx: &mut Cx) -> Result<()> {
    for flags in [0, 2, 3, VERSION | REPLY, VERSION | 0xffff_fff8, u32::MAX] {
        for good in [false, true] {
            send(cx, good, &message(request::GET_FEATURES, flags, 0, &[]))?;
        }
        cx.still_serves()
            .with_context(|| format!("after flags {flags:#x}"))?;
    }
    Ok(())
}

pub(crate) fn every_id_with_every_odd_size(cx: &mut Cx) -> Result<()> {
    let payload = vec![0xff; 4096];
    for id in 1..IDS {
        for size in [0_usize, 1, 7, 8, 9, 12, 24, 40, 41, 268, 4096] {
            send(
                cx,
                true,
                &message(id, VERSION, u32::try_from(size)?, &payload[..size]),
            )?;
        }
        cx.still_serves()
            .with_context(|| format!("after message {id} in odd sizes"))?;
    }
    Ok(())
}

pub(crate) fn every_id_as_first_message(cx: &mut Cx) -> Result<()> {
    for id in 0..IDS {
        send(cx, false, &message(id, VERSION | NEED_REPLY, 40, &[0; 40]))?;
    }
    cx.still_serves()
}

pub(crate) fn sizes_that_lie(cx: &mut Cx) -> Result<()> {
    for size in [4097, 0x1_0000, 0x7fff_ffff, u32::MAX] {
        for id in [request::SET_FEATURES, request::SET_MEM_TABLE, request::GET_CONFIG] {
            send(cx, true, &message(id, VERSION, size, &[0; 64]))?;
        }
        cx.still_serves()
            .with_context(|| format!("after an announced size of {size:#x}"))?;
    }
    Ok(())
}

/// T21: lengths inside the payload that do not fit the payload.
pub(crate) fn config_lengths_that_lie(cx: &mut Cx) -> Result<()> {
    for id in [request::GET_CONFIG, request::SET_CONFIG] {
        for (offset, size, actual) in [
            (0, 0, 0),
            (0, 8, 0),
            (0, 0, 8),
            (0, 256, 8),
            (0, u32::MAX, 8),
            (u32::MAX, u32::MAX, 8),
            (u32::MAX, 1, 1),
        ] {
            let mut payload = u32s(&[offset, size, 0]);
            payload.resize(payload.len() + actual, 0);
            send(
                cx,
                true,
                &message(id, VERSION, u32::try_from(payload.len())?, &payload),
            )?;
        }
        cx.still_serves()
            .with_context(|| format!("after odd lengths in message {id}"))?;
    }
    Ok(())
}

pub(crate) fn random_bytes(cx: &mut Cx) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..200 {
        let bytes: Vec<u8> = (0..(round * 7 % 300) + 1)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        send(cx, round % 2 == 0, &bytes)?;
    }
    cx.still_serves()
}

/// T20: descriptors attached to every message, needed or not, and none of them kept.
pub(crate) fn descriptors_on_every_message_do_not_leak(cx: &mut Cx) -> Result<()> {
    let pid = cx.need_pid()?;
    let event = Event::new()?;
    let file = std::fs::File::open("/dev/null")?;
    let count = |cx: &Cx| -> Result<usize> {
        let front = cx.connect()?;
        front.get_features()?;
        Ok(process::open_fds(pid)?)
    };
    cx.still_serves()?;
    let before = count(cx)?;
    for id in 1..IDS {
        for number in [1, 2, 8, 32] {
            let fds: Vec<_> = (0..number)
                .map(|at| if at % 2 == 0 { event.fd() } else { file.as_fd() })
                .collect();
            let front = cx.negotiated()?;
            let _ = front.send(id, VERSION, &u64s(&[0]), &fds);
            let _ = front.send(id, VERSION, &[], &fds);
        }
    }
    let after = count(cx)?;
    ensure!(
        after <= before,
        "open descriptors: {before} before, {after} after descriptors on every message"
    );
    cx.still_serves()
}

/// T5: the same message ten thousand times on one connection.
pub(crate) fn floods_do_not_leak(cx: &mut Cx) -> Result<()> {
    let pid = cx.need_pid()?;
    let guest = cx.usual_guest()?;
    let event = Event::new()?;
    let queue = u32::from(cx.profile.request_queue());
    let flood = |count: u32| -> Result<usize> {
        for number in 0..count {
            guest.front.set_vring_call(queue, Some(event.fd()))?;
            guest.front.set_vring_err(queue, Some(event.fd()))?;
            if number % 10 == 0 {
                guest.front.set_vring_kick(queue, Some(event.fd()))?;
                guest.front.set_mem_table(&guest.memory)?;
            }
        }
        guest.front.get_features()?;
        Ok(process::open_fds(pid)?)
    };
    let before = flood(100)?;
    let after = flood(5000)?;
    ensure!(
        after <= before,
        "open descriptors: {before} before the flood, {after} after it"
    );
    drop(guest);
    cx.still_serves()
}

/// A front end that asks and never reads the answers.
pub(crate) fn answers_that_nobody_reads(cx: &mut Cx) -> Result<()> {
    let front = cx.connect()?;
    front
        .stream()
        .set_write_timeout(Some(std::time::Duration::from_millis(300)))?;
    for _ in 0..100_000 {
        if front.send(request::GET_FEATURES, VERSION, &[], &[]).is_err() {
            break;
        }
    }
    drop(front);
    cx.still_serves()
}
