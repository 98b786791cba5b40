// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The conformance table: what a back end must do, case by case, and the runner for one case.
//!
//! The table stands in one place (`table.rs`). [`conformance!`](crate::conformance!) turns it into `#[test]`s for a
//! daemon of this workspace; [`CASES`] gives it to a runner that measures any back end.

use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::devices::Profile;
use crate::process;
use crate::spawn::Launch;

mod config;
mod confinement;
mod context;
mod features;
mod inflight;
mod interrupts;
mod lifecycle;
mod limits;
mod manners;
mod migration;
mod parked;
mod queues;
mod regions;
mod rings;
mod table;

use crate::evil::{chains, indirect, memory, messages, sockets, virtqueues};
pub use context::{Cx, Result, Skip};

/// Where a case comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A rule of the virtio or vhost-user specification.
    Spec,
    /// No guest or front end may end or block the daemon, make it grow, or lose another's requests.
    Robust,
    /// A promise of this workspace's daemons beyond the specifications.
    House,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Spec => "spec",
            Self::Robust => "robust",
            Self::House => "house",
        })
    }
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Case {
    /// The group: a module of this one.
    pub group: &'static str,
    /// What must hold.
    pub name: &'static str,
    /// Where the rule comes from.
    pub kind: Kind,
    run: fn(&mut Cx) -> Result<()>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.group, self.name)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}::{}", self.group, self.name))
    }
}

macro_rules! __conformance_cases {
    (() $($group:ident { $($kind:ident $case:ident;)* })*) => {
        /// The whole table.
        pub const CASES: &[Case] = &[
            $($(Case {
                group: stringify!($group),
                name: stringify!($case),
                kind: Kind::$kind,
                run: $group::$case,
            },)*)*
        ];
    };
}
table::conformance_table! { [__conformance_cases] () }

/// The back end to measure.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A daemon that is started anew for each case.
    Spawned(Launch),
    /// A back end that listens already.
    Listening(PathBuf),
}

/// How a case ended.
#[derive(Debug)]
pub enum Outcome {
    /// Everything held.
    Passed,
    /// It could not be tried, and why.
    Skipped(String),
    /// What did not hold; the log of the daemon is in it.
    Failed(String),
}

/// How to run cases.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long to wait for any one answer.
    pub deadline: Duration,
    /// How long an idle daemon is watched.
    pub idle: Duration,
}

impl Default for Settings {
    /// Generous deadlines; `VU_IDLE_SECONDS` lengthens the watch over an idle daemon.
    fn default() -> Self {
        let seconds = std::env::var("VU_IDLE_SECONDS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(3);
        Self {
            deadline: Duration::from_secs(20),
            idle: Duration::from_secs(seconds),
        }
    }
}

impl Case {
    /// Runs the case against `subject`.
    #[must_use]
    pub fn run(&self, profile: &Arc<dyn Profile>, subject: &Subject, settings: &Settings) -> Outcome {
        let mut cx = match Cx::new(profile.clone(), subject, settings.clone()) {
            Ok(cx) => cx,
            Err(error) => return Outcome::Failed(format!("{error:#}")),
        };
        let watch = MemoryWatch::start(cx.pid());
        let result = catch_unwind(AssertUnwindSafe(|| (self.run)(&mut cx)));
        let peak = watch.stop();
        let result = result.unwrap_or_else(|panic| Err(anyhow::anyhow!("panic: {}", panic_text(&*panic))));
        let result = result.and_then(|()| within(peak, profile.memory_limit()));
        match result {
            Ok(()) => Outcome::Passed,
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(Skip(reason)) => Outcome::Skipped(reason.clone()),
                None => Outcome::Failed(cx.explain(&error)),
            },
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

fn within(peak: u64, limit: u64) -> Result<()> {
    anyhow::ensure!(
        peak <= limit,
        "the daemon grew to {} KiB, its limit is {} KiB",
        peak >> 10,
        limit >> 10
    );
    Ok(())
}

/// Watches the memory of a process while a case runs.
struct MemoryWatch {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl MemoryWatch {
    fn start(pid: Option<u32>) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while let (Some(pid), false) = (pid, flag.load(std::sync::atomic::Ordering::SeqCst)) {
                peak = process::resident(pid).unwrap_or(0).max(peak);
                std::thread::park_timeout(Duration::from_millis(10));
            }
            peak
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or(0)
    }
}

/// Runs one case as a test: panics when it fails, reports when it is skipped.
///
/// # Panics
/// When the case fails or does not exist.
pub fn run_test(group: &str, name: &str, profile: impl Profile + 'static, launch: Launch) {
    let case = CASES
        .iter()
        .find(|case| case.group == group && case.name == name)
        .expect("the table holds it");
    let began = Instant::now();
    match case.run(
        &(Arc::new(profile) as Arc<dyn Profile>),
        &Subject::Spawned(launch),
        &Settings::default(),
    ) {
        Outcome::Passed => {}
        Outcome::Skipped(reason) => report_skip(&case.to_string(), &reason),
        Outcome::Failed(text) => panic!("{case} ({} rule) after {:?}: {text}", case.kind, began.elapsed()),
    }
}

/// Reports a test that could not run: a line on standard error (past the capture of the test harness) and one in the
/// file that `VU_SKIP_LOG` names.
pub fn report_skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("VU_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Turns the conformance table into tests of a daemon's real binary.
///
/// ```text
/// vu_testkit::conformance! {
///     device: vu_testkit::devices::rng(),
///     daemon: env!("CARGO_BIN_EXE_vhost-device-rng"),
///     args: ["--source", "seeded:1"],
/// }
/// ```
///
/// `args` may stand several times, or not at all.
#[macro_export]
macro_rules! conformance {
    (device: $device:expr, daemon: $daemon:expr $(, args: $args:expr)* $(,)?) => {
        fn conformance_launch() -> $crate::spawn::Launch {
            $crate::spawn::Launch::ours($daemon, &[])$(.with(&$args[..]))*
        }
        $crate::conformance_table! { [$crate::__conformance_tests] ($device) }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    (($device:expr) $($group:ident { $($kind:ident $case:ident;)* })*) => {
        $(mod $group {
            $(#[test]
            fn $case() {
                let launch = super::conformance_launch();
                $crate::conformance::run_test(stringify!($group), stringify!($case), $device, launch);
            })*
        })*
    };
}
