// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`CommonArgs`]: the options that every daemon has.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::{env, fs, process};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use log::LevelFilter;
use rustix::fs::Gid;
use rustix::fs::Mode as FileMode;

use crate::sandbox::{Mode, Needs};

/// What sets these options apart from a device's own in the help.
const HEADING: &str = "Options of every device";

/// The options that every daemon has; flattened into a device's own.
///
/// ```
/// #[derive(clap::Parser)]
/// struct Args {
///     #[command(flatten)]
///     common: vu_common::CommonArgs,
/// }
/// impl AsRef<vu_common::CommonArgs> for Args {
///     fn as_ref(&self) -> &vu_common::CommonArgs {
///         &self.common
///     }
/// }
/// ```
#[derive(clap::Args, Clone, Debug)]
pub struct CommonArgs {
    /// Listen on a Unix socket at PATH
    ///
    /// Give it several times to serve several guests, each on a socket of its own. The daemon goes on
    /// listening after a guest has left. A stale socket is replaced, one that is in use never.
    #[arg(short = 's', long, visible_alias = "socket", value_name = "PATH", help_heading = HEADING)]
    pub(crate) socket_path: Vec<PathBuf>,

    /// Use the inherited file descriptor N, a Unix stream socket that listens or is connected
    ///
    /// The daemon exits when the guest has left. Sockets of a service manager (LISTEN_FDS) need no option.
    #[arg(long, value_name = "N", conflicts_with = "socket_path", help_heading = HEADING)]
    pub(crate) fd: Option<RawFd>,

    /// Mode of the sockets in octal [default: 0600, with --socket-group 0660]
    #[arg(long, value_name = "MODE", value_parser = parse_mode, help_heading = HEADING)]
    socket_mode: Option<FileMode>,

    /// Group of the sockets, by name or number
    #[arg(long, value_name = "NAME|GID", value_parser = parse_group, help_heading = HEADING)]
    pub(crate) socket_group: Option<Gid>,

    /// Keep the process id in a locked file at PATH while the daemon runs
    #[arg(long, value_name = "PATH", help_heading = HEADING)]
    pub(crate) pid_file: Option<PathBuf>,

    /// Write a line to the inherited file descriptor N and close it once front ends may connect
    ///
    /// A service manager (NOTIFY_SOCKET) needs no option.
    #[arg(long, value_name = "N", help_heading = HEADING)]
    pub(crate) ready_fd: Option<RawFd>,

    /// Log to the system's log (/dev/log) instead of standard error
    #[arg(long, help_heading = HEADING)]
    pub(crate) syslog: bool,

    /// Log what is at least this grave to standard error
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level_parser(), help_heading = HEADING)]
    pub(crate) log_level: LevelFilter,

    /// Take commands at a Unix socket at PATH, for its owner only: status, stats, set-log-level, refresh, quit
    ///
    /// A request and its reply are a line of JSON each, as {"command":"status"}.
    #[arg(long, value_name = "PATH", help_heading = HEADING)]
    pub(crate) control_socket: Option<PathBuf>,

    /// How much the daemon is confined before it serves a guest
    ///
    /// `auto` takes all that can be had here: an empty root and namespaces (as root, or where users may have
    /// namespaces), no capabilities, Landlock, and a list of system calls. The log says what it was.
    #[arg(long, value_enum, value_name = "MODE", default_value_t, help_heading = HEADING)]
    pub(crate) sandbox: Mode,

    /// Print the daemon's type and features as JSON and exit, whatever the other options say
    #[arg(long, help_heading = HEADING)]
    print_capabilities: bool,
}

impl CommonArgs {
    /// The number of sockets to serve, hence of devices to open: one for each `--socket-path`, one for
    /// `--fd`, else what the service manager passes.
    pub fn sockets(&self) -> usize {
        match self.fd {
            Some(_) => 1,
            None if self.socket_path.is_empty() => activated_sockets(),
            None => self.socket_path.len(),
        }
    }

