// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-vsock with the virtio_vsock driver of real guests.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use serde_json::Value;
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Daemon, Profile};
use vu_e2e::guest::{End, Guest, Script};
use vu_e2e::host::{Host, Step};
use vu_e2e::qemu::{Machine, Qemu};
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

    fn bare_qemu(&self, task: &str) -> Result<Qemu> {
        let guest = Qemu::new(&self.lab.qemu()?, &quick::boot(&self.lab)?);
        Ok(guest.script(&Script::new(task, End::PowerOff)))
    }

    fn qemu(&self, task: &str, scratch: &Scratch) -> Result<Guest> {
        let guest = self.bare_qemu(task)?;
        guest
            .device("vhost-user-vsock-pci", self.daemon.socket())
            .start(scratch)
    }

    fn microvm(&self, task: &str, scratch: &Scratch) -> Result<Guest> {
        // It has no way to power off.
        let guest = self.bare_qemu(task)?.machine(Machine::Microvm);
        let guest = guest.script(&Script::new(task, End::Reboot));
        guest
            .device("vhost-user-vsock-device", self.daemon.socket())
            .start(scratch)
    }

    fn generic(&self, task: &str, scratch: &Scratch) -> Result<Guest> {
        let device = format!("vhost-user-test-device-pci,virtio-id={ID},num_vqs=3,config_size=8");
        self.bare_qemu(task)?
            .device(&device, self.daemon.socket())
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

    /// The same for messages.
    fn echo_messages(&self, port: u32) -> Result<()> {
        let path = format!("{}_{port}", self.path.display());
        let listener = seqpacket()?;
        net::bind(&listener, &SocketAddrUnix::new(&*path)?).context(path)?;
        net::listen(&listener, 8)?;
        thread::spawn(move || {
            while let Ok(socket) = net::accept(&listener) {
                thread::spawn(move || echo_each(&socket));
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

fn seqpacket() -> Result<OwnedFd> {
    Ok(net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?)
}

fn echo_each(socket: &OwnedFd) {
    let mut buffer = vec![0; 1 << 18];
    while let Ok((n @ 1.., _)) = net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
        if net::send(socket, &buffer[..n], SendFlags::empty()).is_err() {
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
        ensure!(result["bytes"] == bytes, "{result}");
        Ok(())
    })
}

#[test]
fn uml_to_host() -> Result<()> {
    if quick::skips("vsock::uml_to_host")? {
        return Ok(());
    }
    to_host(Bench::uml, 64 << 20)
}

#[test]
fn a_gigabyte_there_and_back() -> Result<()> {
    if quick::skips("vsock::a_gigabyte_there_and_back")? {
        return Ok(());
    }
    to_host(Bench::uml, 1 << 30)
}

#[test]
fn qemu_pci_to_host() -> Result<()> {
    to_host(Bench::qemu, 64 << 20)
}

#[test]
fn qemu_mmio_to_host() -> Result<()> {
    if quick::skips("vsock::qemu_mmio_to_host")? {
        return Ok(());
    }
    to_host(Bench::microvm, 8 << 20)
}

/// Here the event queue is ours, too.
#[test]
fn qemu_generic_device_to_host() -> Result<()> {
    to_host(Bench::generic, 8 << 20)
}

#[test]
fn nobody_listens() -> Result<()> {
    if quick::skips("vsock::nobody_listens")? {
        return Ok(());
    }
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
    if quick::skips("vsock::many_connections")? {
        return Ok(());
    }
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch)?;
        bench.echo(1234)?;
        let mut guest = bench.uml("vsock,do=many,count=1000", scratch)?;
        let result = guest.result("vsock")?;
        guest.finish()?;
        ensure!(result["connections"] == 1000, "{result}");
        Ok(())
    })
}

#[test]
fn host_to_guest() -> Result<()> {
    if quick::skips("vsock::host_to_guest")? {
        return Ok(());
    }
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

#[test]
fn messages_keep_their_bounds() -> Result<()> {
    if quick::skips("vsock::messages_keep_their_bounds")? {
        return Ok(());
    }
    Scratch::scope(|scratch| {
        let bench = Bench::new(scratch)?;
        bench.echo_messages(1234)?;
        for (boot, size) in [
            (Bench::uml as Boot, 1000),
            (Bench::uml, 100_000),
            (Bench::qemu, 5000),
        ] {
            let bytes = 10_000_000 / size * size + 1;
            let mut guest = boot(
                &bench,
                &format!("vsock,do=send,seqpacket,bytes={bytes},size={size}"),
                scratch,
            )?;
            let result = guest.result("vsock")?;
            guest.finish()?;
            ensure!(result["bytes"] == bytes, "{result}");
        }
        Ok(())
    })
}

/// Two guests of one daemon.
fn siblings(groups: [&str; 2], tasks: [&str; 2]) -> Result<[Value; 2]> {
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let paths = ["a", "b"].map(|name| scratch.path(name).display().to_string());
        let second = scratch.path("second.sock");
        let vm =
            |cid: u32, at: usize| format!("guest-cid={cid},uds-path={},groups={}", paths[at], groups[at]);
        let second_text = second.display().to_string();
        let (first_vm, second_vm) = (vm(4, 0), vm(5, 1));
        let args = [
            "--vm",
            &first_vm,
            "--vm",
            &second_vm,
            "--socket-path",
            &second_text,
        ];
        let daemon = Daemon::start(program(), &args, scratch)?;
        let boot = |socket: &Path, task: &str| {
            let guest = Uml::new(&lab.um_kernel()?, &lab.guest_program()?);
            let script = Script::new(task, End::PowerOff);
            guest.device(ID, socket).script(&script).start(scratch)
        };
        // The daemon's own option of the socket comes after ours.
        let mut listens = boot(daemon.socket(), tasks[1])?;
        listens.event("listening")?;
        let mut calls = boot(&second, tasks[0])?;
        let called = calls.result("vsock")?;
        calls.finish()?;
        if tasks[0].contains("refused") {
            return Ok([called, Value::Null]);
        }
        let heard = listens.result("vsock")?;
        listens.finish()?;
        Ok([called, heard])
    })
}

