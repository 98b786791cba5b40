// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Starts a daemon in a directory of its own, waits until it listens, keeps its log, and ends it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// How many of the last log lines are kept for a failure report.
const LOG_LINES: usize = 60;

/// How to start a daemon. In each argument `{socket}` stands for the socket's path, and `{stem}` for the path without
/// its last character, which is `0`: for daemons that append an index to what they are told. `{storage}` stands for the
/// file behind the device, and `{unique}` for a path that no other daemon gets.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Launch {
    /// Our own daemons: `--socket-path PATH` and the given arguments.
    #[must_use]
    pub fn ours(program: &str, args: &[&str]) -> Self {
        let mut all = vec!["--socket-path".to_owned(), "{socket}".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        Self {
            program: program.into(),
            args: all,
        }
    }

    /// A whole command line, split at white space.
    ///
    /// # Errors
    /// When it is empty or has no placeholder.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let program = words.next().context("the daemon's command is empty")?.into();
        let args: Vec<String> = words.collect();
        let placed = args
            .iter()
            .any(|arg| arg.contains("{socket}") || arg.contains("{stem}"));
        ensure!(
            placed,
            "the daemon's command has neither {{socket}} nor {{stem}}: {line}"
        );
        Ok(Self { program, args })
    }

    /// The same with more arguments.
    #[must_use]
    pub fn with(&self, more: &[&str]) -> Self {
        let mut launch = self.clone();
        launch.args.extend(more.iter().map(|arg| (*arg).to_owned()));
        launch
    }

    /// The same on the given file.
    #[must_use]
    pub fn on(&self, storage: Option<&Path>) -> Self {
        let mut launch = self.clone();
        if let Some(path) = storage {
            let path = path.to_string_lossy();
            launch.args = launch
                .args
                .iter()
                .map(|arg| arg.replace("{storage}", &path))
                .collect();
        }
        launch
    }

    /// The arguments without the socket option: what a daemon gets beside `--fd` or an inherited socket.
    #[must_use]
    pub fn without_socket(&self) -> Vec<String> {
        let mut args: Vec<_> = self
            .args
            .iter()
            .map(|arg| arg.replace("{unique}", &unique(&std::env::temp_dir())))
            .collect();
        if let Some(at) = args
            .iter()
            .position(|arg| arg.contains("{socket}") || arg.contains("{stem}"))
        {
            let separate = args[at].starts_with('{') && at > 0;
            args.drain(if separate { at - 1..=at } else { at..=at });
        }
        args
    }

    /// The command that listens on `socket`, whose last character is `0`; without standard input and output, and without
    /// the backtraces whose symbols would count as memory of the daemon.
    #[must_use]
    pub fn command(&self, socket: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(self.arguments(socket))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.env_remove("RUST_BACKTRACE");
        command
    }

    fn arguments(&self, socket: &Path) -> Vec<String> {
        let temporary = std::env::temp_dir();
        let folder = socket
            .parent()
            .filter(|folder| folder.is_dir())
            .unwrap_or(&temporary);
        let socket = socket.to_string_lossy();
        let stem = &socket[..socket.len() - 1];
        self.args
            .iter()
            .map(|arg| arg.replace("{socket}", &socket).replace("{stem}", stem))
            .map(|arg| arg.replace("{unique}", &unique(folder)))
            .collect()
    }
}

/// A path in `folder` that was not given before.
fn unique(folder: &Path) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("vu-unique-{}-{number}", std::process::id());
    folder.join(name).display().to_string()
}

/// A directory that goes away with everything in it.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh directory under the system's temporary directory; its name is short, for socket paths end at 107 bytes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("vu-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result.map(|()| Self(path)),
            }
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The log of a daemon: the number of lines, and the last of them.
#[derive(Debug, Default)]
pub struct Log {
    lines: AtomicU64,
    last: Mutex<VecDeque<String>>,
}

impl Log {
    /// Number of lines so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::SeqCst)
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        self.last
            .lock()
            .map(|lines| lines.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn collect(&self, source: impl io::Read) {
        for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
            self.lines.fetch_add(1, Ordering::SeqCst);
            if let Ok(mut last) = self.last.lock() {
                if last.len() == LOG_LINES {
                    last.pop_front();
                }
                last.push_back(String::from_utf8_lossy(&line).into_owned());
            }
        }
    }
}

