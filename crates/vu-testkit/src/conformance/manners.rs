// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A daemon's manners towards those who start it (vhost-user, "Backend program conventions", and the house's own).

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::context::{Cx, Result};
use crate::control;
use crate::frontend::FrontEnd;
use crate::guest::{Guest, Load, Options};
use crate::spawn::{Launch, Process, TempDir, command_with_fd_3, wait_listening};

/// Runs the program to its end; gives its exit code and standard output.
fn output(launch: &Launch, args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(&launch.program)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    ))
}

pub(super) fn capabilities_are_printed_as_json(cx: &mut Cx) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let name = cx.profile.name();
    for args in [
        &["--print-capabilities"][..],
        &["--print-capabilities", "--socket-path", "/nowhere/at/all"],
    ] {
        let (code, text) = output(&launch, args)?;
        ensure!(code == Some(0), "{args:?}: exit code {code:?}");
        let json = text.trim();
        ensure!(
            json.starts_with('{') && json.ends_with('}'),
            "{args:?} printed {json:?}"
        );
        let has_type = json.contains("\"type\"") && json.contains(&format!("\"{}\"", json_type(name)));
        ensure!(has_type, "{args:?}: no type {:?} in {json:?}", json_type(name));
    }
    Ok(())
}

/// The type in QEMU's schema.
fn json_type(name: &str) -> &str {
    if name == "blk" { "block" } else { name }
}

pub(super) fn sigterm_ends_an_idle_daemon_and_removes_its_socket(cx: &mut Cx) -> Result<()> {
    terminates(cx)
}

pub(super) fn sigterm_ends_a_daemon_with_a_guest(cx: &mut Cx) -> Result<()> {
    cx.daemon()?;
    let mut guest = cx.usual_guest()?;
    let profile = cx.profile.clone();
    guest.lane().round_trip(&*profile, 64)?;
    terminates(cx)
}

pub(super) fn sigterm_ends_a_daemon_under_load(cx: &mut Cx) -> Result<()> {
    cx.daemon()?;
    let mut guest = cx.guest(Options {
        deadline: std::time::Duration::from_secs(5),
        ..Options::default()
    })?;
    let mut lane = guest.take_lane();
    lane.deadline = std::time::Duration::from_secs(2); // the load ends by this when the daemon is gone
    let load = Load::start(lane, cx.profile.clone(), 4096);
    let result = terminates(cx);
    let _ = load.stop();
    result
}

fn terminates(cx: &mut Cx) -> Result<()> {
    let deadline = cx.settings.deadline;
    let daemon = cx.daemon()?;
    let began = Instant::now();
    daemon.process().terminate();
    let status = daemon.process().wait(deadline)?;
    let took = began.elapsed();
    ensure!(status.code() == Some(0), "SIGTERM: {status}");
    ensure!(took.as_secs() < 4, "SIGTERM took {took:?}");
    ensure!(!daemon.socket().exists(), "the socket is left behind");
    Ok(())
}

pub(super) fn a_stale_socket_is_replaced(cx: &mut Cx) -> Result<()> {
    cx.daemon()?;
    cx.crash()?; // the killed daemon leaves its socket, and the next one starts on it
    cx.still_serves()
}

pub(super) fn a_live_listener_is_not_robbed(cx: &mut Cx) -> Result<()> {
    let deadline = cx.settings.deadline;
    let daemon = cx.daemon()?;
    let mut second = Process::start(&mut daemon.launch().command(&daemon.socket()))?;
    let status = second
        .wait(deadline)
        .context("a second daemon on the same path")?;
    ensure!(
        !status.success(),
        "a second daemon on the same path ends with success"
    );
    cx.still_serves()
}

pub(super) fn a_path_that_cannot_be_bound_is_an_error_that_names_it(cx: &mut Cx) -> Result<()> {
    let deadline = cx.settings.deadline;
    let launch = cx.daemon()?.launch().clone();
    let mut process = Process::start(&mut launch.command("/nowhere/at/all0".as_ref()))?;
    let status = process.wait(deadline)?;
    ensure!(
        status.code().is_some_and(|code| code != 0),
        "{status} for a socket in a directory that does not exist"
    );
    let log = process.log.tail().join("\n");
    ensure!(
        log.contains("/nowhere/at/all"),
        "the message does not name the path: {log}"
    );
    Ok(())
}

pub(super) fn only_the_owner_may_connect(cx: &mut Cx) -> Result<()> {
    let socket = cx.daemon()?.socket();
    let metadata = std::fs::symlink_metadata(&socket)?;
    ensure!(
        metadata.file_type().is_socket(),
        "{} is no socket",
        socket.display()
    );
    let mode = metadata.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the socket's mode is {mode:o}");
    Ok(())
}

