// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-vsock with the virtio_vsock driver of real guests.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context, Result, ensure};
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::guest::{End, Guest, Script};
use vu_e2e::qemu::Qemu;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

/// The virtio device id of a socket device.
const ID: u32 = 19;

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-vsock", Profile::Release).unwrap())
}

/// A lab, a daemon and the path that host processes connect to.
struct Bench {
    lab: Lab,
    daemon: Daemon,
    path: PathBuf,
}

impl Bench {
    fn new(scratch: &Scratch) -> Result<Self> {
        let path = scratch.path("vsock");
        let args = ["--guest-cid", "4", "--uds-path", path.to_str().context("path")?];
        Ok(Self {
            lab: Lab::open()?,
            daemon: Daemon::start(program(), &args, scratch)?,
            path,
        })
    }

    fn uml(&self, task: &str, scratch: &Scratch) -> Result<Guest> {
        let guest = Uml::new(&self.lab.um_kernel()?, &self.lab.guest_program()?);
        let script = Script::new(task, End::PowerOff);
        guest
            .device(ID, self.daemon.socket())
            .script(&script)
            .start(scratch)
    }

    fn qemu(&self, task: &str, scratch: &Scratch) -> Result<Guest> {
        let guest = Qemu::new(&self.lab.qemu()?, &quick::boot(&self.lab)?);
        let script = Script::new(task, End::PowerOff);
        guest
            .device("vhost-user-vsock-pci", self.daemon.socket())
            .script(&script)
            .start(scratch)
    }

    /// Echoes what the guest sends to `port`, from now on.
    fn echo(&self, port: u32) -> Result<()> {
        let path = format!("{}_{port}", self.path.display());
        let listener = UnixListener::bind(&path).context(path)?;
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || echo(stream));
            }
        });
        Ok(())
    }

    /// A stream to `port` of the guest.
    fn connect(&self, port: u32) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path)?;
        writeln!(stream, "CONNECT {port}")?;
        let mut line = String::new();
        BufReader::with_capacity(1, &stream).read_line(&mut line)?;
        ensure!(line.starts_with("OK "), "answer: {line:?}");
        Ok(stream)
    }
}

fn echo(mut stream: UnixStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

type Boot = fn(&Bench, &str, &Scratch) -> Result<Guest>;

fn to_host(boot: Boot, bytes: u64) -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch)?;
        bench.echo(1234)?;
        let mut guest = boot(&bench, &format!("vsock,do=send,bytes={bytes}"), scratch)?;
        let result = guest.result("vsock")?;
        guest.finish()?;
        eprintln!("{result}");
        ensure!(result["bytes"] == bytes, "{result}");
        Ok(())
    })
}

#[test]
fn uml_to_host() -> Result<()> {
    to_host(Bench::uml, 64 << 20)
}

#[test]
fn qemu_to_host() -> Result<()> {
    to_host(Bench::qemu, 64 << 20)
}

#[test]
fn nobody_listens() -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch)?;
        let mut guest = bench.uml("vsock,do=refused", scratch)?;
        let result = guest.result("vsock")?;
        guest.finish()?;
        ensure!(result["seconds"].as_f64().is_some_and(|s| s < 1.0), "{result}");
        Ok(())
    })
}

#[test]
fn many_connections() -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch)?;
        bench.echo(1234)?;
        let mut guest = bench.uml("vsock,do=many,count=1000", scratch)?;
        let result = guest.result("vsock")?;
        guest.finish()?;
        ensure!(result["connections"] == 1000, "{result}");
        eprintln!("{result}");
        Ok(())
    })
}

#[test]
fn host_to_guest() -> Result<()> {
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch)?;
        let mut guest = bench.uml("vsock,do=echo,count=3", scratch)?;
        guest.event("listening")?;
        for turn in 0..3_u8 {
            let mut stream = bench.connect(1234)?;
            let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| (at >> 3) as u8 ^ turn).collect();
            let mut writer = stream.try_clone()?;
            let sent = bytes.clone();
            let thread = thread::spawn(move || {
                writer.write_all(&sent)?;
                writer.shutdown(std::net::Shutdown::Write)
            });
            let mut back = Vec::new();
            stream.read_to_end(&mut back)?;
            thread.join().expect("the writer")?;
            ensure!(back == bytes, "{} bytes came back", back.len());
        }
        let result = guest.result("vsock")?;
        guest.finish()?;
        ensure!(result["bytes"] == 3_000_000, "{result}");
        Ok(())
    })
}
