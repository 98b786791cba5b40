// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far the daemon is confined where the machine lets it do less and less. What the confinement is worth is in the
//! conformance table.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vu_testkit::conformance::report_skip;
use vu_testkit::devices::rng;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options};
use vu_testkit::spawn::{Process, TempDir, wait_listening};

/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// A user who owns nothing.
const NOBODY: u32 = 65534;

/// A daemon in a folder that anybody may use, begun by `wrapper`.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let program = folder.path().join("daemon");
        fs::copy(env!("CARGO_BIN_EXE_vhost-device-rng"), program).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self { folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn start(&self, wrapper: &[&str], args: &[&str]) -> Process {
        let program = self.folder.path().join("daemon");
        let mut words = wrapper.iter().map(AsRef::<Path>::as_ref).chain([&*program]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .arg("--socket-path")
            .arg(self.socket())
            .args(args);
        Process::start(&mut command).unwrap()
    }

    /// Serves a guest, ends the daemon, and gives what the log says of the sandbox.
    fn report(&self, wrapper: &[&str], args: &[&str]) -> String {
        let mut daemon = self.start(wrapper, args);
        wait_listening(&mut daemon, &self.socket()).unwrap();
        {
            let front = FrontEnd::connect(&self.socket(), DEADLINE).unwrap();
            let options = Options {
                deadline: DEADLINE,
                ..Options::default()
            };
            let mut guest = Guest::boot(front, &rng(), &options).unwrap();
            guest.lane().round_trip(&rng(), 64).unwrap();
        }
        daemon.terminate();
        assert_eq!(daemon.wait(DEADLINE).unwrap().code(), Some(0));
        assert!(!self.socket().exists(), "the socket is left behind");
        line(&daemon)
    }
}

fn line(daemon: &Process) -> String {
    let log = daemon.log().tail();
    let line = log.iter().find_map(|line| Some(line.split_once("sandbox: ")?.1));
    line.unwrap_or_else(|| panic!("no report: {log:?}")).to_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A namespace in which there can be no others, as in a container whose manager forbids it.
const CONTAINER: [&str; 6] = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all \"$0\" \"$@\"",
];

#[test]
fn whoever_starts_it_gets_every_layer() {
    let report = Place::new().report(&[], &[]);
    let namespaces = if is_root() {
        "namespaces "
    } else {
        "namespaces(by user) "
    };
    for layer in [
        "no-new-privs",
        namespaces,
        "root=empty",
        "caps=none",
        "landlock=",
        "seccomp=",
    ] {
        assert!(report.contains(layer), "{layer} is not in {report}");
    }
    assert!(!report.contains("without"), "{report}");
}

#[test]
fn a_user_without_rights_gets_them_by_a_user_namespace() {
    if !is_root() {
        return report_skip(
            "a_user_without_rights_gets_them_by_a_user_namespace",
            "needs root",
        );
    }
    let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    let report = Place::new().report(
        &["setpriv", &user, &group, "--clear-groups"],
        &["--sandbox=strict"],
    );
    assert!(
        report.contains("namespaces(by user) root=empty caps=none"),
        "{report}"
    );
}

#[test]
fn where_namespaces_are_forbidden_the_other_layers_stand() {
    let report = Place::new().report(&CONTAINER, &[]);
    let (present, missing) = report.split_once("; without ").unwrap();
    for layer in ["no-new-privs", "caps=none", "landlock=", "seccomp="] {
        assert!(present.contains(layer), "{layer} is not in {report}");
    }
    assert!(missing.starts_with("namespaces (cannot "), "{report}");
}

#[test]
fn a_demand_that_cannot_be_met_ends_the_daemon() {
    for mode in ["strict", "namespace"] {
        let place = Place::new();
        let mut daemon = place.start(&CONTAINER, &["--sandbox", mode]);
        assert_eq!(daemon.wait(DEADLINE).unwrap().code(), Some(1), "{mode}");
        let log = daemon.log().tail();
        let last = log.last().unwrap();
        assert!(last.starts_with("error: sandbox: "), "{last}");
        assert!(!place.socket().exists(), "{mode}");
    }
}

#[test]
fn none_is_said_aloud() {
    let report = Place::new().report(&[], &["--sandbox=none"]);
    assert!(report.starts_with("none, as asked"), "{report}");
}

#[test]
fn a_path_is_removed_that_was_relative_to_a_folder_out_of_reach() {
    let place = Place::new();
    let program = place.folder.path().join("daemon");
    let mut command = Command::new(program);
    command.current_dir(place.folder.path());
    command.args(["--socket-path", "socket", "--pid-file", "pid"]);
    let mut daemon = Process::start(&mut command).unwrap();
    let end = Instant::now() + DEADLINE;
    while !place.socket().exists() && Instant::now() < end {
        std::thread::yield_now();
    }
    assert!(place.folder.path().join("pid").exists());
    // Whoever is answered is answered by a daemon that is confined.
    let front = FrontEnd::connect(&place.socket(), DEADLINE).unwrap();
    front.get_features().unwrap();
    daemon.terminate();
    assert_eq!(daemon.wait(DEADLINE).unwrap().code(), Some(0));
    for file in ["socket", "pid"] {
        assert!(!place.folder.path().join(file).exists(), "{file} is left behind");
    }
}
