// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-ctl`, and what each command does.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use crate::{client, prometheus, text};

/// Asks a vhost-device daemon what it does, and tells it what to do
///
/// The daemon has to be started with --control-socket PATH.
#[derive(Debug, clap::Parser)]
#[command(name = "vhost-device-ctl", version)]
pub(crate) struct Args {
    /// The daemon's control socket
    #[arg(short, long, value_name = "PATH")]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What the daemon is, and who is connected to it
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What it has done since it started
    Stats {
        /// As JSON
        #[arg(long, conflicts_with = "prometheus")]
        json: bool,
        /// As metrics for Prometheus, as its textfile collector reads them
        #[arg(long)]
        prometheus: bool,
    },
    /// The rates of each second, until Ctrl-C
    Watch {
        /// Seconds from one look to the next
        #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
        interval: u16,
        /// End after so many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Look at the host's side again, as the size of an image, as SIGHUP does
    Refresh,
    /// Log what is at least this grave
    LogLevel {
        #[arg(value_parser = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"]))]
        level: String,
    },
    /// End as by SIGTERM
    Quit,
    /// What the daemon can be told; what none of the above is, is passed on: as `resize size=20G`
    Commands,
    #[command(external_subcommand)]
    Own(Vec<String>),
}

/// Carries the command out.
///
/// # Errors
/// What the daemon says, or that there is none.
pub(crate) fn run(args: &Args) -> Result<()> {
    let ask = |command: &str| client::ask(&args.socket, &json!({"command": command}));
    match &args.command {
        Command::Status { json: true } => print(&pretty(&ask("status")?)),
        Command::Status { json: false } => print(&text::status(&ask("status")?)),
        Command::Stats { json: true, .. } => print(&pretty(&ask("stats")?)),
        Command::Stats { prometheus: true, .. } => {
            print(&prometheus::metrics(&ask("status")?, &ask("stats")?))
        }
        Command::Stats { .. } => print(&text::stats(&ask("stats")?)),
        Command::Watch { interval, count } => watch(&args.socket, (*interval).into(), *count),
        Command::Refresh => ask("refresh").map(drop),
        Command::LogLevel { level } => {
            let request = json!({"command": "set-log-level", "level": level});
            client::ask(&args.socket, &request).map(drop)
        }
        Command::Quit => ask("quit").map(drop),
        Command::Commands => print(&text::commands(&ask("commands")?)),
        Command::Own(words) => print(&text::answer(&client::ask(&args.socket, &own(words)?)?)),
    }
}

/// The request of a device's own command, from its name and words `key=value`. A value is a whole number, true or false if it looks
/// like that, else text.
fn own(words: &[String]) -> Result<Value> {
    let Some((name, words)) = words.split_first() else {
        bail!("no command");
    };
    let mut request = serde_json::Map::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            bail!("{word}: not of the form key=value");
        };
        let value = match serde_json::from_str(value) {
            Ok(Value::Bool(flag)) => flag.into(),
            // Not what only looks like one in the notation of physicists: 1e5 may be hexadecimal.
            Ok(Value::Number(number)) if !number.is_f64() => number.into(),
            _ => value.into(),
        };
        request.insert(key.into(), value);
    }
    request.insert("command".into(), name.as_str().into());
    Ok(request.into())
}

fn watch(socket: &Path, seconds: u64, count: Option<u64>) -> Result<()> {
    let ask = || client::ask(socket, &json!({"command": "stats"}));
    let mut before = ask()?;
    let mut turn = 0;
    while count.is_none_or(|count| turn < count) {
        std::thread::sleep(Duration::from_secs(seconds));
        let now = ask()?;
        // On a terminal the table stays where it is.
        let clear = if io::stdout().is_terminal() {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        print(&format!("{clear}{}", text::rates(&before, &now, seconds)))?;
        before = now;
        turn += 1;
    }
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

pub(crate) fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads us has enough, as `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => bail!("standard output: {error}"),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use serde_json::json;

    use super::{Args, own};

    #[test]
    fn the_option_table_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn words_become_a_request() {
        let request = |words: &[&str]| own(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(
            request(&[
                "set-line",
                "line=3",
                "value=true",
                "name=[1]",
                "text=a=b",
                "hex=1e5"
            ])
            .unwrap(),
            json!({"command": "set-line", "line": 3, "value": true, "name": "[1]", "text": "a=b", "hex": "1e5"})
        );
        let error = request(&["resize", "20G"]).unwrap_err().to_string();
        assert_eq!(error, "20G: not of the form key=value");
    }
}
