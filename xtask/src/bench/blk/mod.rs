// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The block device beside qemu-storage-daemon, under the driver of the crate `virtio-driver` (`tests/bench`).
//!
//! - `load.rs` what is asked of a disk, and the ratios to reach
//! - `disk.rs` the disks, and how each daemon is told to serve one
//! - `turns.rs` daemons and driver on CPUs of their own, taking turns

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use self::disk::{Disk, Kind};
use self::load::Load;
use self::turns::{Sample, Taken, Turns};
use super::report::{self, Group};
use super::{Row, plot};
use crate::conform::peer;
use crate::util;

mod disk;
mod load;
mod turns;

/// More CPUs than this busy with other things make a measurement doubtful.
const FOREIGN: f64 = 1.3;

#[derive(clap::Args)]
pub(super) struct Args {
    /// A first impression in under a minute: the null disk and tmpfs, one queue, three rounds
    #[arg(long)]
    quick: bool,
    /// Only rows whose title has all of these words, e.g. --only tmpfs,depth=32
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds; every daemon is measured in each [default: 5, quick: 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds per measurement, beside 100 to warm up [default: 500, quick: 300]
    #[arg(long)]
    time: Option<u64>,
    /// Where to put the disk on ext4 [default: the cache folder of the lab]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write a plot for each kind of disk into this folder
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Use this program as ours instead of building it
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// The driver looks at the used ring all the time instead of waiting for interrupts
    #[arg(long)]
    poll: bool,
    /// More options for our daemon, after `--`
    #[arg(last = true)]
    options: Vec<String>,
}

impl Args {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    fn time(&self) -> u64 {
        self.time.unwrap_or(if self.quick { 300 } else { 500 })
    }

    fn kinds(&self) -> &'static [Kind] {
        if self.quick { &Kind::QUICK } else { &Kind::ALL }
    }

    fn queues(&self) -> RangeInclusive<usize> {
        1..=if self.quick { 1 } else { 2 }
    }

    /// The loads whose title has all the words that were asked for.
    fn loads(&self, kind: Kind, queues: usize) -> Vec<Load> {
        let wanted = |load: &Load| {
            let title = title(kind, load, queues);
            let mut words = self.only.iter();
            words.all(|word| title.split(' ').any(|part| part == word))
        };
        let all = if self.quick { load::quick() } else { load::all() };
        all.into_iter().filter(wanted).collect()
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let driver = peer::build("vu-bench")?;
    let ours = match &args.daemon {
        Some(program) => program.clone(),
        None => peer::build_ours("blk")?,
    };
    let folder = match &args.dir {
        Some(folder) => folder.clone(),
        None => util::cache()?,
    };
    util::step(&disk::peer_version()?);
    let (mut groups, mut failed) = (Vec::new(), 0);
    for &kind in args.kinds() {
        if let Some(reason) = kind.absent(&folder)? {
            util::skip(&format!("bench blk: {}", kind.name()), &reason)?;
            continue;
        }
        for queues in args.queues() {
            let loads = args.loads(kind, queues);
            // One that fails does not take along what the others took minutes for.
            match measure(args, (&driver, &ours), (kind, &folder), queues, &loads) {
                Ok(more) => groups.extend(more),
                Err(error) => {
                    eprintln!("error: {}, {queues} queue(s): {error:#}", kind.name());
                    failed += 1;
                }
            }
        }
    }
    report::print_groups(&groups);
    let noisy = groups.iter().filter(|group| group.noisy).count();
    if noisy > 0 {
        println!("~: others kept more than {FOREIGN} CPUs busy in some round ({noisy} rows): measure again.");
    }
    if let Some(folder) = &args.svg {
        draw(args.kinds(), &groups, folder)?;
    }
    ensure!(failed == 0, "{failed} of the disks could not be measured");
    ensure!(
        !groups.is_empty(),
        "no row to measure has all the words {:?}",
        args.only
    );
    Ok(())
}

fn measure(
    args: &Args,
    (driver, ours): (&Path, &Path),
    (kind, folder): (Kind, &Path),
    queues: usize,
    loads: &[Load],
) -> Result<Vec<Group>> {
    if loads.is_empty() {
        return Ok(Vec::new());
    }
    let disk = Disk::make(kind, folder).context("making the disk")?;
    let taken = Turns::start(args, driver, ours, &disk, queues)?.take(loads)?;
    let named = |(load, taken)| group(kind, title(kind, load, queues), load, taken);
    Ok(loads.iter().zip(&taken).map(named).collect())
}

fn title(kind: Kind, load: &Load, queues: usize) -> String {
    format!("{} {} queues={queues}", kind.name(), load.title())
}

/// The result of one load: ours against the best that the peer can do.
fn group(kind: Kind, title: String, load: &Load, taken: &Taken) -> Group {
    let (peer, theirs) = taken.best_peer();
    let pairs = |value: fn(&Sample) -> f64| -> Vec<(f64, f64)> {
        taken
            .ours
            .iter()
            .map(value)
            .zip(theirs.iter().map(value))
            .collect()
    };
    let goal = load::goal(kind, load);
    let row = |title: &str, unit, higher_is_better, goal, pairs| Row {
        title: title.to_owned(),
        unit,
        higher_is_better,
        goal,
        pairs,
    };
    Group {
        title,
        peer: peer.to_owned(),
        noisy: taken.foreign() > FOREIGN,
        rows: vec![
            row("CPU per I/O", "us", false, goal.cpu, pairs(|sample| sample.cpu)),
            row("IOPS", "k/s", true, goal.rate, pairs(|sample| sample.rate)),
            row("p50", "us", false, None, pairs(|sample| sample.p50)),
            row("p99", "us", false, None, pairs(|sample| sample.p99)),
        ],
    }
}

/// A plot for each kind of disk that was measured.
fn draw(kinds: &[Kind], groups: &[Group], folder: &Path) -> Result<()> {
    for kind in kinds {
        let of_kind = |group: &&Group| group.title.starts_with(&format!("{} ", kind.name()));
        let groups: Vec<&Group> = groups.iter().filter(of_kind).collect();
        if groups.is_empty() {
            continue;
        }
        let picture = plot::bars(
            &format!("{}: times better than qemu-storage-daemon", kind.name()),
            &groups,
        );
        let path = folder.join(format!("bench-blk-{}.svg", kind.name()));
        std::fs::write(&path, picture).with_context(|| path.display().to_string())?;
        util::step(&format!("wrote {}", path.display()));
    }
    Ok(())
}
