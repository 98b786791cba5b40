// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines in, lines out: a thread for each client, and few clients.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;

/// Clients at a time; more have to wait.
const MAX_CLIENTS: usize = 8;
/// Longest request in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// How long a client may take for a request, or to read its reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when the host or we have no room for one more.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers a request, a line without its end, by a line without its end.
pub(super) trait Answers: Send + Sync + 'static {
    /// The answer.
    fn answer(&self, request: &str) -> String;
}

/// Serves clients of `listener` until the process ends.
pub(super) fn start(listener: UnixListener, answers: impl Answers) -> io::Result<()> {
    let answers = Arc::new(answers);
    let clients = Arc::new(AtomicUsize::new(0));
    let accept = move || loop {
        if clients.load(Ordering::Relaxed) >= MAX_CLIENTS {
            std::thread::sleep(PAUSE);
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        clients.fetch_add(1, Ordering::Relaxed);
        let (answers, its) = (answers.clone(), clients.clone());
        let client = move || {
            // A client that goes has nobody to tell.
            let _ = serve(&stream, &*answers);
            its.fetch_sub(1, Ordering::Relaxed);
        };
        if Builder::new().name("client".into()).spawn(client).is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    };
    Builder::new().name("control".into()).spawn(accept).map(drop)
}

fn serve(stream: &UnixStream, answers: &impl Answers) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            // The client has gone, or does not know when to end.
            return Ok(());
        }
        let mut reply = answers.answer(&String::from_utf8_lossy(&line));
        reply.push('\n');
        let mut writer = stream;
        writer.write_all(reply.as_bytes())?;
    }
}
