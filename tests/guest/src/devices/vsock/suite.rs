// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's own tests of its sockets (`tools/testing/vsock`): one of their two sides.
//!
//! Beside what they test, the sides speak to each other by TCP. These guests have no network: what the tests say to
//! their own loopback is carried to the other guest by one more connection of the device.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::socket::{VsockAddr, connect};
use rustix::net::{self, AddressFamily, SendFlags, SocketType};
use serde_json::{Value, json};

use super::{listening, open};
use crate::task::Options;

/// The port of the guests for what the sides say by TCP; none that the tests use.
const CHANNEL: u32 = 7000;
/// The port at which the server waits for it.
const CONTROL: u16 = 7001;

/// Runs `program=` as `side=server` or `side=client`, the other one being the guest `cid=`; all outcomes, by name.
pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let side: String = options.get("side", "client".to_owned())?;
    loopback().context("the loopback interface")?;
    let (mut child, tcp, channel) = match &*side {
        "client" => client(options)?,
        "server" => server(options)?,
        _ => bail!("side={side}: no such side"),
    };
    let carriers = carry(&tcp, &channel)?;
    let output = child.stdout.take().context("the output of the tests")?;
    let tests = outcomes(BufReader::new(output))?;
    let status = child.wait()?;
    // Until the other side has had the last word, too: this guest may power off then.
    for carrier in carriers {
        let ended = carrier.join();
        ended.map_err(|panic| anyhow::anyhow!("carrier: {panic:?}"))?;
    }
    ensure!(status.success(), "the tests ended with {status}: {tests:?}");
    Ok(json!({ "tests": tests }))
}

fn client(options: &Options) -> anyhow::Result<(Child, TcpStream, File)> {
    let cid: u32 = options.get("cid", 2)?;
    let channel = open(options)?;
    connect(channel.as_raw_fd(), &VsockAddr::new(cid, CHANNEL)).context("the other guest")?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let child = start(options, &["--mode=client", "--control-host=127.0.0.1"], port)?;
    Ok((child, listener.accept()?.0, channel.into()))
}

fn server(options: &Options) -> anyhow::Result<(Child, TcpStream, File)> {
    let channel = net::accept(listening(options, CHANNEL)?).context("accept")?;
    let mut child = start(options, &["--mode=server"], CONTROL)?;
    loop {
        if let Ok(tcp) = TcpStream::connect(("127.0.0.1", CONTROL)) {
            return Ok((child, tcp, channel.into()));
        }
        if let Some(status) = child.try_wait()? {
            bail!("the tests ended with {status} before they began");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn start(options: &Options, side: &[&str], port: u16) -> anyhow::Result<Child> {
    let program: String = options.get("program", String::new())?;
    let peer: u32 = options.get("cid", 2)?;
    let mut command = Command::new(&program);
    command
        .args(side)
        .args([format!("--control-port={port}"), format!("--peer-cid={peer}")]);
    command.stdout(Stdio::piped()).spawn().context(program)
}

/// Brings up the first interface, which is the loopback: `RTM_NEWLINK` with `IFF_UP` (rtnetlink(7)).
fn loopback() -> anyhow::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_ACK: u16 = 4;
    const IFF_UP: u32 = 1;
    const LEN: u32 = 32;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let mut message = Vec::new();
    message.extend(LEN.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Number and sender; then no family, no type, interface 1, its flags, and which of them are meant.
    message.extend([0; 8]);
    message.extend([0; 4]);
    [1, IFF_UP, IFF_UP]
        .iter()
        .for_each(|word: &u32| message.extend(word.to_ne_bytes()));
    net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 128];
    let (len, _) = net::recv(&socket, &mut answer[..], net::RecvFlags::empty())?;
    // The error behind the header: 0 is a yes.
    let error = answer
        .get(16..20)
        .filter(|_| len >= 20)
        .context("a short answer")?;
    ensure!(error == [0; 4], "refused: {error:?}");
    Ok(())
}

/// Carries what the tests say, each way until its side has ended.
fn carry(tcp: &TcpStream, channel: &File) -> anyhow::Result<[JoinHandle<()>; 2]> {
    let (mut from_tcp, mut to_tcp) = (tcp.try_clone()?, tcp.try_clone()?);
    let (mut from_peer, mut to_peer) = (channel.try_clone()?, channel.try_clone()?);
    Ok([
        thread::spawn(move || {
            copy(&mut from_peer, &mut to_tcp);
            let _ = to_tcp.shutdown(Shutdown::Write);
        }),
        thread::spawn(move || {
            copy(&mut from_tcp, &mut to_peer);
            let _ = net::shutdown(&to_peer, net::Shutdown::Write);
        }),
    ])
}

/// At an error it ends: the tests then miss an answer, and say so.
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// `NUMBER - NAME...OUTCOME` by name, in order. What a test prints stands before its outcome.
fn outcomes(output: impl BufRead) -> anyhow::Result<Vec<(String, String)>> {
    let mut tests: Vec<(String, String)> = Vec::new();
    for line in output.lines() {
        let line = line?;
        println!("{line}");
        let begins = line
            .split_once(" - ")
            .filter(|(number, _)| number.parse::<u32>().is_ok());
        let said = match begins.and_then(|(_, rest)| rest.split_once("...")) {
            Some((name, said)) => {
                tests.push((name.to_owned(), String::new()));
                said
            }
            None => &line,
        };
        if let Some((_, outcome)) = tests.last_mut().filter(|(_, outcome)| outcome != "ok") {
            *outcome = said.to_owned();
        }
    }
    Ok(tests)
}
