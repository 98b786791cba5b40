// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two daemons under the closed loop of `vu-testkit`: for devices whose requests are small messages.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use vu_testkit::chains::Request;
use vu_testkit::devices::{self, Profile};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options};
use vu_testkit::meter::{self, Sample};
use vu_testkit::process;
use vu_testkit::spawn::{Daemon, Launch};

use super::report::{Fact, Group};
use super::{Row, cpus};
use crate::conform::peer;

/// How long a guest is watched that asks for nothing.
const IDLE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; both daemons are measured in each
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Milliseconds per measurement
    #[arg(long, default_value_t = 400)]
    time: u64,
    /// Starts of each daemon for the time from exec to listening
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// Only loads whose title contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Use this daemon as ours instead of building it
    #[arg(long)]
    daemon: Option<String>,
    /// Use this daemon as the peer instead of installing it
    #[arg(long)]
    pub(super) peer: Option<String>,
}

/// How both daemons are started.
pub(super) struct Launches {
    pub(super) ours: Launch,
    pub(super) theirs: Launch,
    /// Name of the peer.
    peer: &'static str,
}

impl Args {
    /// Whether a load of this title was asked for.
    pub(super) fn wants(&self, title: &str) -> bool {
        title.contains(&self.only)
    }

    /// How long a measurement takes.
    pub(super) fn time(&self) -> Duration {
        Duration::from_millis(self.time)
    }

    pub(super) fn launches(&self, device: &str) -> Result<Launches> {
        let ours = match &self.daemon {
            Some(line) => Launch::parse(line)?,
            None => peer::ours(device)?,
        };
        let (peer, theirs) = match &self.peer {
            Some(line) => ("rust-vmm", Launch::parse(line)?),
            None => peer::other(device)?,
        };
        Ok(Launches { ours, theirs, peer })
    }
}

/// A number of requests of one kind in flight.
pub(super) struct Load {
    /// The request in a few words.
    pub(super) what: &'static str,
    /// Those that it takes in turn.
    pub(super) requests: fn() -> Vec<Request>,
    /// Requests in flight.
    pub(super) depth: usize,
    /// How many times the requests per second of the peer.
    pub(super) goal: Option<f64>,
}

impl Load {
    fn title(&self) -> String {
        format!("{}, {} in flight", self.what, self.depth)
    }
}

/// A daemon with a guest connected to it.
pub(super) struct Bench {
    pub(super) daemon: Daemon,
    pub(super) guest: Guest,
}

impl Bench {
    fn start(launch: &Launch, profile: &dyn Profile, cpus: &[usize]) -> Result<Self> {
        let daemon = cpus::spawn(launch, cpus)?;
        let front = FrontEnd::connect(&daemon.socket(), Duration::from_secs(20))?;
        let options = Options {
            size: 256,
            ..Options::default()
        };
        let guest = Guest::boot(front, profile, &options)
            .with_context(|| format!("the daemon's log:\n{}", daemon.log().tail().join("\n")))?;
        Ok(Self { daemon, guest })
    }

    /// The answer to one request.
    pub(super) fn ask(&mut self, profile: &dyn Profile, request: &Request) -> Result<Vec<u8>> {
        meter::ask(self.guest.lane(), request, profile.framing())
    }
}

/// Ours and the peer, on a CPU of their own, and the driver of both on another.
pub(super) struct Pair<'a> {
    args: &'a Args,
    pub(super) profile: Arc<dyn Profile>,
    launches: Launches,
    both: [Bench; 2],
    cpus: Vec<usize>,
}

impl<'a> Pair<'a> {
    pub(super) fn start(device: &str, launches: Launches, args: &'a Args) -> Result<Self> {
        let profile: Arc<dyn Profile> = devices::by_name(device).context("unknown device")?.into();
        let (own, cpus) = cpus::split(1)?;
        cpus::pin(&own)?;
        let both = [
            Bench::start(&launches.ours, &*profile, &cpus).context("ours")?,
            Bench::start(&launches.theirs, &*profile, &cpus).context(launches.peer)?,
        ];
        Ok(Self {
            args,
            profile,
            launches,
            both,
            cpus,
        })
    }

