// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is left to somebody who has broken into the daemon.

use std::fs;

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result};

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {field}"))?.trim().to_owned())
}

pub(super) fn every_thread_is_without_privileges_and_filtered(cx: &mut Cx) -> Result<()> {
    // With a guest, whose threads have started.
    cx.daemon()?;
    let _guest = cx.usual_guest()?;
    let pid = cx.daemon()?.process().pid();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread: u32 = task?.file_name().to_string_lossy().parse()?;
        for (field, wanted) in [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("CapEff", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
        ] {
            let is = status(thread, field)?;
            ensure!(is == wanted, "thread {thread}: {field} is {is}, not {wanted}");
        }
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn nothing_of_the_host_is_within_reach(_cx: &mut Cx) -> Result<()> {
    super::context::skip("system calls are injected on x86-64 only")
}

#[cfg(target_arch = "x86_64")]
pub(super) fn nothing_of_the_host_is_within_reach(cx: &mut Cx) -> Result<()> {
    let pid = cx.daemon()?.process().pid();
    // It listens before it is confined, and serves afterwards.
    cx.still_serves()?;
    {
        let inside = crate::inject::Injector::attach(pid)?;
        let same = inside.call(libc::SYS_getpid, [0; 6])?;
        ensure!(same == i64::from(pid), "getpid gives {same}, not {pid}");
        refuses(&inside)?;
    }
    cx.still_serves()
}

/// Tries what breaks out.
#[cfg(target_arch = "x86_64")]
fn refuses(inside: &crate::inject::Injector) -> Result<()> {
    let here = i64::from(libc::AT_FDCWD).cast_unsigned();
    let refused = |what: &str, number: i64, arguments: [u64; 6]| -> Result<()> {
        let result = inside.call(number, arguments)?;
        ensure!(result < 0, "{what} gives {result}");
        Ok(())
    };
    let stream = libc::SOCK_STREAM as u64;
    for path in ["/etc/passwd", "/proc/self/mem", "/dev/mem", "../../etc/passwd"] {
        let at = inside.put(&[path.as_bytes(), &[0]].concat())?;
        refused(path, libc::SYS_openat, [here, at, libc::O_RDONLY as u64, 0, 0, 0])?;
        refused(path, libc::SYS_open, [at, libc::O_RDWR as u64, 0, 0, 0, 0])?;
    }
    let at = inside.put(b"/tmp/made\0")?;
    let create = (libc::O_CREAT | libc::O_WRONLY) as u64;
    refused("a new file", libc::SYS_openat, [here, at, create, 0o600, 0, 0])?;
    refused("a new folder", libc::SYS_mkdir, [at, 0o700, 0, 0, 0, 0])?;
    let at = inside.put(b"/bin/sh\0")?;
    refused("execve", libc::SYS_execve, [at, 0, 0, 0, 0, 0])?;
    refused("fork", libc::SYS_fork, [0; 6])?;
    refused("clone", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0])?;
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET] {
        let what = format!("a socket of family {family}");
        refused(&what, libc::SYS_socket, [family as u64, stream, 0, 0, 0, 0])?;
    }
    refused(
        "ptrace",
        libc::SYS_ptrace,
        [libc::PTRACE_ATTACH.into(), 1, 0, 0, 0, 0],
    )?;
    refused("kill", libc::SYS_kill, [1, libc::SIGCONT as u64, 0, 0, 0, 0])?;
    refused("mount", libc::SYS_mount, [0; 6])?;
    refused("setns", libc::SYS_setns, [0; 6])?;
    refused(
        "unshare",
        libc::SYS_unshare,
        [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0],
    )?;
    let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    refused(
        "memory for code",
        libc::SYS_mmap,
        [0, 4096, code, anonymous, u64::MAX, 0],
    )
}
