// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel alone costs: a line wakes a thread, which wakes another, which interrupts. That is how a command
//! becomes an event, without a command, an event or a virtqueue.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::Result;
use rustix::event::{EventfdFlags, eventfd};

use crate::bench::cpus;

/// Two threads, which end with the connection.
pub(super) struct Relay {
    line: UnixStream,
    interrupt: Arc<OwnedFd>,
}

impl Relay {
    /// The threads run on these CPUs.
    pub(super) fn start(cpus: &[usize]) -> Result<Self> {
        let (line, mut other) = UnixStream::pair()?;
        let event = || -> Result<Arc<OwnedFd>> { Ok(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?)) };
        let (news, interrupt) = (event()?, event()?);
        let (first, second) = (cpus.to_vec(), cpus.to_vec());
        let tell = news.clone();
        thread::spawn(move || -> Result<()> {
            cpus::pin(&first)?;
            let mut bytes = [0; 64];
            while other.read(&mut bytes)? > 0 {
                add(&tell, 1)?;
            }
            add(&tell, END)
        });
        let tell = interrupt.clone();
        thread::spawn(move || -> Result<()> {
            cpus::pin(&second)?;
            while wait(&news)? < END {
                add(&tell, 1)?;
            }
            Ok(())
        });
        Ok(Self { line, interrupt })
    }

    /// Has it carry one line; when that has arrived.
    pub(super) fn carry(&mut self, line: &str) -> Result<Instant> {
        self.line.write_all(line.as_bytes())?;
        wait(&self.interrupt)?;
        Ok(Instant::now())
    }
}

/// What ends the second thread.
const END: u64 = 1 << 32;

fn add(event: &OwnedFd, count: u64) -> Result<()> {
    rustix::io::write(event, &count.to_ne_bytes())?;
    Ok(())
}

fn wait(event: &OwnedFd) -> Result<u64> {
    let mut count = [0; 8];
    rustix::io::read(event, &mut count)?;
    Ok(u64::from_ne_bytes(count))
}
