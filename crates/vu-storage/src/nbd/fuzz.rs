// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What fuzz targets need of the client: all that it takes in, from bytes instead of a server.

use std::io::{self, Cursor, Read, Write};
use std::os::unix::net::UnixStream;

use super::commands::Commands;
use super::handshake::{Export, negotiate};
use super::wire::Wire;
use crate::{Completion, Request};

/// A server with `max_payload`, that knows flush, FUA, trim and zeroing, answers `requests` with `bytes`. They
/// arrive in portions of `portion` bytes. Returns what has completed and whether the connection was given up.
///
/// The cookie of a command is `generation << 32 | number of the request`; generations count from 1.
///
/// # Errors
/// When there are no sockets.
pub fn replies(
    requests: Vec<Request>,
    structured: bool,
    max_payload: u32,
    bytes: &[u8],
    portion: usize,
) -> io::Result<(Vec<Completion>, bool)> {
    let (ours, mut server) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    server.set_nonblocking(true)?;
    let export = Export {
        size: u64::MAX >> 1,
        flags: 0x6d,
        minimum: 1,
        preferred: None,
        max_payload,
        structured,
    };
    let mut commands = Commands::new(false);
    for request in requests {
        commands.submit(0, request, &export);
    }
    let mut wire = Wire::new(ours.into(), export);
    let mut lost = wire.send(&mut commands).is_err();
    for portion in bytes.chunks(portion.max(1)) {
        if lost {
            break;
        }
        server.write_all(portion)?;
        lost = wire.receive(&mut commands).is_err() || wire.send(&mut commands).is_err();
    }
    let finished = commands.finished.drain(..).map(|(_, completion)| completion);
    Ok((finished.collect(), lost))
}

/// A server says `bytes` in the handshake. Returns what the export is taken for (size, flags, minimum block
/// size, longest data), or the message for people.
///
/// # Errors
/// The message.
pub fn handshake(bytes: &[u8]) -> Result<(u64, u16, u32, u32), String> {
    struct Script<'a>(Cursor<&'a [u8]>);
    impl Read for Script<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.0.read(bytes)
        }
    }
    impl Write for Script<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let export = negotiate(&mut Script(Cursor::new(bytes)), "x").map_err(|error| error.to_string())?;
    Ok((export.size, export.flags, export.minimum, export.max_payload))
}