    /// The CPUs of the daemons.
    pub(super) fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    pub(super) fn peer(&self) -> &'static str {
        self.launches.peer
    }

    /// Does the same to both.
    pub(super) fn each<T>(&mut self, mut act: impl FnMut(&mut Bench) -> Result<T>) -> Result<(T, T)> {
        let [ours, theirs] = &mut self.both;
        Ok((
            act(ours).context("ours")?,
            act(theirs).context(self.launches.peer)?,
        ))
    }

    /// Both in turn, round by round. Each goes first in every other round; the first round warms up.
    pub(super) fn turns<T>(&mut self, mut act: impl FnMut(&mut Bench) -> Result<T>) -> Result<Vec<(T, T)>> {
        let mut pairs = Vec::new();
        for round in 0..self.args.rounds + 1 {
            let [ours, theirs] = &mut self.both;
            let (a, b) = if round % 2 == 0 {
                let a = act(ours).context("ours")?;
                (a, act(theirs).context(self.launches.peer)?)
            } else {
                let b = act(theirs).context(self.launches.peer)?;
                (act(ours).context("ours")?, b)
            };
            if round > 0 {
                pairs.push((a, b));
            }
        }
        Ok(pairs)
    }

    /// Those of the loads that were asked for.
    pub(super) fn loads(&mut self, loads: &[Load]) -> Result<Vec<Group>> {
        let only = &self.args.only;
        let wanted = loads.iter().filter(|load| load.title().contains(only));
        wanted.map(|load| self.load(load)).collect()
    }

    fn load(&mut self, load: &Load) -> Result<Group> {
        let (profile, time) = (self.profile.clone(), Duration::from_millis(self.args.time));
        let requests = (load.requests)();
        let samples = self.turns(|bench| {
            let pid = bench.daemon.pid();
            let lane = bench.guest.lane();
            meter::measure(lane, &requests, profile.framing(), pid, load.depth, time)
        })?;
        let row = |title: &str, unit, goal, value: fn(&Sample) -> f64| Row {
            title: title.to_owned(),
            unit,
            higher_is_better: unit == "1/s",
            goal,
            pairs: samples.iter().map(|(a, b)| (value(a), value(b))).collect(),
        };
        Ok(Group {
            title: load.title(),
            peer: self.launches.peer.to_owned(),
            noisy: false,
            rows: vec![
                row("requests/s", "1/s", load.goal, |sample| sample.per_second),
                row("CPU per request", "us", None, |sample| micros(sample.cpu)),
                row("p50", "us", None, |sample| micros(sample.p50)),
                row("p99", "us", None, |sample| micros(sample.p99)),
            ],
        })
    }

    pub(super) fn start_up(&self) -> Result<Row> {
        let time = |launch| -> Result<f64> { Ok(micros(cpus::spawn(launch, &self.cpus)?.start_up)) };
        let pair = |_| Ok((time(&self.launches.ours)?, time(&self.launches.theirs)?));
        let pairs = (0..self.args.starts).map(pair);
        Ok(lower(
            "time from exec to listening",
            "us",
            pairs.collect::<Result<_>>()?,
        ))
    }

    pub(super) fn memory(&mut self) -> Result<Row> {
        let kib = |bench: &mut Bench| {
            let bytes = process::resident(bench.daemon.pid())?;
            Ok(f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)))
        };
        let pair = self.each(kib)?;
        Ok(lower("memory of the daemon after the load", "KiB", vec![pair]))
    }

    /// The CPU time of the daemons while their guests ask for nothing.
    pub(super) fn idle(&mut self) -> Result<Fact> {
        // What the last request left to do is done meanwhile.
        thread::sleep(Duration::from_millis(100));
        let time = |bench: &mut Bench| Ok(process::cpu_time(bench.daemon.pid())?);
        let before = self.each(time)?;
        thread::sleep(IDLE);
        let after = self.each(time)?;
        let (ours, theirs) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        let share = |spent: Duration| format!("{:.3} %", 100.0 * spent.div_duration_f64(IDLE));
        Ok(Fact {
            title: "CPU time while idle".to_owned(),
            ours: share(ours),
            theirs: share(theirs),
            reached: Some(ours.is_zero()),
        })
    }

    pub(super) fn threads(&mut self) -> Result<(usize, usize)> {
        self.each(|bench| {
            let tasks = format!("/proc/{}/task", bench.daemon.pid());
            Ok(fs::read_dir(tasks)?.count())
        })
    }
}

/// A row of which less is better.
pub(super) fn lower(title: &str, unit: &'static str, pairs: Vec<(f64, f64)>) -> Row {
    Row {
        title: title.to_owned(),
        unit,
        higher_is_better: false,
        goal: None,
        pairs,
    }
}

pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
