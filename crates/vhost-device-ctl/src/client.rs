// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A line of JSON to a daemon, and its reply.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long a daemon may take. It answers at once, unless its machine is overloaded.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest reply in bytes.
const MAX_REPLY: u64 = 16 << 20;

/// The result of a request.
///
/// # Errors
/// Nobody listens, or what the daemon says.
pub(crate) fn ask(socket: &Path, request: &Value) -> Result<Value> {
    let shown = || socket.display().to_string();
    let mut stream = UnixStream::connect(socket).with_context(shown)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream
        .write_all(format!("{request}\n").as_bytes())
        .with_context(shown)?;
    let mut reply = String::new();
    BufReader::new(stream.take(MAX_REPLY))
        .read_line(&mut reply)
        .with_context(shown)?;
    ensure!(reply.ends_with('\n'), "{}: the daemon hung up", socket.display());
    let mut reply: Value = serde_json::from_str(&reply).context("the reply is not JSON")?;
    if reply["ok"] == true {
        return Ok(reply["result"].take());
    }
    bail!(
        "{}",
        reply["error"]
            .as_str()
            .unwrap_or("the daemon refuses, and does not say why")
    )
}
