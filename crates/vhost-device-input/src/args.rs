// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-input`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueEnum, value_parser};
use vu_common::CommonArgs;

use crate::backend::Source;
use crate::backend::evdev::{self, Grab, Rule};
use crate::backend::sim::{self, Kind, Pace, Recording};

/// Serves keyboards, mice and touch screens to virtual machines over vhost-user.
///
/// Each socket is one device for one guest; the devices pair with the sockets in their order.
#[derive(Debug, clap::Parser)]
#[command(name = "vhost-device-input", version)]
pub struct InputArgs {
    /// The options that every device has.
    #[command(flatten)]
    pub common: CommonArgs,

    /// The devices.
    #[command(flatten)]
    pub devices: Devices,

    /// Take commands for a simulated device at a Unix socket, or from standard input if PATH is `-`
    ///
    /// The sockets go to the simulated devices in their order. Commands are lines of text as `key LEFTCTRL+C`,
    /// `type "hello"`, `move 10 5`, `touch 0 100 200`; the manual has all of them.
    #[arg(long, value_name = "PATH")]
    pub sim_socket: Vec<PathBuf>,

    /// Do not grab the devices: the host sees their events, too
    #[arg(long)]
    pub no_grab: bool,

    /// Keys that, held down together, let go of a grabbed device and take it again, as `leftctrl+rightctrl`
    #[arg(long, value_name = "KEY+KEY", conflicts_with = "no_grab", value_parser = evdev::parse_keys)]
    pub grab_hotkey: Option<evdev::Keys>,
}

impl AsRef<CommonArgs> for InputArgs {
    fn as_ref(&self) -> &CommonArgs {
        &self.common
    }
}

/// Where the events of one guest come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// A simulated device, and the file with commands for it.
    Sim(Kind, Option<PathBuf>),
    /// A device that was recorded, and the file with that.
    Replay(Replay, PathBuf),
    /// A device of the host.
    Evdev(Rule),
}

/// How a recording is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// How it is played.
    pub pace: Pace,
    /// Only when somebody asks for it.
    pub asked: bool,
    /// Which device of several, from 1 on.
    pub device: Option<usize>,
}

/// The values of `--evdev-path` and `--sim`, in the order in which they stand on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices(pub Vec<SourceName>);

const EVDEV: &str = "evdev-path";
const SIM: &str = "sim";

impl clap::Args for Devices {
    fn augment_args(command: Command) -> Command {
        let evdev = Arg::new(EVDEV)
            .long(EVDEV)
            .visible_alias("evdev")
            .value_name("DEVICE")
            .value_parser(value_parser!(Rule))
            .action(ArgAction::Append)
            .help("A device of the host: PATH, name=NAME, phys=PHYS or id=VENDOR:PRODUCT")
            .long_help(
                "A device of the host: PATH, name=NAME, phys=PHYS or id=VENDOR:PRODUCT\n\n\
                 PATH is /dev/input/event3 or a link to it, as those in /dev/input/by-id. NAME and PHYS may end with \
                 `*`; the numbers are hexadecimal. The first device that fits is taken. When it is unplugged and comes \
                 back, its guest has it again.",
            );
        let sim = Arg::new(SIM)
            .long(SIM)
            .value_name("KIND[:SCRIPT]")
            .value_parser(parse_sim)
            .action(ArgAction::Append)
            .help("A simulated device: keyboard, mouse, tablet, touch, gamepad or replay:RECORDING")
            .long_help(
                "A simulated device: keyboard, mouse, tablet, touch, gamepad or replay:RECORDING\n\n\
                 SCRIPT is a file with commands for it, which are carried out from the start on; see --sim-socket. \
                 It should begin with `wait`, which lasts until a guest's driver is there.\n\n\
                 RECORDING is a file of evemu-record or `libinput record`: it says what the device is, and what \
                 happens there once a guest's driver is there. `replay,speed=2,loop:RECORDING` has it happen twice as \
                 fast, over and over; with `asked` only the command `replay` begins it; `device=2` is the second \
                 device of several in the file.",
            );
        command.arg(evdev).arg(sim)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Devices {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut devices = Self::default();
        devices.update_from_arg_matches(matches)?;
        Ok(devices)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut found: Vec<(usize, SourceName)> = Vec::new();
        let places = |name| matches.indices_of(name).into_iter().flatten();
        let rules = matches.get_many::<Rule>(EVDEV).into_iter().flatten().cloned();
        found.extend(places(EVDEV).zip(rules.map(SourceName::Evdev)));
        let sims = matches.get_many::<SourceName>(SIM).into_iter().flatten().cloned();
        found.extend(places(SIM).zip(sims));
        found.sort_by_key(|(place, _)| *place);
        self.0 = found.into_iter().map(|(_, name)| name).collect();
        Ok(())
    }
}

fn parse_sim(text: &str) -> Result<SourceName, String> {
    let (kind, file) = match text.split_once(':') {
        Some((kind, file)) => (kind, Some(file.into())),
        None => (text, None),
    };
    let mut words = kind.split(',');
    if words.next() != Some("replay") {
        return Ok(SourceName::Sim(Kind::from_str(kind, false)?, file));
    }
    let mut replay = Replay::default();
    for word in words {
        if word == "asked" {
            replay.asked = true;
        } else if let Some(number) = word.strip_prefix("device=") {
            let number = number.parse();
            replay.device = Some(number.or(Err("a device is a number from 1 on"))?);
        } else if !replay.pace.set(word)? {
            return Err(format!(
                "{word} is not one of: speed=NUMBER, loop, asked, device=NUMBER"
            ));
        }
    }
    let file = file.ok_or("a recording is missing: replay:RECORDING")?;
    Ok(SourceName::Replay(replay, file))
}

impl InputArgs {
    /// Opens the devices, in the order of the options.
    ///
    /// # Errors
    /// What cannot be opened, with its name.
    pub fn sources(&self) -> anyhow::Result<Vec<Box<dyn Source>>> {
        let (devices, sockets) = (self.devices.0.len(), self.common.sockets());
        // Before anything is opened.
        ensure!(
            devices == sockets,
            "{devices} device(s) (--evdev-path, --sim) for {sockets} socket(s): each needs one of the other"
        );
        let mut control = self.sim_socket.iter().map(PathBuf::as_path);
        let mut sources = Vec::new();
        for name in &self.devices.0 {
            sources.push(match name {
                SourceName::Sim(kind, script) => simulated(*kind, script.as_deref(), control.next())?,
                SourceName::Replay(replay, file) => recorded(*replay, file, control.next())?,
                SourceName::Evdev(rule) => evdev::open(rule, &self.grab())?,
            });
        }
        match control.next() {
            None => Ok(sources),
            Some(path) => bail!(
                "{}: there is no simulated device for this --sim-socket",
                path.display()
            ),
        }
    }