/// A running child process whose standard error is collected; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it writes to standard error.
    pub log: Arc<Log>,
    collector: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` with its standard error collected.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let stderr = child.stderr.take().expect("standard error is piped");
        let log = Arc::new(Log::default());
        let sink = log.clone();
        let collector = Some(std::thread::spawn(move || sink.collect(stderr)));
        Ok(Self {
            child,
            log,
            collector,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the state is not to be had.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end until the deadline has passed.
    ///
    /// # Errors
    /// When it still runs then.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.collector.take().map(JoinHandle::join);
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "process {} still runs after {deadline:?}",
                self.pid()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends SIGHUP, by which our daemons look at their files anew.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    /// Kills it, as a crash would, and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.wait(Duration::from_secs(20)).map(drop)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.collector.take().map(JoinHandle::join);
    }
}

/// A daemon that listens on a socket in a directory of its own.
#[derive(Debug)]
pub struct Daemon {
    launch: Launch,
    process: Process,
    dir: TempDir,
    /// From just before the start of the process until it listened.
    pub start_up: Duration,
}

impl Daemon {
    /// Starts the daemon and waits until it listens.
    ///
    /// # Errors
    /// When it does not start, or ends, or does not listen within 20 s; the message carries its log.
    pub fn spawn(launch: &Launch) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let (process, start_up) = start(launch, &dir)?;
        Ok(Self {
            launch: launch.clone(),
            process,
            dir,
            start_up,
        })
    }

    /// Starts it anew on the same path, after it was killed or has ended.
    ///
    /// # Errors
    /// As [`Daemon::spawn`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        (self.process, self.start_up) = start(&self.launch, &self.dir)?;
        Ok(())
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.dir)
    }

    /// The directory that holds the socket and nothing else.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How it was started.
    #[must_use]
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.process.log
    }
}

fn socket_in(dir: &TempDir) -> PathBuf {
    dir.path().join("s0")
}

fn start(launch: &Launch, dir: &TempDir) -> anyhow::Result<(Process, Duration)> {
    let socket = socket_in(dir);
    let mut command = launch.command(&socket);
    let began = Instant::now();
    let mut process = Process::start(&mut command)?;
    wait_listening(&mut process, &socket)?;
    Ok((process, began.elapsed()))
}

/// Waits until somebody listens on `path`, or fails with the log of `process` when that ends or takes over 20 s.
///
/// # Errors
/// See above.
pub fn wait_listening(process: &mut Process, path: &Path) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !listening(path) {
        if let Some(status) = process.try_wait()? {
            process.collector.take().map(JoinHandle::join);
            bail!(
                "the daemon ended ({status}) before it listened:\n{}",
                process.log.tail().join("\n")
            );
        }
        let log = || process.log.tail().join("\n");
        ensure!(
            Instant::now() < end,
            "the daemon does not listen on {}:\n{}",
            path.display(),
            log()
        );
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Whether a socket at `path` is listening, found without a connection that the daemon would notice. A daemon may have
/// bound the socket under another name in the same directory and renamed it, so any listener there counts.
fn listening(path: &Path) -> bool {
    let Some(dir) = path.parent() else { return false };
    if !path.exists() {
        return false;
    }
    let Ok(table) = std::fs::read("/proc/net/unix") else {
        return false;
    };
    let accepting = |line: &&[u8]| line.split(|byte| *byte == b' ').nth(3) == Some(b"00010000");
    let here = dir.as_os_str().as_bytes();
    let named = |line: &[u8]| {
        line.windows(here.len() + 1)
            .any(|part| part.starts_with(here) && part.ends_with(b"/"))
    };
    table.split(|byte| *byte == b'\n').filter(accepting).any(named)
}

/// A command that runs `program` with `fd` as its descriptor 3, by way of the shell, which needs no unsafe code here.
/// In `LISTEN_PID` the shell puts the program's process id when `activate` is set, as systemd does.
#[must_use]
pub fn command_with_fd_3(program: &Path, args: &[String], fd: OwnedFd, activate: bool) -> Command {
    let script = if activate {
        r#"export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" "$@" 3<&0 </dev/null"#
    } else {
        r#"exec "$0" "$@" 3<&0 </dev/null"#
    };
    let mut command = Command::new("/bin/sh");
    let program: OsString = program.into();
    command
        .arg("-c")
        .arg(script)
        .arg(program)
        .args(args)
        .stdin(Stdio::from(fd))
        .stdout(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::{Launch, Process, TempDir, listening};
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn placeholders_are_replaced() {
        let launch = Launch::parse("prog --socket-path {stem} -v").unwrap();
        assert_eq!(
            launch.arguments("/t/s0".as_ref()),
            ["--socket-path", "/t/s", "-v"]
        );
        assert_eq!(launch.without_socket(), ["-v"]);
        assert_eq!(
            Launch::parse("prog --socket={socket} -v")
                .unwrap()
                .without_socket(),
            ["-v"]
        );
        assert!(Launch::parse("prog --socket-path /fixed").is_err());
    }

    #[test]
    fn a_listener_is_seen_and_a_stale_socket_is_not() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("s0");
        assert!(!listening(&path));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(listening(&path));
        drop(listener);
        assert!(!listening(&path));
    }

    #[test]
    fn the_log_is_complete_when_the_process_has_ended() {
        let mut process =
            Process::start(Command::new("/bin/sh").args(["-c", "seq 1 100 >&2; echo last >&2; exit 3"]))
                .unwrap();
        assert_eq!(process.wait(Duration::from_secs(20)).unwrap().code(), Some(3));
        assert_eq!(process.log.lines(), 101);
        assert_eq!(process.log.tail().last().unwrap(), "last");
    }
}
