// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a program writes: copied to our console as it comes, and kept for questions.

use super::LIMIT;
use anyhow::bail;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    lines: Vec<String>,
    closed: bool,
}

/// The lines of one program.
pub(super) struct Output {
    shared: Arc<(Mutex<State>, Condvar)>,
    /// How many lines [`Output::next`] has gone past.
    seen: usize,
}

impl Output {
    /// Copies `from` until it is closed.
    pub(super) fn copy(from: impl Read + Send + 'static) -> Self {
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let copied = shared.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                // There is nobody to tell when the console is gone.
                let _ = std::io::stdout().lock().write_all(&line);
                let text = String::from_utf8_lossy(&line).into_owned();
                lock(&copied.0).lines.push(text);
                copied.1.notify_all();
                line.clear();
            }
            lock(&copied.0).closed = true;
            copied.1.notify_all();
        });
        Self { shared, seen: 0 }
    }

    /// Whether a line so far has `text` in it.
    pub(super) fn has(&self, text: &str) -> bool {
        lock(&self.shared.0).lines.iter().any(|line| line.contains(text))
    }

    /// Waits for the next line of which `pick` makes something.
    ///
    /// # Errors
    /// When there is none in time, or before the end.
    pub(super) fn next<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let end = Instant::now() + LIMIT;
        let mut state = lock(&self.shared.0);
        loop {
            while let Some(line) = state.lines.get(self.seen) {
                self.seen += 1;
                if let Some(picked) = pick(line) {
                    return Ok(picked);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.closed {
                bail!("the guest ended without: {what}");
            }
            if left == Duration::ZERO {
                bail!("waited {} s in vain for: {what}", LIMIT.as_secs());
            }
            state = self
                .shared
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