    /// The same with more `--socket-path`, for devices whose own options name sockets.
    #[must_use]
    pub fn with_sockets(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.socket_path.extend(paths);
        self
    }

    /// What these options need of the host once the daemon is confined: to remove what it made.
    pub(crate) fn needs(&self) -> Needs {
        let made = self.socket_path.iter().chain(&self.pid_file);
        made.fold(Needs::default(), Needs::removes)
    }

    /// The mode of a socket that we bind. A group that may not connect would be of no use.
    pub(crate) fn socket_mode(&self) -> FileMode {
        let default = if self.socket_group.is_some() { 0o660 } else { 0o600 };
        self.socket_mode.unwrap_or(FileMode::from_raw_mode(default))
    }
}

/// Whether `--print-capabilities` is among the arguments. A manager may ask without what else is required.
pub(crate) fn print_capabilities_asked() -> bool {
    env::args_os().skip(1).any(|arg| arg == "--print-capabilities")
}

/// The number of sockets that the service manager passes to this very process; see sd_listen_fds(3).
fn activated_sockets() -> usize {
    let number = |name| env::var(name).ok();
    activated(
        number("LISTEN_PID").as_deref(),
        number("LISTEN_FDS").as_deref(),
        process::id(),
    )
}

fn activated(pid: Option<&str>, fds: Option<&str>, our_pid: u32) -> usize {
    let for_us = pid.and_then(|pid| pid.parse().ok()) == Some(our_pid);
    fds.filter(|_| for_us)
        .and_then(|fds| fds.parse().ok())
        .unwrap_or(0)
}

/// Reads the largest size of a virtqueue, for an option such as `--queue-size`.
///
/// # Errors
/// It is no power of two, or out of bounds.
pub fn queue_size(text: &str) -> Result<u16, String> {
    let size: u16 = text.parse().map_err(|e| format!("{e}"))?;
    if size.is_power_of_two() && (4..=32768).contains(&size) {
        Ok(size)
    } else {
        Err("a power of two from 4 to 32768 is needed".into())
    }
}

fn parse_mode(text: &str) -> Result<FileMode, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(FileMode::from_raw_mode(mode)),
        _ => Err("an octal number from 0 to 0777 is needed".into()),
    }
}

fn level_parser() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"])
        .try_map(|name| name.parse::<LevelFilter>())
}

/// A group by number, or by its name in `/etc/group`: asking other name services would load their code.
fn parse_group(text: &str) -> Result<Gid, String> {
    if let Ok(number) = text.parse() {
        return gid(number);
    }
    let groups = fs::read_to_string("/etc/group").map_err(|error| format!("/etc/group: {error}"))?;
    let number = find_group(&groups, text)
        .ok_or("no such group in /etc/group (a group from elsewhere can be given by its number)")?;
    gid(number)
}

/// The number of the group `name` in `groups`, lines of `name:password:number:members`.
fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

