// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`main`]: the whole life of a daemon, from its arguments to its exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::about::About;
use crate::args::{self, CommonArgs};
use crate::control::Control;
use crate::device::Device;
use crate::error::SetupError;
use crate::pid_file::PidFile;
use crate::serve::serve;
use crate::signal::Signals;
use crate::socket;
use crate::{generate, log, notify, sandbox, thread};

/// The `main` of a device's binary: `open` makes the devices from the arguments, one for each of
/// [`CommonArgs::sockets`], and each serves its own guest until a signal ends the daemon.
///
/// Exits with 0 after `SIGTERM` or when the connection given by `--fd` ends, with 1 and a line
/// `error: ...` when something cannot be set up, and with 2 for arguments that do not parse.
/// `--print-capabilities` is answered whatever else the arguments say.
pub fn main<A, D>(about: &About, open: impl FnOnce(&A) -> anyhow::Result<Vec<D>>) -> ExitCode
where
    A: Parser + AsRef<CommonArgs>,
    D: Device,
{
    let result = if args::print_capabilities_asked() {
        print(&about.capabilities())
    } else if let Some(kind) = generate::asked() {
        generate::paper(&kind, A::command(), about).and_then(|paper| print(paper.trim_end()))
    } else {
        run(about, &A::parse(), open)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::print_error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("standard output")
}

fn run<A, D>(about: &About, args: &A, open: impl FnOnce(&A) -> anyhow::Result<Vec<D>>) -> anyhow::Result<()>
where
    A: AsRef<CommonArgs>,
    D: Device,
{
    let common = args.as_ref();
    // First of all, while every open descriptor is one that we were given.
    let mut endpoints = socket::inherited(common)?;
    if let Some(fd) = common.ready_fd {
        notify::also(socket::given(fd)?);
    }
    log::start(common.log_level, common.syslog)?;
    // Before a device starts its first thread, which inherits the mask.
    let signals = Signals::block()?;

    thread::hold();
    let devices = open(args)?;
    let (devices_len, sockets) = (devices.len(), common.sockets());
    if devices_len != sockets {
        return Err(SetupError::Count {
            devices: devices_len,
            sockets,
        }
        .into());
    }
    // Whoever can connect finds the process id there, and somebody to ask.
    let _pid_file = common.pid_file.as_deref().map(PidFile::create).transpose()?;
    let control = Control::listen(common, about.commands)?;
    endpoints.extend(socket::listeners(common)?);
    notify::prepare();
    common.needs().declare();
    sandbox::confine(common.sandbox)?;
    thread::release().map_err(|source| SetupError::System {
        what: "start a thread",
        source,
    })?;
    serve(endpoints, devices, &signals, control)?;
    Ok(())
}
