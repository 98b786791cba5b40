// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections that stall or come in crowds (T18, T19).

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::conformance::{Cx, Result};
use crate::frontend::wire::{self, VERSION, request};

/// The bytes of a message that stops in its header, and of one that stops in its payload.
fn halves() -> [Vec<u8>; 2] {
    let header = wire::header(request::SET_FEATURES, VERSION, 8).to_vec();
    let mut body = header.clone();
    body.extend([0; 3]);
    [header[..6].to_vec(), body]
}

pub(crate) fn half_a_message_then_nothing(cx: &mut Cx) -> Result<()> {
    for half in halves() {
        let front = cx.connect_unseen()?;
        front.send_bytes(&half, &[])?;
        std::thread::sleep(std::time::Duration::from_millis(50)); // let the daemon read it and wait for the rest
        drop(front);
        cx.still_serves()?;
        let front = cx.negotiated()?;
        front.send_bytes(&half, &[])?;
        drop(front);
        cx.still_serves()?;
    }
    Ok(())
}

pub(crate) fn half_a_message_does_not_hold_up_sigterm(cx: &mut Cx) -> Result<()> {
    cx.daemon()?;
    for half in halves() {
        let front = cx.negotiated()?;
        front.send_bytes(&half, &[])?;
        std::thread::sleep(std::time::Duration::from_millis(50)); // as above
        let deadline = cx.settings.deadline;
        let began = Instant::now();
        cx.daemon()?.process().terminate();
        cx.daemon()?
            .process()
            .wait(deadline)
            .context("SIGTERM in the middle of a message")?;
        ensure!(
            began.elapsed().as_secs() < 4,
            "SIGTERM in the middle of a message took {:?}",
            began.elapsed()
        );
        cx.crash()?;
    }
    Ok(())
}

/// Opens up to `count` connections without waiting for any of them.
fn crowd(cx: &Cx, count: usize) -> Result<Vec<OwnedFd>> {
    let address = SocketAddrUnix::new(cx.socket())?;
    let mut sockets = Vec::new();
    for _ in 0..count {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let _ = connect(&socket, &address); // a full backlog is no error here
        sockets.push(socket);
    }
    Ok(sockets)
}

pub(crate) fn two_hundred_connections_at_once(cx: &mut Cx) -> Result<()> {
    let sockets = crowd(cx, 200)?;
    drop(sockets);
    cx.still_serves()?;
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    let sockets = crowd(cx, 200)?;
    guest
        .lane()
        .burst(&*profile, 200, 64)
        .context("the guest that is served while 200 others knock")?;
    drop(guest);
    drop(sockets);
    cx.still_serves()
}

pub(crate) fn connections_that_close_at_once(cx: &mut Cx) -> Result<()> {
    for _ in 0..200 {
        drop(cx.connect_unseen()?);
    }
    cx.still_serves()
}

/// Hanging up between a request and its reply.
pub(crate) fn hanging_up_before_the_reply(cx: &mut Cx) -> Result<()> {
    for id in [
        request::GET_FEATURES,
        request::GET_PROTOCOL_FEATURES,
        request::GET_QUEUE_NUM,
        request::GET_VRING_BASE,
    ] {
        for _ in 0..20 {
            let front = cx.negotiated()?;
            let payload: &[u8] = if id == request::GET_VRING_BASE {
                &[0; 8]
            } else {
                &[]
            };
            front.send(id, VERSION, payload, &[])?;
        }
    }
    cx.still_serves()
}
