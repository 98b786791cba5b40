// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The GPIO device: levels read and set, edges, and what it costs to have many lines armed.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::Profile;
use vu_testkit::devices::gpio::{EVENTQ, direction, event, irq, kind, message, status};
use vu_testkit::meter::quantile;
use vu_testkit::spawn::TempDir;

use super::Row;
use super::pair::{Args, Bench, Launches, Load, Pair, lower, micros};
use super::report::{self, Fact};

/// Lines that are armed, from 0 on.
const ARMED: u16 = 32;
/// An output behind them.
const OUTPUT: u16 = ARMED;
/// An input that has the level of the output.
const FOLLOWER: u16 = ARMED + 1;
/// All of them.
const LINES: u16 = ARMED + 2;
/// Edges per round, an even number, for the output is high at the end as it was at first.
const EDGES: u32 = 500;

const fn load(what: &'static str, requests: fn() -> Vec<Request>, depth: usize) -> Load {
    Load {
        what,
        requests,
        depth,
        goal: Some(2.0),
    }
}

const LOADS: &[Load] = &[
    load("get value", get, 1),
    load("get value", get, 16),
    load("set value", set_in_turn, 1),
    load("set value", set_in_turn, 16),
];

fn get() -> Vec<Request> {
    vec![message(kind::GET_VALUE, FOLLOWER, 0)]
}

/// Low and high: a daemon may know what a line is already.
fn set_in_turn() -> Vec<Request> {
    [0, 1]
        .map(|level| message(kind::SET_VALUE, OUTPUT, level))
        .to_vec()
}

pub(super) fn run(args: &Args) -> Result<()> {
    let folder = TempDir::new()?;
    let mut pair = Pair::start("gpio", launches(args, &folder)?, args)?;
    let profile = pair.profile.clone();
    pair.each(|bench| {
        // What an output starts with is told before its direction.
        set(bench, &*profile, (kind::SET_VALUE, OUTPUT, 0))?;
        set(bench, &*profile, (kind::SET_DIRECTION, OUTPUT, direction::OUT))?;
        set(bench, &*profile, (kind::SET_DIRECTION, FOLLOWER, direction::IN))
    })?;
    let groups = pair.loads(LOADS)?;
    let mut rows = vec![pair.start_up()?, pair.memory()?];
    let before = pair.threads()?;
    let wired = pair.each(|bench| follows(bench, &*profile))?;
    pair.each(|bench| arm(bench, &*profile))?;
    if wired == (true, true) {
        rows.extend(edges(&mut pair)?);
    } else {
        eprintln!("no edges: on these chips line {FOLLOWER} does not follow line {OUTPUT}");
    }
    let idle = pair.idle()?;
    let after = pair.threads()?;
    let threads = Fact {
        title: format!("threads, and with {ARMED} lines armed"),
        ours: format!("{}, {}", before.0, after.0),
        theirs: format!("{}, {}", before.1, after.1),
        reached: Some(before.0 == after.0),
    };
    report::print_groups(&groups);
    report::print(pair.peer(), &rows);
    report::print_facts(pair.peer(), &[idle, threads]);
    Ok(())
}

/// Both with chips of as many lines as this needs, wired alike.
fn launches(args: &Args, folder: &TempDir) -> Result<Launches> {
    let board = folder.path().join("board.toml");
    let text = format!("lines = {LINES}\n[line.{FOLLOWER}]\nfollows = {OUTPUT}\n");
    fs::write(&board, text).with_context(|| board.display().to_string())?;
    let mut launches = args.launches("gpio")?;
    launches.ours = launches.ours.on(Some(&board));
    if args.peer.is_none()
        && let Some(at) = launches.theirs.args.iter().position(|arg| arg == "-l")
    {
        launches.theirs.args[at + 1] = LINES.to_string();
    }
    Ok(launches)
}

/// One message, which the device has to accept.
fn set(bench: &mut Bench, profile: &dyn Profile, (kind, line, value): (u16, u16, u32)) -> Result<()> {
    let answer = bench.ask(profile, &message(kind, line, value))?;
    ensure!(
        answer.first() == Some(&status::OK),
        "message {kind} of line {line} gives {answer:?}"
    );
    Ok(())
}

/// Enables the interrupts of lines that never change, and of the one that follows the output; parks a buffer for each of
/// the former.
fn arm(bench: &mut Bench, profile: &dyn Profile) -> Result<()> {
    for line in (0..ARMED).chain([FOLLOWER]) {
        set(bench, profile, (kind::SET_DIRECTION, line, direction::IN))?;
        set(bench, profile, (kind::SET_IRQ_TYPE, line, irq::EDGE_BOTH))?;
    }
    (0..ARMED).for_each(|line| unmask(bench, line));
    Ok(())
}

/// Whether the wiring is there, as it is not on the kernel's chips. The output is high afterwards.
fn follows(bench: &mut Bench, profile: &dyn Profile) -> Result<bool> {
    let mut follows = true;
    for level in [0, 1] {
        set(bench, profile, (kind::SET_VALUE, OUTPUT, level.into()))?;
        let answer = bench.ask(profile, &message(kind::GET_VALUE, FOLLOWER, 0))?;
        follows &= answer == [status::OK, level];
    }
    Ok(follows)
}

fn unmask(bench: &mut Bench, line: u16) {
    let lane = &mut bench.guest.lanes[usize::from(EVENTQ)];
    lane.place(event(line), Framing::Whole, Placement::Direct);
    lane.queue.submit();
}

/// From the kick for a request that makes an edge to the used buffer of the line that sees it.
fn edges(pair: &mut Pair) -> Result<[Row; 2]> {
    let taken = pair.turns(|bench| {
        let mut latencies = (0..EDGES)
            .map(|number| edge(bench, number))
            .collect::<Result<Vec<_>>>()?;
        Ok([50, 99].map(|percent| micros(quantile(&mut latencies, percent))))
    })?;
    let row = |at: usize, percent| {
        let pairs = taken.iter().map(|(ours, theirs)| (ours[at], theirs[at]));
        lower(&format!("edge to used buffer, p{percent}"), "us", pairs.collect())
    };
    Ok([row(0, 50), row(1, 99)])
}

fn edge(bench: &mut Bench, number: u32) -> Result<Duration> {
    unmask(bench, FOLLOWER);
    let lane = bench.guest.lane();
    let end = lane.end();
    let request = message(kind::SET_VALUE, OUTPUT, number % 2);
    lane.place(request, Framing::Whole, Placement::Direct);
    let begun = Instant::now();
    lane.queue.submit();
    bench.guest.lanes[usize::from(EVENTQ)].queue.wait(end)?;
    let latency = begun.elapsed();
    bench.guest.lane().queue.wait(end)?;
    Ok(latency)
}
