// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration space.

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result, skip};
use crate::frontend::wire::{BACKEND_CONFIG_CHANGE_MSG, NEED_REPLY, REPLY, VERSION, protocol};
use crate::frontend::{Error, FrontEnd};

fn with_config(cx: &Cx) -> Result<(FrontEnd, u32)> {
    let length = cx.profile.config_len();
    if length == 0 {
        return skip("the device has no configuration space");
    }
    cx.need_protocol(protocol::CONFIG, "CONFIG")?;
    Ok((cx.negotiated()?, length))
}

pub(super) fn every_part_reads_like_the_whole(cx: &mut Cx) -> Result<()> {
    let (front, length) = with_config(cx)?;
    let whole = front.get_config(0, length)?;
    for offset in 0..length {
        for size in [1, 2, 4, 8, length - offset] {
            if offset + size > length {
                continue;
            }
            let part = front.get_config(offset, size)?;
            let (start, end) = (offset as usize, (offset + size) as usize);
            ensure!(
                part == whole[start..end],
                "{size} bytes at {offset}: {part:x?}, the whole is {whole:x?}"
            );
        }
    }
    Ok(())
}

pub(super) fn beyond_the_end_reads_zero(cx: &mut Cx) -> Result<()> {
    let (front, length) = with_config(cx)?;
    let whole = front.get_config(0, length)?;
    let mut padded = whole.clone();
    padded.resize(256, 0);
    ensure!(front.get_config(0, 256)? == padded, "256 bytes from 0");
    for (offset, size) in [(length, 8), (length - 1, 8), (200, 56), (250, 6)] {
        let part = front
            .get_config(offset, size)
            .with_context(|| format!("{size} bytes at {offset}"))?;
        let expected: Vec<u8> = (offset..offset + size)
            .map(|at| whole.get(at as usize).copied().unwrap_or(0))
            .collect();
        ensure!(part == expected, "{size} bytes at {offset}: {part:x?}");
    }
    Ok(())
}

pub(super) fn reads_out_of_any_range_are_answered_or_refused(cx: &mut Cx) -> Result<()> {
    let front = cx.negotiated()?;
    if !front.has(protocol::CONFIG) {
        return skip("CONFIG is not offered");
    }
    for (offset, size) in [
        (0, 0),
        (0, 4000),
        (4000, 200),
        (u32::MAX, 4),
        (u32::MAX - 3, 4),
        (0x1000, 1),
    ] {
        match front.get_config(offset, size) {
            Ok(_) | Err(Error::Refused(..)) => {}
            Err(error) => anyhow::bail!("{size} bytes at {offset:#x}: {error}"),
        }
        front
            .get_features()
            .with_context(|| format!("after a read of {size} bytes at {offset:#x}"))?;
    }
    drop(front);
    cx.still_serves()
}

pub(super) fn a_refused_write_does_not_hang_up(cx: &mut Cx) -> Result<()> {
    let front = cx.negotiated()?;
    if !front.has(protocol::CONFIG) {
        return skip("CONFIG is not offered");
    }
    let length = cx.profile.config_len().max(1) as usize;
    for (offset, size) in [(0, length), (0, 1), (u32::MAX - 8, 4), (0x2000, 4), (0, 256)] {
        match front.set_config(offset, &vec![0xff; size]) {
            Ok(()) | Err(Error::Refused(..)) => {}
            Err(error) => anyhow::bail!("a write of {size} bytes at {offset:#x}: {error}"),
        }
        front
            .get_features()
            .with_context(|| format!("after a write of {size} bytes at {offset:#x}"))?;
    }
    drop(front);
    cx.still_serves()
}

pub(super) fn a_change_is_announced(cx: &mut Cx) -> Result<()> {
    cx.need_protocol(protocol::BACKEND_REQ, "BACKEND_REQ")?;
    let (_, length) = with_config(cx)?;
    // A device need not look after a driver that has not started it.
    let guest = cx.usual_guest()?;
    let front = &guest.front;
    let channel = front.open_backend_channel(cx.settings.deadline)?;
    let before = front.get_config(0, length)?;
    let profile = cx.profile.clone();
    if !profile.change_config(cx.daemon()?) {
        return skip("the device offers no way to change its configuration");
    }
    let message = channel.receive("CONFIG_CHANGE_MSG")?;
    ensure!(
        message.request == BACKEND_CONFIG_CHANGE_MSG,
        "request {} on the back end's channel",
        message.request
    );
    if message.flags & NEED_REPLY != 0 {
        channel.send(message.request, VERSION | REPLY, &[0; 8], &[])?;
    }
    ensure!(
        front.get_config(0, length)? != before,
        "the configuration is what it was"
    );
    Ok(())
}
