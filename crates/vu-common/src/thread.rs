// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads that a device starts for itself. They begin when the daemon is confined, and so are confined, too.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

/// A thread that waits for its beginning: its name and what it does.
type Waiting = (String, Box<dyn FnOnce() + Send>);

/// Those that wait, while they have to. In a program that is not a daemon of ours they never have to.
static WAITING: Mutex<Option<Vec<Waiting>>> = Mutex::new(None);

/// Starts a thread that nobody waits for; from [`Device`](crate::Device)s that are being opened, once the daemon is
/// confined.
///
/// # Errors
/// The host has no thread to give.
pub fn spawn(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let name = name.into();
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(waiting) = waiting.as_mut() {
        waiting.push((name, Box::new(body)));
        return Ok(());
    }
    Builder::new().name(name).spawn(body).map(drop)
}

/// Threads have to wait from now on.
pub(crate) fn hold() {
    *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
}

/// Starts those that wait; the next ones need not.
pub(crate) fn release() -> io::Result<()> {
    let waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner).take();
    for (name, body) in waiting.into_iter().flatten() {
        Builder::new().name(name).spawn(body)?;
    }
    Ok(())
}
