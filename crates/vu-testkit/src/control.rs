// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Somebody at the control socket of a daemon that was started with [`OPTION`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::spawn::Daemon;

/// The option of the daemon, for [`Launch`](crate::spawn::Launch).
pub const OPTION: [&str; 2] = ["--control-socket", "{stem}control"];
/// Generous: it only bounds how long a failing test takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The reply to a request.
///
/// # Errors
/// The daemon does not answer, or not by a line of JSON.
pub fn ask(daemon: &Daemon, request: &Value) -> Result<Value> {
    let socket = daemon.socket();
    let name = socket
        .file_name()
        .context("a socket has a name")?
        .to_string_lossy();
    let stem = &name[..name.len().saturating_sub(1)];
    let stream = UnixStream::connect(daemon.dir().join(format!("{stem}control")))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(&stream, "{request}")?;
    let mut reply = String::new();
    BufReader::new(&stream).read_line(&mut reply)?;
    serde_json::from_str(&reply).with_context(|| format!("{request}: {reply:?}"))
}

/// The result of a request that must succeed.
///
/// # Errors
/// It does not.
pub fn result(daemon: &Daemon, request: &Value) -> Result<Value> {
    let mut reply = ask(daemon, request)?;
    anyhow::ensure!(reply["ok"] == true, "{request}: {reply}");
    Ok(reply["result"].take())
}

/// The error of a request that must fail.
///
/// # Errors
/// It does not.
pub fn error(daemon: &Daemon, request: &Value) -> Result<String> {
    let reply = ask(daemon, request)?;
    let error = reply["error"].as_str().filter(|_| reply["ok"] == false);
    Ok(error.with_context(|| format!("{request}: {reply}"))?.to_owned())
}
