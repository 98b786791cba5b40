// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! I/O from and to all over the guest's memory, including what was plugged in while it runs.

use super::direct::Aligned;
use super::{Disk, PROBE, pattern};
use crate::task::Options;
use anyhow::{Context, anyhow, ensure};
use serde_json::{Value, json};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The kernel's blocks of memory.
const BLOCKS: &str = "/sys/devices/system/memory";
/// Bytes of one request.
const PIECE: usize = 1 << 20;

/// Takes into use what was plugged in until the machine has `total=BYTES` (0), and then writes from `bytes=N` (64 MiB) of
/// memory and reads back into it, piece by piece: more than the kernel has free elsewhere reaches what is new.
pub(super) fn use_all(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let online = set_online(options.get("total", 0)?)?;
    let mut buffer = Aligned::new(options.get("bytes", 64 << 20)?);
    // All pages at once, so that no piece gets those of another.
    for (piece, sequence) in buffer.bytes().chunks_exact_mut(PIECE).zip(1..) {
        pattern::fill(piece, 0, sequence);
    }
    let file = disk.open(true)?;
    for (piece, sequence) in buffer.bytes().chunks_exact_mut(PIECE).zip(1..) {
        file.write_all_at(piece, 0)
            .with_context(|| format!("write of piece {sequence}"))?;
        piece.fill(0);
        file.read_exact_at(piece, 0)
            .with_context(|| format!("read of piece {sequence}"))?;
        pattern::check(piece, 0, sequence).map_err(|error| anyhow!("piece {sequence}: {error}"))?;
    }
    Ok(json!({ "online": online, "bytes": buffer.bytes().len() }))
}

/// Waits until `total` bytes are in use; what the kernel does not take into use by itself is.
fn set_online(total: u64) -> anyhow::Result<u64> {
    let path = format!("{BLOCKS}/block_size_bytes");
    let size = std::fs::read_to_string(&path).context(path)?;
    let size = u64::from_str_radix(size.trim(), 16)?;
    let end = Instant::now() + PROBE;
    loop {
        for state in blocks("offline")? {
            std::fs::write(&state, "online").with_context(|| state.display().to_string())?;
        }
        let online = size * blocks("online")?.len() as u64;
        if online >= total {
            return Ok(online);
        }
        ensure!(
            Instant::now() < end,
            "{online} bytes after {} s, not {total}",
            PROBE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The `state` of each block of memory that is in it.
fn blocks(state: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(BLOCKS).context(BLOCKS)?;
    let states = entries.flatten().map(|entry| entry.path().join("state"));
    let is_in = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == state);
    Ok(states.filter(is_in).collect())
}
