// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Servers that others wrote, and where they keep their things.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vu_storage::Disk;
use vu_storage::nbd::{self, OpenError, Options};

use crate::support::{DEADLINE, skip};

/// A directory that goes with its owner.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vu-nbd-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A sparse file.
    pub(crate) fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether `program` is installed; says that `test` is skipped if not.
pub(crate) fn have(program: &str, test: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if found.is_err() {
        skip(test, &format!("no {program} here"));
    }
    found.is_ok()
}

/// A server on a Unix socket. Killed when dropped.
pub(crate) struct Server {
    program: &'static str,
    args: Vec<String>,
    socket: PathBuf,
    child: Child,
}

impl Server {
    /// `qemu-nbd` of the raw file `image`.
    pub(crate) fn qemu(dir: &Dir, image: &Path, args: &[&str]) -> Self {
        let fixed = [
            "--persistent",
            "--format=raw",
            "--cache=writeback",
            "--discard=unmap",
        ];
        let mut all: Vec<String> = fixed.iter().chain(args).map(|arg| (*arg).into()).collect();
        all.push(image.display().to_string());
        Self::start("qemu-nbd", "-k", dir, all)
    }

    /// nbdkit with `args`, of which the first that is no option is the plugin.
    pub(crate) fn nbdkit(dir: &Dir, args: &[&str]) -> Self {
        let fixed = ["--foreground", "--exit-with-parent", "--newstyle"];
        let all = fixed.iter().chain(args).map(|arg| (*arg).into()).collect();
        Self::start("nbdkit", "-U", dir, all)
    }

    fn start(program: &'static str, flag: &str, dir: &Dir, mut args: Vec<String>) -> Self {
        let socket = dir.path("socket");
        args.insert(0, flag.into());
        args.insert(1, socket.display().to_string());
        let child = spawn(program, &args, &socket);
        Self {
            program,
            args,
            socket,
            child,
        }
    }

    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it without warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, after [`kill`](Self::kill).
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.program, &self.args, &self.socket);
    }

    /// How many clients it has: its sockets but for the one that listens.
    pub(crate) fn clients(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
        sockets.count().saturating_sub(1)
    }

    /// Opens an export of it.
    pub(crate) fn open(&self, export: &str) -> Arc<dyn Disk> {
        self.open_with(&Options::new(self.uri(export).parse().unwrap()))
    }

    /// Opens it as soon as it listens.
    pub(crate) fn open_with(&self, options: &Options) -> Arc<dyn Disk> {
        open_soon(options).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &str, args: &[String], socket: &Path) -> Child {
    let _ = std::fs::remove_file(socket);
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Opens `options` as soon as somebody listens there.
pub(crate) fn open_soon(options: &Options) -> Result<Arc<dyn Disk>, OpenError> {
    let end = Instant::now() + DEADLINE;
    loop {
        match nbd::open(options) {
            Err(OpenError::Server {
                reason: nbd::HandshakeError::Io(_),
                ..
            }) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

/// nbdkit on a TCP port of its own choice, by socket activation.
pub(crate) struct TcpServer {
    child: Child,
    pub(crate) port: u16,
}

impl TcpServer {
    pub(crate) fn nbdkit(args: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let activated = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null";
        let child = Command::new("sh")
            .args([
                "-c",
                activated,
                "sh",
                "nbdkit",
                "--foreground",
                "--exit-with-parent",
            ])
            .args(args)
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