pub(super) fn a_line_tells_that_it_is_ready(cx: &mut Cx) -> Result<()> {
    let line = "Waiting for vhost-user socket connection...";
    let end = Instant::now() + cx.settings.deadline;
    loop {
        let log = cx.daemon()?.log().tail();
        if log.iter().any(|text| text == line) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "no line {line:?} in {log:?}");
        std::thread::yield_now();
    }
}

pub(super) fn the_pid_file_holds_the_pid(cx: &mut Cx) -> Result<()> {
    let dir = TempDir::new()?;
    let path = dir.path().join("pid");
    cx.daemon()?;
    cx.respawn(&["--pid-file", &path.to_string_lossy()])?;
    let text = std::fs::read_to_string(&path).context("the pid file")?;
    let pid = cx.need_pid()?;
    ensure!(
        text.trim() == pid.to_string(),
        "the pid file says {text:?}, the pid is {pid}"
    );
    Ok(())
}

/// A service manager that listens: its socket, where that is, and where the daemon is to listen.
fn manager(cx: &Cx, dir: &TempDir) -> Result<(UnixDatagram, PathBuf, PathBuf)> {
    let notify = dir.path().join("notify");
    let receiver = UnixDatagram::bind(&notify)?;
    receiver.set_read_timeout(Some(cx.settings.deadline))?;
    Ok((receiver, notify, dir.path().join("s0")))
}

pub(super) fn readiness_is_notified(cx: &mut Cx) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let dir = TempDir::new()?;
    let (receiver, notify, socket) = manager(cx, &dir)?;
    let _process = Process::start(launch.command(&socket).env("NOTIFY_SOCKET", &notify))?;
    let mut buffer = [0; 512];
    let length = receiver
        .recv(&mut buffer)
        .context("a datagram on NOTIFY_SOCKET")?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    ensure!(
        text.lines().any(|line| line == "READY=1"),
        "NOTIFY_SOCKET got {text:?}"
    );
    UnixStream::connect(&socket).context("after READY=1").map(drop)
}

pub(super) fn a_descriptor_tells_that_it_is_ready(cx: &mut Cx) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let dir = TempDir::new()?;
    let socket = dir.path().join("s0");
    let (reader, writer) = std::io::pipe()?;
    let args: Vec<String> = launch
        .command(&socket)
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let args = [args, vec!["--ready-fd".into(), "3".into()]].concat();
    let mut command = command_with_fd_3(&launch.program, &args, writer.into(), false);
    let process = Process::start(&mut command)?;
    // The parent's copy of the other end.
    drop(command);
    let told = std::io::read_to_string(reader)?;
    ensure!(
        told == "\n",
        "--ready-fd got {told:?}: {:?}",
        process.log().tail()
    );
    UnixStream::connect(&socket).context("after --ready-fd").map(drop)
}

pub(super) fn the_watchdog_is_fed_and_told_who_is_there(cx: &mut Cx) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let dir = TempDir::new()?;
    let (receiver, notify, socket) = manager(cx, &dir)?;
    let mut command = launch.command(&socket);
    let _process = Process::start(
        command
            .env("NOTIFY_SOCKET", &notify)
            .env("WATCHDOG_USEC", "100000"),
    )?;
    let wait_for = |wanted: &str| -> Result<()> {
        loop {
            let mut buffer = [0; 512];
            let length = receiver
                .recv(&mut buffer)
                .with_context(|| format!("{wanted} on NOTIFY_SOCKET"))?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == wanted) {
                return Ok(());
            }
        }
    };
    wait_for("READY=1")?;
    wait_for("WATCHDOG=1")?;
    let front = FrontEnd::connect(&socket, cx.settings.deadline)?;
    wait_for("STATUS=Front ends connected: 1")?;
    drop(front);
    wait_for("STATUS=Front ends connected: 0")?;
    // Also while nothing happens.
    wait_for("WATCHDOG=1")?;
    wait_for("WATCHDOG=1")
}

/// Serves one guest on `socket`; afterwards the daemon may go on or end.
fn serves(cx: &Cx, socket: &std::path::Path) -> Result<()> {
    let profile = cx.profile.clone();
    let front = FrontEnd::connect(socket, cx.settings.deadline)?;
    let mut guest = Guest::boot(front, &*profile, &Options::default())?;
    guest.lane().round_trip(&*profile, 64)
}

fn inherited_listener(cx: &mut Cx, more: &[&str], activate: bool) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let dir = TempDir::new()?;
    let socket = dir.path().join("s0");
    let listener = UnixListener::bind(&socket)?;
    let mut args = launch.without_socket();
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let mut command = command_with_fd_3(&launch.program, &args, OwnedFd::from(listener), activate);
    let mut process = Process::start(&mut command)?;
    wait_listening(&mut process, &socket)?;
    serves(cx, &socket).with_context(|| format!("log: {:?}", process.log.tail()))
}

pub(super) fn fd_takes_a_listening_socket(cx: &mut Cx) -> Result<()> {
    inherited_listener(cx, &["--fd", "3"], false)
}

