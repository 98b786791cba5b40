// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The socket device: streams both ways, a question and its answer, and connections that come, go, and stay.
//!
//! The guest (`driver.rs`) and the process of the host are one thread, beside the daemon.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::PollFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vu_testkit::event::wait_readable;
use vu_testkit::meter::quantile;
use vu_testkit::process;

use super::Row;
use super::pair::{Args, Bench, Launches, Pair, lower, micros};
use super::report::{self, Fact, Group, median};
use ceiling::ceiling;
use driver::{Connection, Driver, MAX_PAYLOAD, read, write};

mod ceiling;
mod driver;

/// How many times the peer's throughput, and how many times less than its latency.
const GOAL: Option<f64> = Some(2.0);
/// Bytes that the host's process takes at a time.
const READ: usize = 256 << 10;
/// Writes that it makes at a time.
const WRITES: usize = 64;
/// Bytes of a question, and of its answer.
const QUESTION: u32 = 64;
/// Connections that are opened and closed at once.
const AT_ONCE: [u32; 2] = [1, 32];
/// Connections that do nothing.
const IDLE: u32 = 1000;
const GIB: f64 = (1 << 30) as f64;

/// Which way the bytes of a stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToHost,
    ToGuest,
}

/// Writes of one size in one direction.
struct Load {
    way: Way,
    size: u32,
    title: &'static str,
}

const LOADS: &[Load] = &[
    load(Way::ToHost, 64, "guest to host, 64 B"),
    load(Way::ToHost, 4 << 10, "guest to host, 4 KiB"),
    load(Way::ToHost, 64 << 10, "guest to host, 64 KiB"),
    load(Way::ToGuest, 64, "host to guest, 64 B"),
    load(Way::ToGuest, 4 << 10, "host to guest, 4 KiB"),
    load(Way::ToGuest, 64 << 10, "host to guest, 64 KiB"),
];

const fn load(way: Way, size: u32, title: &'static str) -> Load {
    Load { way, size, title }
}

/// What one load gives in one round.
struct Sample {
    bytes_per_second: f64,
    cpu_per_gib: f64,
}

/// What a measurement needs beside the daemon: how long it takes, and ports that nothing has used.
struct Plan {
    time: Duration,
    port: Cell<u32>,
}

