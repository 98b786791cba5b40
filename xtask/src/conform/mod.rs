// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask conform`: runs the conformance table of vu-testkit against any back end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vu_testkit::conformance::{CASES, Case, Outcome, Settings, Subject};
use vu_testkit::devices::{self, Profile};
use vu_testkit::spawn::Launch;

mod markdown;
pub(crate) mod peer;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which device the back end is
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(devices::NAMES))]
    device: String,
    /// A back end that listens already; without --socket, --daemon and --compare our own daemon is built and tested
    #[arg(long, conflicts_with_all = ["daemon", "compare"])]
    socket: Option<PathBuf>,
    /// Command that starts a daemon, once per case; {socket} is the path to listen on, {stem} the path without the
    /// final 0 that some daemons append themselves, {storage} the file behind the device
    #[arg(long, conflicts_with = "compare")]
    daemon: Option<String>,
    /// Test our daemon and a peer (qemu-storage-daemon for blk, else the one of rust-vmm), and print both results
    #[arg(long)]
    compare: bool,
    /// Only cases whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Print the results as a Markdown table
    #[arg(long)]
    markdown: bool,
    /// Print the names of the cases and end
    #[arg(long)]
    list: bool,
    /// Cases at a time (1 with --socket)
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Seconds to wait for any one answer
    #[arg(long, default_value_t = 10)]
    deadline: u64,
    /// Seconds for which an idle daemon is watched
    #[arg(long, default_value_t = 3)]
    idle: u64,
}

/// The results of one back end, in the order of the table.
pub(crate) type Results = BTreeMap<usize, Outcome>;

/// One table run against one back end.
struct Run<'a> {
    title: &'a str,
    subject: Subject,
    jobs: usize,
}

#[allow(clippy::needless_pass_by_value, reason = "every task owns its arguments")]
pub(crate) fn run(args: Args) -> Result<()> {
    let cases = selected(&args)?;
    if args.list {
        for case in &cases {
            println!("{:6} {case}", case.kind);
        }
        return Ok(());
    }
    let mut columns = Vec::new();
    for one in runs(&args)? {
        let results = run_table(&one, &cases, &args)?;
        columns.push((one.title.to_owned(), results));
    }
    if args.markdown || args.compare {
        print!("{}", markdown::table(&cases, &columns));
    }
    let failed = columns[0]
        .1
        .values()
        .filter(|outcome| matches!(outcome, Outcome::Failed(_)))
        .count();
    ensure!(
        failed == 0,
        "{failed} of {} cases failed on {}",
        cases.len(),
        columns[0].0
    );
    Ok(())
}

fn selected(args: &Args) -> Result<Vec<&'static Case>> {
    let filter = args.filter.as_deref().unwrap_or("");
    let cases: Vec<_> = CASES
        .iter()
        .filter(|case| case.to_string().contains(filter))
        .collect();
    if cases.is_empty() {
        bail!("no case has {filter:?} in its name (--list shows them)");
    }
    Ok(cases)
}

fn runs(args: &Args) -> Result<Vec<Run<'static>>> {
    if let Some(path) = &args.socket {
        return Ok(vec![Run {
            title: "back end",
            subject: Subject::Listening(path.clone()),
            jobs: 1,
        }]);
    }
    let spawned = |title, launch| Run {
        title,
        subject: Subject::Spawned(launch),
        jobs: args.jobs,
    };
    if let Some(line) = &args.daemon {
        return Ok(vec![spawned("daemon", Launch::parse(line)?)]);
    }
    let mut runs = vec![spawned("ours", peer::ours(&args.device)?)];
    if args.compare {
        let (title, launch) = peer::other(&args.device)?;
        runs.push(spawned(title, launch));
    }
    Ok(runs)
}

fn run_table(run: &Run<'_>, cases: &[&'static Case], args: &Args) -> Result<Results> {
    // One profile per case: cases run at once, and a profile may bring storage along.
    let profile = || -> Option<Arc<dyn Profile>> { Some(devices::by_name(&args.device)?.into()) };
    profile().context("unknown device")?;
    let settings = Settings {
        deadline: Duration::from_secs(args.deadline),
        idle: Duration::from_secs(args.idle),
    };
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Results::new());
    let began = Instant::now();
    // Cases panic on purpose when the kit itself finds a contradiction; the outcome carries the text.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..run.jobs.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let profile = profile().expect("it is known");
                    let outcome = case.run(&profile, &run.subject, &settings);
                    print_outcome(run.title, case, &outcome);
                    let position = cases
                        .iter()
                        .position(|other| std::ptr::eq(*other, *case))
                        .unwrap_or(0);
                    results
                        .lock()
                        .expect("no thread panics with the lock")
                        .insert(position, outcome);
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let results = results.into_inner().expect("no thread panics with the lock");
    let count = |wanted: fn(&Outcome) -> bool| results.values().filter(|outcome| wanted(outcome)).count();
    eprintln!(
        "{}: {} passed, {} failed, {} skipped in {:.0} s",
        run.title,
        count(|outcome| matches!(outcome, Outcome::Passed)),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        began.elapsed().as_secs_f32(),
    );
    Ok(results)
}

fn print_outcome(title: &str, case: &Case, outcome: &Outcome) {
    match outcome {
        Outcome::Passed => eprintln!("{title}: pass {case}"),
        Outcome::Skipped(reason) => eprintln!("{title}: SKIP {case}: {reason}"),
        Outcome::Failed(text) => eprintln!("{title}: FAIL {case} ({} rule): {text}", case.kind),
    }
}