#[test]
fn siblings_speak_to_each_other() -> Result<()> {
    if quick::skips("vsock::siblings_speak_to_each_other")? {
        return Ok(());
    }
    let [called, heard] = siblings(
        ["x+y", "y"],
        ["vsock,do=send,cid=4,bytes=20000000", "vsock,do=echo,count=1"],
    )?;
    ensure!(called["bytes"] == 20_000_000 && heard["bytes"] == 20_000_000);
    let [called, heard] = siblings(
        ["y", "y"],
        [
            "vsock,do=send,cid=4,bytes=5000000,size=7000,seqpacket",
            "vsock,do=echo,count=1,seqpacket",
        ],
    )?;
    ensure!(called["bytes"] == 5_000_000 && heard["bytes"] == 5_000_000);
    Ok(())
}

#[test]
fn siblings_of_other_groups_are_not_there() -> Result<()> {
    if quick::skips("vsock::siblings_of_other_groups_are_not_there")? {
        return Ok(());
    }
    siblings(["x", "y"], ["vsock,do=refused,cid=4", "vsock,do=echo,count=1"]).map(drop)
}

/// The kernel's own tests, all of them, between two guests of ours.
#[test]
fn the_kernels_own_tests_pass() -> Result<()> {
    if quick::skips("vsock::the_kernels_own_tests_pass")? {
        return Ok(());
    }
    for program in Lab::open()?.vsock_tests()? {
        let program = program.display();
        let side = |side: &str, cid: u32| format!("vsock,do=suite,side={side},cid={cid},program={program}");
        let [client, server] = siblings(["x", "x"], [&side("client", 4), &side("server", 5)])?;
        let tests = client["tests"].as_array().context("no tests")?;
        eprintln!("{program}: {} tests", tests.len());
        ensure!(
            !tests.is_empty() && tests.iter().all(|test| test[1] == "ok"),
            "{client}"
        );
        ensure!(client["tests"] == server["tests"], "{client} {server}");
    }
    Ok(())
}

/// Without Unix sockets, by the `AF_VSOCK` of a host that has it.
#[test]
fn by_the_hosts_own_sockets() -> Result<()> {
    if quick::skips("vsock::by_the_hosts_own_sockets")? {
        return Ok(());
    }
    let lab = Lab::open()?;
    let (kernel, agent) = (lab.um_kernel()?, lab.guest_program()?);
    let socket = Path::new("/run/vsock.sock");
    let inner = Uml::new(&kernel, &agent)
        .device(ID, socket)
        .script(&Script::serve());
    let agent_text = agent.display();
    let host = Host::new(&kernel, &agent)
        .then(Step::script(&format!(
            "{agent_text} vsock,do=echo,port=1234 > /run/echo 2>&1 &"
        )))
        .daemon(
            program(),
            &["--forward-cid", "1", "--forward-listen", "9000"],
            socket,
        )
        .guest(&inner.launch(Path::new("/run")))
        .then(Step::event("ready"))
        .then(Step::say("vsock,do=send,port=1234,bytes=1000000"))
        .then(Step::result("vsock"))
        .then(Step::say("vsock,do=send,port=1234,bytes=1000"))
        .then(Step::failure("vsock"))
        .then(Step::say("vsock,do=echo,port=9000"))
        .then(Step::event("listening"))
        .then(Step::script(&format!(
            "{agent_text} vsock,do=send,cid=1,port=9000,bytes=1000000"
        )))
        .then(Step::result("vsock"))
        .then(Step::say("poweroff"))
        .then(Step::end(60));
    let found = Scratch::scope(|scratch| host.play(scratch))?;
    let bytes: Vec<&Value> = found.iter().filter_map(|found| found.get("bytes")).collect();
    ensure!(
        bytes.iter().all(|bytes| **bytes == 1_000_000) && bytes.len() == 2,
        "{found:?}"
    );
    Ok(())
}