    fn grab(&self) -> Grab {
        Grab {
            grab: !self.no_grab,
            hotkey: self.grab_hotkey.clone(),
        }
    }
}

fn simulated(kind: Kind, script: Option<&Path>, control: Option<&Path>) -> anyhow::Result<Box<dyn Source>> {
    sim::open(kind, script, control).context("a simulated device")
}

fn recorded(replay: Replay, file: &Path, control: Option<&Path>) -> anyhow::Result<Box<dyn Source>> {
    let recording = Recording::read(file, replay.device).with_context(|| file.display().to_string())?;
    let pace = (!replay.asked).then_some(replay.pace);
    sim::open_recording(recording, pace, control).context("a recorded device")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{InputArgs, Replay, SourceName};
    use crate::backend::sim::{Kind, Pace};

    fn parse(options: &[&str]) -> InputArgs {
        InputArgs::try_parse_from([&["vhost-device-input"], options].concat()).unwrap()
    }

    fn refused(options: &[&str]) -> String {
        let error = parse(options).sources().map(drop).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn the_option_table_is_consistent_and_the_help_tells_all_of_it() {
        InputArgs::command().debug_assert();
        let help = InputArgs::command().render_long_help().to_string();
        for argument in InputArgs::command().get_arguments() {
            let long = argument.get_long().unwrap();
            assert!(help.contains(&format!("--{long}")), "{long}");
            assert!(argument.get_help().is_some(), "{long}");
        }
    }

    #[test]
    fn devices_keep_the_order_of_the_command_line() {
        let args = parse(&[
            "--sim=mouse",
            "--evdev-path",
            "/dev/input/event3",
            "--sim",
            "touch:a:b",
        ]);
        assert_eq!(
            args.devices.0,
            [
                SourceName::Sim(Kind::Mouse, None),
                SourceName::Evdev("/dev/input/event3".parse().unwrap()),
                SourceName::Sim(Kind::Touch, Some("a:b".into())),
            ]
        );
    }

    #[test]
    fn a_recording_has_options() {
        let args = parse(&["--sim=replay:a:b", "--sim=replay,loop,speed=2,asked,device=3:c"]);
        let mut pace = Pace::default();
        assert_eq!((pace.set("loop"), pace.set("speed=2")), (Ok(true), Ok(true)));
        let second = Replay {
            pace,
            asked: true,
            device: Some(3),
        };
        assert_eq!(
            args.devices.0,
            [
                SourceName::Replay(Replay::default(), "a:b".into()),
                SourceName::Replay(second, "c".into()),
            ]
        );
        let error = refused(&["-s=/a", "--sim=replay:/nowhere/a"]);
        assert_eq!(error, "/nowhere/a: No such file or directory (os error 2)");
    }

    #[test]
    fn each_device_needs_a_socket_and_each_socket_a_device() {
        let both = "(--evdev-path, --sim) for";
        let one = refused(&["-s=/a", "--sim=mouse", "--sim=touch"]);
        assert_eq!(
            one,
            format!("2 device(s) {both} 1 socket(s): each needs one of the other")
        );
        let none = refused(&["-s=/a"]);
        assert_eq!(
            none,
            format!("0 device(s) {both} 1 socket(s): each needs one of the other")
        );
    }

    #[test]
    fn a_control_socket_needs_a_simulated_device() {
        let error = refused(&["-s=/a", "--sim=mouse", "--sim-socket=/nowhere/a"]);
        assert_eq!(
            error,
            "a simulated device: /nowhere/a: cannot open its folder: No such file or directory (os error 2)"
        );
        let dir = std::env::temp_dir().join(format!("vu-input-args-{}", std::process::id()));
        let first = format!("--sim-socket={}", dir.display());
        let error = refused(&["-s=/a", "--sim=mouse", &first, "--sim-socket=/nowhere/b"]);
        assert_eq!(
            error,
            "/nowhere/b: there is no simulated device for this --sim-socket"
        );
        assert!(!dir.exists(), "the socket that was bound before is gone");
    }

    #[test]
    fn wrong_values_are_refused_with_the_right_ones() {
        for (option, message) in [
            ("--sim=piano", "invalid variant: piano"),
            ("--sim=replay", "a recording is missing"),
            ("--sim=replay,fast:a", "fast is not one of: speed=NUMBER"),
            ("--sim=replay,device=x:a", "a device is a number from 1 on"),
            ("--evdev-path=id=12", "id=VENDOR:PRODUCT"),
            ("--grab-hotkey=nokey", "no key is called NOKEY"),
        ] {
            let error = InputArgs::try_parse_from(["vhost-device-input", option])
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
