// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Makes system calls in another process, as who has broken into it would: by ptrace(2), on x86-64.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// The x86-64 convention leaves a function this much below its stack pointer; beyond it is free.
const RED_ZONE: u64 = 128;
/// Room for the bytes that a call reads.
const ROOM: u64 = 1024;

/// A process whose first thread stands still. It goes on as if nothing had been when this is dropped.
pub struct Injector {
    pid: Pid,
    registers: libc::user_regs_struct,
    memory: File,
}

impl Injector {
    /// Stops the first thread, which must be waiting in a system call.
    ///
    /// # Errors
    /// The kernel does not let us, or the thread is not in a system call.
    pub fn attach(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        let path = format!("/proc/{pid}/mem");
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .context(path)?;
        ptrace::attach(pid).context("ptrace")?;
        waitpid(pid, None)?;
        let registers = ptrace::getregs(pid)?;
        let injector = Self {
            pid,
            registers,
            memory,
        };
        let mut before = [0; 2];
        injector
            .memory
            .read_exact_at(&mut before, registers.rip - SYSCALL.len() as u64)?;
        ensure!(before == SYSCALL, "the thread is not in a system call");
        Ok(injector)
    }

    /// Puts bytes into the process's memory, where calls find them until the next `put`.
    ///
    /// # Errors
    /// They are too many, or the memory cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<u64> {
        ensure!(bytes.len() as u64 <= ROOM, "no room for {} bytes", bytes.len());
        let at = (self.registers.rsp - RED_ZONE - ROOM) & !15;
        self.memory.write_all_at(bytes, at)?;
        Ok(at)
    }

    /// Makes a system call and gives what it returns: a negative error number if it fails.
    ///
    /// # Errors
    /// The process has ended.
    pub fn call(&self, number: i64, arguments: [u64; 6]) -> Result<i64> {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        ptrace::setregs(
            self.pid,
            libc::user_regs_struct {
                // Not the one that was interrupted, which the kernel would begin again.
                orig_rax: u64::MAX,
                rax: number.cast_unsigned(),
                rip: self.registers.rip - SYSCALL.len() as u64,
                rdi,
                rsi,
                rdx,
                r10,
                r8,
                r9,
                ..self.registers
            },
        )?;
        ptrace::step(self.pid, None)?;
        let status = waitpid(self.pid, None)?;
        ensure!(
            matches!(status, WaitStatus::Stopped(..)),
            "the process: {status:?}"
        );
        Ok(ptrace::getregs(self.pid)?.rax.cast_signed())
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // The process may be gone.
        let _ = ptrace::setregs(self.pid, self.registers);
        let _ = ptrace::detach(self.pid, None);
    }
}
