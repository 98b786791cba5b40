// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `/proc` tells about a daemon: memory, descriptors, CPU time.

use std::fs;
use std::io;
use std::time::Duration;

/// The memory of the process itself in bytes: anonymous and file pages, without the guest's shared memory, which
/// the kernel counts as `RssShmem` in every process that touches it.
///
/// # Errors
/// When the process is gone.
pub fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next())
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    Ok((field("RssAnon:") + field("RssFile:")) * 1024)
}

/// Number of open file descriptors.
///
/// # Errors
/// When the process is gone or belongs to somebody else.
pub fn open_fds(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// CPU time used so far, user and system, in clock ticks.
///
/// # Errors
/// When the process is gone.
pub fn cpu_ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = |at: usize| {
        after_name
            .split(' ')
            .nth(at)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Ok(ticks(11) + ticks(12)) // utime and stime are fields 14 and 15, the name is field 2
}

/// CPU time used so far by all threads: from the scheduler's own counters (nanosecond resolution), or in clock ticks from
/// a kernel that has none.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = match fs::read_to_string(task?.path().join("schedstat")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let per_second = rustix::param::clock_ticks_per_second();
                return Ok(Duration::from_micros(cpu_ticks(pid)? * 1_000_000 / per_second));
            }
            text => text?,
        };
        total += text
            .split(' ')
            .next()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// Whether the process runs (a zombie does not).
#[must_use]
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

#[cfg(test)]
mod tests {
    use super::{alive, cpu_ticks, cpu_time, open_fds, resident};

    #[test]
    fn this_process_has_memory_descriptors_and_time() {
        let pid = std::process::id();
        assert!(alive(pid) && resident(pid).unwrap() > 100_000);
        let before = open_fds(pid).unwrap();
        let held: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        assert!(open_fds(pid).unwrap() >= before.saturating_sub(40) + held.len() - 10);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while cpu_ticks(pid).unwrap() < 3 && std::time::Instant::now() < end {}
        assert!(cpu_ticks(pid).unwrap() >= 3 && cpu_time(pid).unwrap() > std::time::Duration::ZERO);
    }
}