impl Plan {
    fn ports(&self, count: u32) -> std::ops::Range<u32> {
        let first = self.port.get();
        self.port.set(first + count);
        first..first + count
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // Those of the idle connections, here and in the daemons.
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("more open files")?;
    let mut pair = Pair::start("vsock", launches(args)?, args)?;
    let plan = Plan {
        time: args.time(),
        port: Cell::new(1 << 16),
    };
    let wanted = LOADS.iter().filter(|load| args.wants(load.title));
    let (mut groups, mut facts) = (Vec::new(), Vec::new());
    for load in wanted {
        let samples = samples(&mut pair, &plan, load)?;
        groups.push(group(load, pair.peer(), &samples));
        if load.way == Way::ToGuest {
            facts.push(share(load, pair.cpus(), plan.time, &samples)?);
        }
    }
    let mut rows = Vec::new();
    let mut answers = Vec::new();
    if args.wants("latency") {
        answers.push(Group {
            title: "latency of a question and its answer".to_owned(),
            peer: pair.peer().to_owned(),
            noisy: false,
            rows: latency(&mut pair, &plan)?.into(),
        });
    }
    if args.wants("connections") {
        for count in AT_ONCE {
            rows.push(connections(&mut pair, &plan, count)?);
        }
        rows.push(idle_connections(&mut pair, &plan)?);
    }
    rows.extend([pair.start_up()?, pair.memory()?]);
    facts.push(pair.idle()?);
    report::print_groups(&groups);
    report::print_groups(&answers);
    report::print(pair.peer(), &rows);
    report::print_facts(pair.peer(), &facts);
    Ok(())
}

/// Both with the host's sockets beside their own.
fn launches(args: &Args) -> Result<Launches> {
    let mut launches = args.launches("vsock")?;
    for launch in [&mut launches.ours, &mut launches.theirs] {
        for arg in &mut launch.args {
            *arg = arg.replace("{unique}", "{socket}.v");
        }
    }
    Ok(launches)
}

/// One connection, from its beginning to its end.
fn with_connection<T>(
    bench: &mut Bench,
    plan: &Plan,
    act: impl FnOnce(&mut Driver<'_>, &mut Connection, &UnixStream) -> Result<T>,
) -> Result<T> {
    let mut driver = Driver::new(bench)?;
    let listener = driver.listen(1)?;
    let (mut connections, streams) = driver.open(&listener, plan.ports(1))?;
    let result = act(&mut driver, &mut connections[0], &streams[0])?;
    driver.close(&mut connections, &streams)?;
    Ok(result)
}

fn samples(pair: &mut Pair, plan: &Plan, load: &Load) -> Result<Vec<(Sample, Sample)>> {
    pair.turns(|bench| {
        let pid = bench.daemon.pid();
        with_connection(bench, plan, |driver, connection, host| {
            let cpu = process::cpu_time(pid)?;
            let began = Instant::now();
            let bytes = match load.way {
                Way::ToHost => to_host(driver, connection, host, load.size, began + plan.time)?,
                Way::ToGuest => to_guest(driver, connection, host, load.size, began + plan.time)?,
            };
            let (elapsed, bytes) = (began.elapsed(), bytes as f64);
            let cpu = process::cpu_time(pid)?.saturating_sub(cpu);
            Ok(Sample {
                bytes_per_second: bytes / elapsed.as_secs_f64(),
                cpu_per_gib: cpu.as_secs_f64() * GIB / bytes,
            })
        })
    })
}

fn group(load: &Load, peer: &str, samples: &[(Sample, Sample)]) -> Group {
    let row = |title: &str, unit, goal, value: fn(&Sample) -> f64| Row {
        title: title.to_owned(),
        unit,
        higher_is_better: goal == GOAL,
        goal,
        pairs: samples.iter().map(|(a, b)| (value(a), value(b))).collect(),
    };
    Group {
        title: load.title.to_owned(),
        peer: peer.to_owned(),
        noisy: false,
        rows: vec![
            row("throughput", "MB/s", GOAL, |sample| sample.bytes_per_second / 1e6),
            row("CPU per GiB", "s", None, |sample| sample.cpu_per_gib),
        ],
    }
}

/// What part of the speed of the host's socket arrives at the guest.
fn share(load: &Load, cpus: &[usize], time: Duration, samples: &[(Sample, Sample)]) -> Result<Fact> {
    let ceilings = samples.iter().map(|_| ceiling(cpus, load.size as usize, time));
    let ceiling = median(&mut ceilings.collect::<Result<Vec<_>>>()?);
    let share = |speeds: &mut dyn Iterator<Item = f64>| {
        format!("{:.2}", median(&mut speeds.collect::<Vec<_>>()) / ceiling)
    };
    Ok(Fact {
        title: format!("{}: part of what the host's socket takes", load.title),
        ours: share(&mut samples.iter().map(|(ours, _)| ours.bytes_per_second)),
        theirs: share(&mut samples.iter().map(|(_, theirs)| theirs.bytes_per_second)),
        reached: None,
    })
}

/// The guest writes until `end`; how many bytes the host got, which is all of them.
fn to_host(
    driver: &mut Driver<'_>,
    connection: &mut Connection,
    host: &UnixStream,
    size: u32,
    end: Instant,
) -> Result<u64> {
    let mut buffer = vec![0; READ];
    let (mut sent, mut got) = (0, 0);
    // What is left of a write for which there was no credit.
    let mut rest = 0;
    loop {
        let more = Instant::now() < end;
        let mut moved = false;
        while more && connection.credit() > 0 && driver.has_place()? {
            rest = if rest == 0 { size } else { rest };
            let len = rest.min(connection.credit()).min(MAX_PAYLOAD);
            driver.send_payload(connection, len);
            (sent, rest, moved) = (sent + u64::from(len), rest - len, true);
        }
        driver.submit();
        moved |= driver.receive(connection)?;
        let len = read(host, &mut buffer)?;
        got += len as u64;
        if !more && got == sent {
            return Ok(got);
        }
        if !moved && len == 0 {
            driver.wait(Some((host, PollFlags::IN)))?;
        }
    }
}

/// The host writes until `end`; how many bytes the guest got, which is all of them.
fn to_guest(
    driver: &mut Driver<'_>,
    connection: &mut Connection,
    host: &UnixStream,
    size: u32,
    end: Instant,
) -> Result<u64> {
    let bytes = vec![0; size as usize];
    let (mut sent, mut got, mut rest) = (0, 0, 0);
    loop {
        let more = Instant::now() < end;
        let mut len = 0;
        // Not more than the socket's buffer takes, then the guest looks for packets.
        for _ in 0..if more { WRITES } else { 0 } {
            rest = if rest == 0 { bytes.len() } else { rest };
            let written = write(host, &bytes[..rest])?;
            if written == 0 {
                break;
            }
            (len, rest) = (len + written as u64, rest - written);
        }
        sent += len;
        let before = connection.received();
        let moved = driver.receive(connection)?;
        got += u64::from(connection.received().wrapping_sub(before));
        if !more && got == sent {
            return Ok(got);
        }
        if !moved && len == 0 {
            driver.wait(more.then_some((host, PollFlags::OUT)))?;
        }
    }
}

/// The guest asks, the host answers, one at a time.
fn latency(pair: &mut Pair, plan: &Plan) -> Result<[Row; 2]> {
    let taken = pair.turns(|bench| {
        with_connection(bench, plan, |driver, connection, host| {
            let mut latencies = Vec::new();
            let end = Instant::now() + plan.time;
            while Instant::now() < end {
                latencies.push(question(driver, connection, host)?);
            }
            Ok([50, 99].map(|percent| micros(quantile(&mut latencies, percent))))
        })
    })?;
    let row = |at: usize, percent| {
        let pairs = taken.iter().map(|(ours, theirs)| (ours[at], theirs[at]));
        Row {
            goal: GOAL,
            ..lower(&format!("p{percent}"), "us", pairs.collect())
        }
    };
    Ok([row(0, 50), row(1, 99)])
}

fn question(driver: &mut Driver<'_>, connection: &mut Connection, host: &UnixStream) -> Result<Duration> {
    let mut buffer = [0; QUESTION as usize];
    driver.has_place()?;
    let began = Instant::now();
    driver.send_payload(connection, QUESTION);
    driver.submit();
    ensure!(
        wait_readable(host.as_fd(), began + Duration::from_secs(20)),
        "no question came"
    );
    let got = read(host, &mut buffer)?;
    write(host, &buffer[..got])?;
    driver.receive_exactly(connection, QUESTION)?;
    Ok(began.elapsed())
}

/// `count` connections at once are opened and closed, again and again.
fn connections(pair: &mut Pair, plan: &Plan, count: u32) -> Result<Row> {
    let pairs = pair.turns(|bench| {
        let mut driver = Driver::new(bench)?;
        let listener = driver.listen(1)?;
        let began = Instant::now();
        let mut done = 0;
        while began.elapsed() < plan.time {
            let (mut connections, streams) = driver.open(&listener, plan.ports(count))?;
            driver.close(&mut connections, &streams)?;
            done += count;
        }
        Ok(f64::from(done) / began.elapsed().as_secs_f64())
    })?;
    Ok(Row {
        title: format!("connections opened and closed, {count} at once"),
        unit: "1/s",
        higher_is_better: true,
        goal: None,
        pairs,
    })
}

fn idle_connections(pair: &mut Pair, plan: &Plan) -> Result<Row> {
    let pair = pair.each(|bench| {
        let pid = bench.daemon.pid();
        let mut driver = Driver::new(bench)?;
        let listener = driver.listen(1)?;
        let mut all = Vec::new();
        for _ in 0..IDLE / 20 {
            all.push(driver.open(&listener, plan.ports(20))?);
        }
        let bytes = process::resident(pid)?;
        for (connections, streams) in &mut all {
            driver.close(connections, streams)?;
        }
        Ok(f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)))
    })?;
    Ok(lower(
        &format!("memory of the daemon with {IDLE} idle connections"),
        "KiB",
        vec![pair],
    ))
}
