// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One CPU per guest. A guest whose threads wander between CPUs is up to ten times slower on virtual machines, where
//! waking another CPU is dear.

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

/// A CPU that one guest runs on; free again when dropped.
#[derive(Debug)]
pub struct Cpu {
    number: usize,
    _lock: Option<OwnedFd>,
}

impl Cpu {
    /// Takes one that no other guest of this user holds, or else shares one.
    ///
    /// # Errors
    /// When the kernel does not say which CPUs we may use.
    pub fn take() -> Result<Self> {
        let ours = sched_getaffinity(None).context("sched_getaffinity")?;
        let numbers: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| ours.is_set(*cpu)).collect();
        let free = numbers.iter().find_map(|number| Some((*number, lock(*number)?)));
        Ok(match free {
            Some((number, lock)) => Self {
                number,
                _lock: Some(lock),
            },
            None => {
                let any = std::process::id() as usize % numbers.len();
                Self {
                    number: numbers[any],
                    _lock: None,
                }
            }
        })
    }

    /// Starts `command` on this CPU: a child inherits the affinity of the thread that starts it.
    ///
    /// # Errors
    /// When the affinity cannot be set or the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let before = sched_getaffinity(None).context("sched_getaffinity")?;
        let mut only = CpuSet::new();
        only.set(self.number);
        sched_setaffinity(None, &only).with_context(|| format!("pin to CPU {}", self.number))?;
        let child = command.spawn();
        sched_setaffinity(None, &before).context("sched_setaffinity")?;
        child.with_context(|| command.get_program().display().to_string())
    }
}

/// Locks the file that stands for a CPU among this user's processes.
fn lock(number: usize) -> Option<OwnedFd> {
    let user = rustix::process::getuid().as_raw();
    let path = std::env::temp_dir().join(format!("vu-e2e-{user}-cpu{number}"));
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}
