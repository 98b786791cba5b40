// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! virtio-vsock by the kernel's own sockets.
//!
//! | `do=` | what it does |
//! |---|---|
//! | `send` | connects, sends `bytes=` in writes of `size=`, ends its side, and checks that all comes back |
//! | `echo` | accepts `count=` connections, and sends back what comes |
//! | `many` | opens `count=` connections at once, and passes a byte through each, there and back |
//! | `refused` | connects to a port where nobody listens |
//! | `suite` | runs one side of the kernel's own tests, see `suite.rs` |
//!
//! `cid=` (2, the host) and `port=` say whom to connect to, or the own port; `seqpacket` is for messages.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, VsockAddr, bind, connect, listen, recv, send,
    shutdown, socket,
};
use serde_json::{Value, json};

use crate::task::{Options, Task};

mod suite;

/// The context id that stands for any.
const ANY: u32 = u32::MAX;

const ACTIONS: &[(&str, Task)] = &[
    ("send", sends),
    ("echo", echo),
    ("many", many),
    ("refused", refused),
    ("suite", suite::run),
];

/// Runs one action.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    super::act(options, ACTIONS, "send")
}

fn open(options: &Options) -> anyhow::Result<OwnedFd> {
    let kind = if options.has("seqpacket") {
        SockType::SeqPacket
    } else {
        SockType::Stream
    };
    socket(AddressFamily::Vsock, kind, SockFlag::SOCK_CLOEXEC, None).context("socket")
}

fn address(options: &Options) -> anyhow::Result<VsockAddr> {
    Ok(VsockAddr::new(options.get("cid", 2)?, options.get("port", 1234)?))
}

fn connected(options: &Options) -> anyhow::Result<OwnedFd> {
    let socket = open(options)?;
    let address = address(options)?;
    connect(socket.as_raw_fd(), &address).with_context(|| format!("connect to {address:?}"))?;
    Ok(socket)
}

/// A byte of the pattern, which no shift by a power of two leaves as it is.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn sends(options: &Options) -> anyhow::Result<Value> {
    let bytes: u64 = options.get("bytes", 1 << 20)?;
    let size: u64 = options.get("size", 65536)?;
    let socket = connected(options)?;
    let start = Instant::now();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let writer = scope.spawn(|| write_pattern(&socket, bytes, size));
        let whole = options.has("seqpacket").then_some(size);
        read_pattern(&socket, bytes, whole)?;
        writer
            .join()
            .map_err(|panic| anyhow::anyhow!("writer: {panic:?}"))?
    })?;
    Ok(json!({ "bytes": bytes, "seconds": start.elapsed().as_secs_f64() }))
}

fn write_pattern(socket: &OwnedFd, bytes: u64, size: u64) -> anyhow::Result<()> {
    let mut at = 0;
    while at < bytes {
        let end = bytes.min(at + size);
        let mut part: Vec<u8> = (at..end).map(pattern).collect();
        while !part.is_empty() {
            let n = send(socket.as_raw_fd(), &part, MsgFlags::MSG_NOSIGNAL)
                .with_context(|| format!("send at {at}"))?;
            part.drain(..n);
            at += n as u64;
        }
    }
    shutdown(socket.as_raw_fd(), Shutdown::Write).context("shutdown")
}

/// Reads the pattern until the end; each message has `whole` bytes, but for the last.
fn read_pattern(socket: &OwnedFd, bytes: u64, whole: Option<u64>) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let mut at = 0;
    loop {
        let n = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
            .with_context(|| format!("receive at {at}"))?;
        if n == 0 {
            ensure!(at == bytes, "the end after {at} of {bytes} bytes");
            return Ok(());
        }
        if let Some(size) = whole {
            ensure!(n as u64 == size.min(bytes - at), "a message of {n} bytes at {at}");
        }
        for byte in &buffer[..n] {
            ensure!(*byte == pattern(at), "byte {at} is {byte}, not {}", pattern(at));
            at += 1;
        }
    }
}

/// A socket at which connections to `port` arrive.
fn listening(options: &Options, port: u32) -> anyhow::Result<OwnedFd> {
    let listener = open(options)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port)).context("bind")?;
    listen(&listener, 1024).context("listen")?;
    crate::report::event("listening", json!({ "port": port }));
    Ok(listener)
}

fn echo(options: &Options) -> anyhow::Result<Value> {
    let count: u32 = options.get("count", 1)?;
    let listener = listening(options, options.get("port", 1234)?)?;
    let mut threads = Vec::new();
    for _ in 0..count {
        let socket = rustix::net::accept(&listener).context("accept")?;
        threads.push(std::thread::spawn(move || echo_one(&socket)));
    }
    let mut total = 0;
    for thread in threads {
        total += thread
            .join()
            .map_err(|panic| anyhow::anyhow!("echo: {panic:?}"))??;
    }
    Ok(json!({ "bytes": total }))
}

fn echo_one(socket: &OwnedFd) -> anyhow::Result<u64> {
    // Closing it waits until the other side has all: the guest may power off then.
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::from_secs(20))).context("linger")?;
    let mut buffer = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        let n = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("receive")?;
        if n == 0 {
            return Ok(total);
        }
        let mut sent = 0;
        while sent < n {
            sent += send(socket.as_raw_fd(), &buffer[sent..n], MsgFlags::MSG_NOSIGNAL).context("send")?;
        }
        total += n as u64;
    }
}

fn many(options: &Options) -> anyhow::Result<Value> {
    let count: usize = options.get("count", 1000)?;
    let start = Instant::now();
    let sockets = (0..count)
        .map(|_| connected(options))
        .collect::<Result<Vec<_>, _>>()?;
    let opened = start.elapsed().as_secs_f64();
    for (at, socket) in sockets.iter().enumerate() {
        send(socket.as_raw_fd(), &[at as u8], MsgFlags::MSG_NOSIGNAL).context("send")?;
    }
    for (at, socket) in sockets.iter().enumerate() {
        let mut byte = [0];
        recv(socket.as_raw_fd(), &mut byte, MsgFlags::empty()).context("receive")?;
        ensure!(byte == [at as u8], "connection {at} gave {byte:?}");
    }
    Ok(json!({ "connections": count, "opened": opened, "seconds": start.elapsed().as_secs_f64() }))
}

fn refused(options: &Options) -> anyhow::Result<Value> {
    let socket = open(options)?;
    let start = Instant::now();
    match connect(socket.as_raw_fd(), &address(options)?) {
        Ok(()) => bail!("connected"),
        Err(e) => Ok(json!({ "error": e.to_string(), "seconds": start.elapsed().as_secs_f64() })),
    }
}
