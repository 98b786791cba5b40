// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Daemons and driver on CPUs of their own; in each round every daemon has its turn at every load.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vu_testkit::spawn::Daemon;

use super::disk::Disk;
use super::{Args, Load};
use crate::bench::cpus;
use crate::bench::report::median;
use crate::util;

/// One measurement; times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Thousands of requests per second.
    pub(super) rate: f64,
    /// CPU time of the daemon per request.
    pub(super) cpu: f64,
    /// Latency of the median request.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// CPUs kept busy by others.
    foreign: f64,
}

impl Sample {
    fn parse(json: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(json).with_context(|| format!("result of the driver: {json}"))?;
        let number = |key: &str| {
            value[key]
                .as_f64()
                .with_context(|| format!("no `{key}` in {json}"))
        };
        Ok(Self {
            rate: number("per_second")? / 1e3,
            cpu: number("cpu")? / 1e3,
            p50: number("p50")? / 1e3,
            p99: number("p99")? / 1e3,
            foreign: number("foreign")?,
        })
    }
}

/// The samples of one load, one per round: ours, and those of the peer by the way it was set up.
pub(super) struct Taken {
    pub(super) ours: Vec<Sample>,
    pub(super) peers: Vec<(&'static str, Vec<Sample>)>,
}

impl Taken {
    /// The way in which the peer was fastest.
    pub(super) fn best_peer(&self) -> (&'static str, &[Sample]) {
        let rate =
            |samples: &[Sample]| median(&mut samples.iter().map(|sample| sample.rate).collect::<Vec<_>>());
        let best = self.peers.iter().max_by(|a, b| rate(&a.1).total_cmp(&rate(&b.1)));
        best.map_or(("none", &[]), |(name, samples)| (*name, samples.as_slice()))
    }

    /// The most CPUs that others kept busy in any round.
    pub(super) fn foreign(&self) -> f64 {
        let theirs = self.peers.iter().flat_map(|(_, samples)| samples);
        self.ours
            .iter()
            .chain(theirs)
            .map(|sample| sample.foreign)
            .fold(0.0, f64::max)
    }
}

/// The daemons on one disk, ours first, and how to load them.
pub(super) struct Turns<'a> {
    args: &'a Args,
    driver: &'a Path,
    queues: usize,
    cpus: Vec<usize>,
    daemons: Vec<(&'static str, Daemon)>,
    what: String,
}

impl<'a> Turns<'a> {
    pub(super) fn start(
        args: &'a Args,
        driver: &'a Path,
        ours: &Path,
        disk: &Disk,
        queues: usize,
    ) -> Result<Self> {
        let (cpus, theirs) = cpus::split(queues)?;
        ensure!(cpus != theirs, "driver and daemon need a CPU each");
        let mut daemons = vec![(
            "ours",
            cpus::spawn(&disk.ours(ours, queues, &args.options), &theirs)?,
        )];
        for (name, launch) in disk.peers(queues)? {
            daemons.push((name, cpus::spawn(&launch, &theirs)?));
        }
        let what = format!(
            "{}, {queues} queue(s); driver on CPU {cpus:?}, daemons on {theirs:?}",
            disk.name()
        );
        Ok(Self {
            args,
            driver,
            queues,
            cpus,
            daemons,
            what,
        })
    }

    /// Rounds are outermost, so that a change of the machine's mood meets all of them alike; who begins changes.
    pub(super) fn take(&self, loads: &[Load]) -> Result<Vec<Taken>> {
        let count = self.daemons.len();
        let mut samples = vec![vec![Vec::new(); count]; loads.len()];
        for round in 0..self.args.rounds() {
            util::step(&format!("round {}: {}", round + 1, self.what));
            for (load, samples) in loads.iter().zip(&mut samples) {
                for turn in 0..count {
                    let index = (round + turn) % count;
                    let (name, daemon) = &self.daemons[index];
                    let sample = self.measure(daemon, load);
                    samples[index].push(sample.with_context(|| format!("{name}: {}", load.title()))?);
                }
            }
        }
        let taken = |samples: Vec<Vec<Sample>>| {
            let mut samples = samples.into_iter();
            let ours = samples.next().unwrap_or_default();
            let names = self.daemons.iter().skip(1).map(|(name, _)| *name);
            Taken {
                ours,
                peers: names.zip(samples).collect(),
            }
        };
        Ok(samples.into_iter().map(taken).collect())
    }

    fn measure(&self, daemon: &Daemon, load: &Load) -> Result<Sample> {
        let mut command = Command::new(self.driver);
        command.arg("--socket").arg(daemon.socket()).stdin(Stdio::null());
        let cpus: Vec<String> = self.cpus.iter().map(ToString::to_string).collect();
        let numbers = [
            ("--pid", daemon.pid().to_string()),
            ("--size", load.size.to_string()),
            ("--depth", load.depth.to_string()),
            ("--queues", self.queues.to_string()),
            ("--time", self.args.time().to_string()),
            ("--cpus", cpus.join(",")),
        ];
        for (name, value) in numbers {
            command.args([name, &value]);
        }
        let switches = [
            ("--write", load.write),
            ("--sequential", load.sequential),
            ("--poll", self.args.poll),
        ];
        command.args(switches.iter().filter(|(_, on)| *on).map(|(name, _)| name));
        let log = || daemon.log().tail().join("\n");
        Sample::parse(&util::capture(&mut command).with_context(log)?)
    }
}