pub(super) fn socket_activation_works(cx: &mut Cx) -> Result<()> {
    inherited_listener(cx, &[], true)
}

pub(super) fn fd_takes_a_connected_socket_and_ends_with_it(cx: &mut Cx) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let profile = cx.profile.clone();
    let (ours, theirs) = UnixStream::pair()?;
    let mut args = launch.without_socket();
    args.extend(["--fd".to_owned(), "3".to_owned()]);
    let mut command = command_with_fd_3(&launch.program, &args, OwnedFd::from(theirs), false);
    let mut process = Process::start(&mut command)?;
    drop(command); // it holds a copy of their end
    let front = FrontEnd::from_stream(ours, cx.settings.deadline)?;
    let mut guest = match Guest::boot(front, &*profile, &Options::default()) {
        Ok(guest) => guest,
        Err(error) => bail!("{error:#}; log: {:?}", process.log.tail()),
    };
    guest.lane().round_trip(&*profile, 64)?;
    drop(guest);
    let status = process
        .wait(cx.settings.deadline)
        .context("after the front end hung up")?;
    ensure!(status.code() == Some(0), "the daemon ended with {status}");
    Ok(())
}

pub(super) fn an_unknown_option_is_an_error(cx: &mut Cx) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let (code, _) = output(&launch, &["--no-such-option"])?;
    ensure!(code.is_some_and(|code| code != 0), "exit code {code:?}");
    Ok(())
}

/// Runs a tool that complains of a file.
fn passes(tool: &[&str]) -> Result<()> {
    let run = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::null())
        .output();
    let run = match run {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return super::context::skip(format!("{} is not installed", tool[0]));
        }
        run => run?,
    };
    let complaints = String::from_utf8_lossy(&run.stderr);
    ensure!(
        run.status.success() && (tool[0] != "man" || complaints.is_empty()),
        "{tool:?}: {complaints}"
    );
    Ok(())
}

pub(super) fn its_papers_pass_their_tools(cx: &mut Cx) -> Result<()> {
    let launch = cx.daemon()?.launch().clone();
    let name = launch
        .program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let folder = TempDir::new()?;
    let write = |paper: &str, file: &str| -> Result<String> {
        let (code, text) = output(&launch, &["--generate", paper])?;
        ensure!(
            code == Some(0) && !text.is_empty(),
            "--generate {paper}: exit code {code:?}"
        );
        let path = folder.path().join(file);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let man = write("man", &format!("{name}.1"))?;
    let completion = write("bash", &format!("{name}.bash"))?;
    for shell in ["zsh", "fish"] {
        write(shell, shell)?;
    }
    write("sysusers", &format!("{name}.conf"))?;
    let service = write("service", &format!("{name}@.service"))?;
    write("socket", &format!("{name}@.socket"))?;
    let profile = write("apparmor", &name)?;
    for tool in [
        &["man", "--warnings=w", "--local-file", &man][..],
        &["bash", "-n", &completion],
        // Where only root looks, by most people's PATH.
        &[
            "/usr/sbin/apparmor_parser",
            "--skip-kernel-load",
            "--skip-read-cache",
            "--skip-cache",
            &profile,
        ],
        // An exposure of 2.5 at most.
        &[
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=25",
            &service,
        ],
    ] {
        passes(tool)?;
    }
    Ok(())
}

pub(super) fn the_control_socket_takes_any_nonsense(cx: &mut Cx) -> Result<()> {
    cx.respawn(&control::OPTION)?;
    let daemon = cx.daemon()?;
    let commands = control::result(daemon, &json!({"command": "commands"}))?;
    let names: Vec<_> = commands
        .as_array()
        .into_iter()
        .flatten()
        .map(|command| command["name"].clone())
        .collect();
    ensure!(names.len() >= 7, "{commands}");
    let own = names.iter().filter(|name| *name != "quit");
    for name in own.chain([&json!("fly"), &json!(7), &Value::Null]) {
        let words: Vec<&str> = commands
            .as_array()
            .into_iter()
            .flatten()
            .filter(|command| command["name"] == *name)
            .flat_map(|command| {
                command["arguments"]
                    .as_str()
                    .unwrap_or_default()
                    .split(['=', ' '])
            })
            .collect();
        for value in [
            Value::Null,
            json!({}),
            json!(-1),
            json!(u64::MAX),
            json!("x".repeat(10_000)),
            json!("\u{0}"),
        ] {
            let mut request = json!({"command": name});
            for word in &words {
                request[word.trim_matches(['[', ']'])] = value.clone();
            }
            let reply = control::ask(daemon, &request)?;
            ensure!(reply["ok"].is_boolean(), "{request}: {reply}");
        }
    }
    let status = control::result(daemon, &json!({"command": "status"}))?;
    ensure!(status["pid"] == daemon.pid(), "{status}");
    cx.still_serves()
}
