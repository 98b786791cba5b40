// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two daemons under the closed loop of `vu-testkit`: for devices whose requests are small messages.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use vu_testkit::devices::{self, Profile};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options};
use vu_testkit::meter::{self, Sample};
use vu_testkit::process;
use vu_testkit::spawn::{Daemon, Launch};

use super::{Row, report};
use crate::conform::peer;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; both daemons are measured in each
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Milliseconds per measurement
    #[arg(long, default_value_t = 400)]
    time: u64,
    /// Requests in flight where throughput is measured
    #[arg(long, default_value_t = 64)]
    depth: usize,
    /// Starts of each daemon for the time from exec to listening
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// Use this daemon as ours instead of building it
    #[arg(long)]
    daemon: Option<String>,
}

/// One row of a benchmark: requests of a size with a number of them in flight.
pub(super) struct Load {
    /// Bytes per request.
    pub(super) size: usize,
    /// Requests in flight; `None` stands for `--depth`.
    pub(super) depth: Option<usize>,
}

/// A daemon with a guest connected to it.
struct Bench {
    daemon: Daemon,
    guest: Guest,
}

impl Bench {
    fn start(launch: &Launch, profile: &dyn Profile) -> Result<Self> {
        let daemon = Daemon::spawn(launch)?;
        let front = FrontEnd::connect(&daemon.socket(), Duration::from_secs(20))?;
        let guest = Guest::boot(
            front,
            profile,
            &Options {
                size: 256,
                ..Options::default()
            },
        )?;
        Ok(Self { daemon, guest })
    }

    fn measure(&mut self, profile: &dyn Profile, load: &Load, args: &Args) -> Result<Sample> {
        let depth = load.depth.unwrap_or(args.depth);
        let time = Duration::from_millis(args.time);
        meter::measure(
            self.guest.lane(),
            profile,
            self.daemon.pid(),
            load.size,
            depth,
            time,
        )
    }
}

pub(super) fn run(device: &str, loads: &[Load], args: &Args) -> Result<()> {
    let profile: Arc<dyn Profile> = devices::by_name(device).context("unknown device")?.into();
    let ours = match &args.daemon {
        Some(line) => Launch::parse(line)?,
        None => peer::ours(device)?,
    };
    let (name, theirs) = peer::other(device)?;
    let mut rows = start_up(&ours, &theirs, args.starts)?;
    let mut pair = [Bench::start(&ours, &*profile)?, Bench::start(&theirs, &*profile)?];
    for load in loads {
        rows.extend(measure(&mut pair, &*profile, load, args)?);
    }
    let [ours, theirs] = &pair;
    let kib = |bench: &Bench| -> Result<f64> {
        let bytes = process::resident(bench.daemon.pid())?;
        Ok(f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)))
    };
    rows.push(Row {
        title: "memory of the daemon after the load".into(),
        unit: "KiB",
        higher_is_better: false,
        goal: None,
        pairs: vec![(kib(ours)?, kib(theirs)?)],
    });
    report::print(name, &rows);
    Ok(())
}

fn measure(pair: &mut [Bench; 2], profile: &dyn Profile, load: &Load, args: &Args) -> Result<Vec<Row>> {
    let depth = load.depth.unwrap_or(args.depth);
    let what = format!("{} B, {depth} in flight", load.size);
    let (mut rate, mut cpu, mut latency) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds + 1 {
        let [ours, theirs] = pair;
        // Each goes first in every other round; the first round warms up.
        let (a, b) = if round % 2 == 0 {
            let a = ours.measure(profile, load, args)?;
            (a, theirs.measure(profile, load, args)?)
        } else {
            let b = theirs.measure(profile, load, args)?;
            (ours.measure(profile, load, args)?, b)
        };
        if round > 0 {
            rate.push((a.per_second, b.per_second));
            cpu.push((a.cpu.as_secs_f64() * 1e6, b.cpu.as_secs_f64() * 1e6));
            latency.push((a.latency.as_secs_f64() * 1e6, b.latency.as_secs_f64() * 1e6));
        }
    }
    let row = |title: String, unit, higher_is_better, pairs| Row {
        title,
        unit,
        higher_is_better,
        goal: None,
        pairs,
    };
    let mut rows = vec![row(format!("requests/s, {what}"), "1/s", true, rate)];
    if depth == 1 {
        rows = vec![row(format!("latency, {what}"), "us", false, latency)];
    }
    rows.push(row(format!("CPU time per request, {what}"), "us", false, cpu));
    Ok(rows)
}

fn start_up(ours: &Launch, theirs: &Launch, starts: usize) -> Result<Vec<Row>> {
    let mut pairs = Vec::new();
    for _ in 0..starts {
        let time = |launch| -> Result<f64> { Ok(Daemon::spawn(launch)?.start_up.as_secs_f64() * 1e6) };
        pairs.push((time(ours)?, time(theirs)?));
    }
    Ok(vec![Row {
        title: "time from exec to listening".into(),
        unit: "us",
        higher_is_better: false,
        goal: None,
        pairs,
    }])
}
