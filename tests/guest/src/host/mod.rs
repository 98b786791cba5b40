// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The task `host`: this machine plays the host of a further guest.
//!
//! `plan=PATH` names a JSON file that lies on the shared root file system: `{"steps": [{"NAME": ARGUMENTS}, ...]}`.
//! The steps are played in order, the first that fails ends the play, and what steps have found is in the task's
//! result as the list `found`. Nothing is waited for longer than [`LIMIT`] unless the step says so.
//!
//! | step | arguments | what it does |
//! |---|---|---|
//! | `chip` | `{"name", "lines", "names": {"3": "led"}, "hogs": {"5": "fan"}}` | makes a gpio chip of the label `name`; its lines are `/run/NAME/sim_gpioN` |
//! | `unplug` | `"NAME"` | takes that chip away |
//! | `insert` | `["PATH", "PARAMETERS"]` | loads a kernel module |
//! | `remove` | `"NAME"` | takes a kernel module out |
//! | `write` | `["PATH", "TEXT"]` | writes to a file, such as an attribute of a device |
//! | `expect` | `["PATH", "TEXT"]` | waits until that is all in the file, but for space around it |
//! | `contains`, `lacks` | `["PATH", "TEXT"]` | waits until the file has the text in it, or has it no more |
//! | `script` | `"TEXT"` | runs a shell script, and finds what it printed |
//! | `toggle` | see [`toggle`] | writes two values in turn, fast |
//! | `daemon` | `{"argv", "env", "socket"}` | starts a daemon and waits for its socket |
//! | `says` | `"TEXT"` | waits until a daemon has logged that |
//! | `idle` | | checks that the daemons are there and do nothing |
//! | `guest` | `{"argv", "env"}` | starts the guest |
//! | `event` | `"NAME"` | waits for an event of the guest, and finds it |
//! | `say` | `"LINE"` | writes to the guest's console, which has it run a task |
//! | `result`, `failure` | `"TASK"` | waits for the result of a task, and finds it |
//! | `end` | `SECONDS` | waits for the end of the guest |
//! | `kill` | | kills the guest |
//!
//! At the end the daemons get SIGTERM and must go with exit code 0. Their log and the guest's console are copied to
//! our console all the time.

mod daemon;
mod files;
mod gpio_sim;
mod inner;
mod output;
mod script;
mod toggle;

use crate::modules;
use crate::task::Options;
use anyhow::{Context, bail};
use daemon::Daemon;
use inner::Inner;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// What has been started so far.
#[derive(Default)]
struct Play {
    daemons: Vec<Daemon>,
    guest: Option<Inner>,
}

/// Plays one kind of step; gives what it has found, or null.
type Step = fn(&mut Play, &Value) -> anyhow::Result<Value>;

const STEPS: &[(&str, Step)] = &[
    ("chip", |_, chip| gpio_sim::make(chip)),
    ("unplug", |_, name| gpio_sim::unplug(name)),
    ("insert", |_, module| {
        let (path, parameters) = files::pair(module)?;
        modules::insert(path.as_ref(), parameters).with_context(|| path.to_owned())?;
        Ok(Value::Null)
    }),
    ("remove", |_, name| {
        modules::remove(string(name)?)?;
        Ok(Value::Null)
    }),
    ("write", |_, pair| files::write(pair)),
    ("expect", |_, pair| files::expect(pair)),
    ("contains", |_, pair| files::contains(pair)),
    ("lacks", |_, pair| files::lacks(pair)),
    ("script", |_, text| Ok(script::run(string(text)?)?.into())),
    ("toggle", |_, what| toggle::run(what)),
    ("daemon", |play, program| {
        play.daemons.push(Daemon::start(program)?);
        Ok(Value::Null)
    }),
    ("says", |play, text| daemon::says(&play.daemons, string(text)?)),
    ("idle", |play, _| daemon::idle(&mut play.daemons)),
    ("guest", |play, program| {
        play.guest = Some(Inner::start(program)?);
        Ok(Value::Null)
    }),
    ("event", |play, name| play.guest()?.event(string(name)?)),
    ("say", |play, line| play.guest()?.say(string(line)?)),
    ("result", |play, task| play.guest()?.result(string(task)?, true)),
    ("failure", |play, task| play.guest()?.result(string(task)?, false)),
    ("end", |play, seconds| play.take_guest()?.end(seconds)),
    ("kill", |play, _| play.take_guest()?.kill()),
];

/// Plays the plan.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    let path: String = options.get("plan", String::new())?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("plan={path}"))?;
    let plan: Value = serde_json::from_str(&text).with_context(|| path.clone())?;
    let mut play = Play::default();
    let mut found = Vec::new();
    for (number, step) in plan["steps"].as_array().into_iter().flatten().enumerate() {
        let result = play
            .step(step)
            .with_context(|| format!("step {number}, {step}"))?;
        found.extend(Some(result).filter(|result| !result.is_null()));
    }
    play.daemons.into_iter().try_for_each(Daemon::stop)?;
    Ok(json!({ "found": found }))
}

impl Play {
    fn step(&mut self, step: &Value) -> anyhow::Result<Value> {
        let (name, arguments) = step
            .as_object()
            .and_then(|step| step.iter().next())
            .context("no step")?;
        match STEPS.iter().find(|(known, _)| known == name) {
            Some((_, play)) => play(self, arguments),
            None => bail!("no such step"),
        }
    }

    fn guest(&mut self) -> anyhow::Result<&mut Inner> {
        self.guest.as_mut().context("there is no guest")
    }

    fn take_guest(&mut self) -> anyhow::Result<Inner> {
        self.guest.take().context("there is no guest")
    }
}

fn string(value: &Value) -> anyhow::Result<&str> {
    value.as_str().context("not a string")
}

/// `{"argv": [...], "env": {...}}` as a command.
fn command(program: &Value) -> anyhow::Result<Command> {
    let mut argv = program["argv"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let mut command = Command::new(argv.next().context("a program without argv")?);
    command.args(argv);
    for (key, value) in program["env"].as_object().into_iter().flatten() {
        command.env(key, value.as_str().unwrap_or_default());
    }
    Ok(command)
}
