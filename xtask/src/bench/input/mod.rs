// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The input device: how soon and how many events arrive, and that no key edge is lost.
//!
//! No peer is beside it: the others have evdev as their only source, which needs a device of the host. Latency is compared
//! with that of a relay that does nothing but wake.

mod keyboard;
mod relay;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vu_testkit::devices;
use vu_testkit::meter::quantile;
use vu_testkit::spawn::Launch;

use self::keyboard::{Event, Keyboard, REPORT, Reader};
use self::relay::Relay;
use super::pair::{lower, micros};
use super::report::{self, Fact};
use super::{Row, cpus};
use crate::conform::peer;

/// Entries of the rings of QEMU, and of as many as Linux's driver uses.
const RINGS: [u16; 2] = [4, 64];
/// Edges per round, and the time from one to the next.
const EDGES: usize = 1000;
const PERIOD: Duration = Duration::from_millis(1);
/// The latency that 99 of 100 events shall not exceed.
const LIMIT: Duration = Duration::from_micros(200);
/// How long the driver stops reading.
const STOP: Duration = Duration::from_secs(1);
/// Keys that are pressed in turn, so that each edge differs from those around it.
const KEYS: std::ops::Range<u16> = 2..62;
/// Commands per round that type, and the keys that each types.
const COMMANDS: usize = 200;
const STROKES: usize = 256;
/// Commands that are not answered yet.
const IN_FLIGHT: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds of latency and of events per second
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds of 1000 key edges each, in the middle of which the driver stops reading for one second
    #[arg(long, default_value_t = 60)]
    time: u64,
    /// Use this daemon instead of building it; it takes commands at {stem}c
    #[arg(long)]
    daemon: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let launch = match &args.daemon {
        Some(line) => Launch::parse(line)?,
        None => peer::ours("input")?
            .with(devices::input::ARGS)
            .with(&["--sim-socket", "{stem}c"]),
    };
    let (own, cpus) = cpus::split(1)?;
    cpus::pin(&own)?;
    let (latency, worst) = latencies(args, &launch, &cpus)?;
    let rate = rates(args, &launch, &cpus)?;
    let lossless = edges(args, &launch, &cpus)?;
    report::print("relay", &latency);
    println!();
    report::print("a ring of 4", &[rate]);
    let within = if worst < LIMIT { "within" } else { "beyond" };
    let limit = Fact {
        title: "p99 from a command to the used ring, median of the rounds".to_owned(),
        ours: within.to_owned(),
        theirs: format!("{} us", LIMIT.as_micros()),
        reached: Some(worst < LIMIT),
    };
    report::print_facts("limit", &[limit, lossless]);
    Ok(())
}

/// From a command to the used buffer, beside the relay; and the p99 of the middle round.
fn latencies(args: &Args, launch: &Launch, cpus: &[usize]) -> Result<([Row; 2], Duration)> {
    let mut keyboard = Keyboard::start(launch, cpus, RINGS[0])?;
    let mut relay = Relay::start(cpus)?;
    let mut pairs = [Vec::new(), Vec::new()];
    let mut worst = Vec::new();
    // The first round warms up.
    for round in 0..=args.rounds {
        let mut ours = spaced(|number| stroke(&mut keyboard, number))?;
        let mut theirs = spaced(|_| {
            let begun = Instant::now();
            Ok(relay.carry("down A\n")?.duration_since(begun))
        })?;
        if round == 0 {
            continue;
        }
        for (pairs, percent) in pairs.iter_mut().zip([50, 99]) {
            pairs.push([&mut ours, &mut theirs].map(|times| micros(quantile(times, percent))));
        }
        worst.push(quantile(&mut ours, 99));
    }
    let row = |percent, pairs: &[[f64; 2]]| {
        let title = format!("p{percent} from a command to the used ring");
        lower(
            &title,
            "us",
            pairs.iter().map(|[ours, theirs]| (*ours, *theirs)).collect(),
        )
    };
    let [p50, p99] = &pairs;
    let rows = [row(50, p50), row(99, p99)];
    Ok((rows, quantile(&mut worst, 50)))
}

/// Latencies of edges that are apart, as those of people are.
fn spaced(mut edge: impl FnMut(usize) -> Result<Duration>) -> Result<Vec<Duration>> {
    let edges = 0..EDGES;
    edges
        .map(|number| {
            thread::sleep(PERIOD);
            edge(number)
        })
        .collect()
}