/// All ones means "leave it as it is" to chown(2).
fn gid(number: u32) -> Result<Gid, String> {
    if number == u32::MAX {
        Err("not a group number".into())
    } else {
        Ok(Gid::from_raw(number))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::{CommandFactory, Parser};
    use log::LevelFilter;

    use super::{CommonArgs, activated, find_group, queue_size};

    #[derive(Parser, Debug)]
    #[command(name = "daemon", about = "What the daemon is")]
    struct Args {
        #[command(flatten)]
        common: CommonArgs,
        /// An option of the device
        #[arg(long)]
        own: bool,
    }

    fn parse(args: &[&str]) -> CommonArgs {
        Args::try_parse_from([&["daemon"], args].concat()).unwrap().common
    }

    fn error(args: &[&str]) -> String {
        Args::try_parse_from([&["daemon"], args].concat())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn nothing_is_required() {
        let args = parse(&[]);
        assert_eq!(args.sockets(), 0);
        assert_eq!(args.log_level, LevelFilter::Info);
        assert_eq!(args.socket_mode().as_raw_mode(), 0o600);
    }

    #[test]
    fn each_spelling_of_the_socket_path_adds_one_verbatim() {
        let args = parse(&["--socket-path", "a.sock", "--socket=/b//c", "-s", "@d"]);
        assert_eq!(args.socket_path, ["a.sock", "/b//c", "@d"].map(Path::new));
        assert_eq!(args.sockets(), 3);
    }

    #[test]
    fn a_descriptor_is_one_socket_and_excludes_a_path() {
        assert_eq!(parse(&["--fd=3"]).sockets(), 1);
        assert!(error(&["--fd", "3", "-s", "a"]).contains("cannot be used with"));
    }

    #[test]
    fn mode_is_octal_and_follows_the_group() {
        assert_eq!(
            parse(&["--socket-mode", "0666"]).socket_mode().as_raw_mode(),
            0o666
        );
        assert_eq!(parse(&["--socket-group", "0"]).socket_mode().as_raw_mode(), 0o660);
        assert_eq!(
            parse(&["--socket-group=0", "--socket-mode=600"])
                .socket_mode()
                .as_raw_mode(),
            0o600
        );
        for bad in ["0888", "1777", "rw", "-1"] {
            assert!(error(&["--socket-mode", bad]).starts_with("error: "), "{bad}");
        }
    }

    #[test]
    fn group_is_a_number_or_a_name_of_this_machine() {
        assert_eq!(
            parse(&["--socket-group", "1234"]).socket_group.unwrap().as_raw(),
            1234
        );
        assert_eq!(
            parse(&["--socket-group", "root"]).socket_group.unwrap().as_raw(),
            0
        );
        assert!(error(&["--socket-group", "no such group"]).contains("no such group in /etc/group"));
        assert!(error(&["--socket-group", "4294967295"]).contains("not a group number"));
    }

    #[test]
    fn group_file_is_searched_by_whole_names() {
        let groups = "root:x:0:\nkvm:x:106:a,b\n\nodd\nodd:x:y:\nkvm2:x:7:\n";
        assert_eq!(find_group(groups, "kvm"), Some(106));
        assert_eq!(find_group(groups, "kvm2"), Some(7));
        for absent in ["kv", "odd", "a,b", "x"] {
            assert_eq!(find_group(groups, absent), None, "{absent}");
        }
    }

    #[test]
    fn the_size_of_a_virtqueue_is_a_power_of_two() {
        assert_eq!(queue_size("1024"), Ok(1024));
        assert!(
            ["1000", "65536", "2", "x"]
                .iter()
                .all(|text| queue_size(text).is_err())
        );
    }

    #[test]
    fn levels_are_five() {
        assert_eq!(parse(&["--log-level", "trace"]).log_level, LevelFilter::Trace);
        assert!(
            error(&["--log-level", "off"]).contains("[possible values: error, warn, info, debug, trace]")
        );
    }

    #[test]
    fn activation_counts_only_for_the_process_it_names() {
        assert_eq!(activated(Some("42"), Some("2"), 42), 2);
        for (pid, fds) in [
            (Some("41"), Some("2")),
            (None, Some("2")),
            (Some("42"), None),
            (Some("42"), Some("-1")),
        ] {
            assert_eq!(activated(pid, fds, 42), 0, "{pid:?} {fds:?}");
        }
    }

    #[test]
    fn help_keeps_the_device_apart() {
        Args::command().debug_assert();
        let help = Args::command().render_help().to_string();
        let (own, common) = help.split_once("Options of every device:").unwrap();
        assert!(own.starts_with("What the daemon is\n"), "{help}");
        assert!(own.contains("--own") && own.contains("--help"), "{help}");
        assert!(
            common.contains("--socket-path <PATH>") && common.contains("--log-level <LEVEL>"),
            "{help}"
        );
    }
}