/// One edge of a key.
fn stroke(keyboard: &mut Keyboard, number: usize) -> Result<Duration> {
    let value = i32::from(number.is_multiple_of(2));
    let command = ["up A", "down A"][usize::from(value == 1)];
    let begun = Instant::now();
    keyboard.client.send(command)?;
    let (event, at) = keyboard.reader.first()?;
    ensure!(event == (1, 30, value), "{command} comes as {event:?}");
    ensure!(keyboard.reader.first()?.0 == REPORT, "{command} has no end");
    keyboard.client.answered()?;
    Ok(at.duration_since(begun))
}

/// Events per second as fast as they can be taken: with the longer ring, beside QEMU's.
fn rates(args: &Args, launch: &Launch, cpus: &[usize]) -> Result<Row> {
    let [mut short, mut long] = [
        Keyboard::start(launch, cpus, RINGS[0])?,
        Keyboard::start(launch, cpus, RINGS[1])?,
    ];
    let mut pairs = Vec::new();
    for round in 0..=args.rounds {
        let (short, long) = (rate(&mut short)?, rate(&mut long)?);
        if round > 0 {
            pairs.push((long, short));
        }
    }
    Ok(Row {
        title: "events per second, ring of 64".to_owned(),
        unit: "1/s",
        higher_is_better: true,
        goal: None,
        pairs,
    })
}

fn rate(keyboard: &mut Keyboard) -> Result<f64> {
    let Keyboard { reader, client, .. } = keyboard;
    let command = format!("type {}", "e".repeat(STROKES));
    // A press, a release, and the ends of both frames.
    let events = COMMANDS * STROKES * 4;
    thread::scope(|scope| {
        let typing = scope.spawn(move || -> Result<()> {
            for number in 0..COMMANDS + IN_FLIGHT {
                if number < COMMANDS {
                    client.send(&command)?;
                }
                if number >= IN_FLIGHT {
                    client.answered()?;
                }
            }
            Ok(())
        });
        let begun = Instant::now();
        let mut taken = 0;
        while taken < events {
            let some = reader.take(Instant::now() + Duration::from_secs(20))?;
            ensure!(!some.is_empty(), "{taken} of {events} events came");
            taken += some.len();
        }
        let time = begun.elapsed();
        typing.join().ok().context("the client panicked")??;
        Ok(events as f64 / time.as_secs_f64())
    })
}

/// Edge number `number` of those that are all different from their neighbours.
fn edge(number: u64) -> Event {
    let keys = u64::from(KEYS.end - KEYS.start);
    let key = KEYS.start + (number / 2 % keys) as u16;
    (1, key, i32::from(number.is_multiple_of(2)))
}

/// Edges at a steady pace, to a driver that stops reading for a second.
fn edges(args: &Args, launch: &Launch, cpus: &[usize]) -> Result<Fact> {
    let Keyboard {
        mut reader,
        mut client,
        daemon: _daemon,
    } = Keyboard::start(launch, cpus, RINGS[0])?;
    let count = args.time * 1000;
    let mut sender = client.sender()?;
    let lost = thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            let begun = Instant::now();
            for number in 0..count {
                let due = PERIOD * u32::try_from(number).context("more edges than can be counted")?;
                thread::sleep(due.saturating_sub(begun.elapsed()));
                let (kind, code, value) = edge(number);
                sender.write_all(format!("frame {kind} {code} {value}\n").as_bytes())?;
            }
            Ok(())
        });
        let answers = scope.spawn(move || (0..count).try_for_each(|_| client.answered()));
        let lost = lost(&mut reader, count)?;
        sending.join().ok().context("the sender panicked")??;
        answers.join().ok().context("the client panicked")??;
        Ok::<u64, anyhow::Error>(lost)
    })?;
    let seconds = args.time;
    Ok(Fact {
        title: format!("key edges lost of {count}, in {seconds} s of which the driver does not read 1 s"),
        ours: lost.to_string(),
        theirs: "0".to_owned(),
        reached: Some(lost == 0),
    })
}

/// How many of the edges do not come in their order.
fn lost(reader: &mut Reader, count: u64) -> Result<u64> {
    let stop = Instant::now() + Duration::from_millis(count / 2);
    let (mut next, mut lost, mut stopped) = (0, 0, false);
    while next < count {
        let events = reader.take(Instant::now() + Duration::from_secs(20))?;
        if events.is_empty() {
            return Ok(lost + count - next);
        }
        for event in events.iter().filter(|event| **event != REPORT) {
            let found = (next..count).find(|number| edge(*number) == *event);
            let number = found.with_context(|| format!("{event:?} was not pressed"))?;
            lost += number - next;
            next = number + 1;
        }
        if !stopped && Instant::now() >= stop {
            stopped = true;
            thread::sleep(STOP);
        }
    }
    Ok(lost)
}
