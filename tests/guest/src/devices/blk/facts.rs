// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel knows of a disk.

use super::{Disk, PROBE};
use crate::task::Options;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Numbers of the disk's request queue that are shown.
const LIMITS: &[&str] = &[
    "discard_granularity",
    "discard_max_bytes",
    "logical_block_size",
    "max_discard_segments",
    "max_segments",
    "minimum_io_size",
    "optimal_io_size",
    "physical_block_size",
    "rotational",
    "write_zeroes_max_bytes",
];

/// Shows them. `size=BYTES` waits until it has that size.
pub(super) fn show(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let wanted: u64 = options.get("size", disk.size()?)?;
    let end = Instant::now() + PROBE;
    while disk.size()? != wanted {
        ensure!(
            Instant::now() < end,
            "size: {} after {} s, not {wanted}",
            disk.size()?,
            PROBE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut facts = json!({
        "size": disk.size()?,
        "read_only": disk.read_number("ro")? != 0,
        "serial": disk.read_attribute("serial")?,
        "cache": disk.read_attribute("cache_type")?,
        "queues": queues(&disk)?,
        "features": features(&disk)?,
        "driver": driver(&disk)?,
    });
    for name in LIMITS {
        facts[*name] = disk.read_number(&format!("queue/{name}"))?.into();
    }
    Ok(facts)
}

/// Switches between `type=write back` and `type=write through`.
pub(super) fn set_cache(options: &Options) -> anyhow::Result<Value> {
    let disk = Disk::find(options)?;
    let kind: String = options.get("type", String::new())?;
    std::fs::write(disk.attribute("cache_type"), &kind).with_context(|| format!("cache_type: {kind}"))?;
    Ok(json!({ "cache": disk.read_attribute("cache_type")? }))
}

/// How many queues the block layer has.
fn queues(disk: &Disk) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(disk.attribute("mq"))?.count())
}

/// The numbers of the virtio features that the driver has accepted.
fn features(disk: &Disk) -> anyhow::Result<Vec<usize>> {
    let bits = disk.read_attribute("device/features")?;
    let set = bits.char_indices().filter(|(_, bit)| *bit == '1');
    Ok(set.map(|(number, _)| number).collect())
}

/// The bus below the virtio device: `virtio-pci`, `virtio-mmio` or `virtio-uml`.
fn driver(disk: &Disk) -> anyhow::Result<String> {
    let link =
        std::fs::read_link(disk.attribute("device/../driver")).context("the driver of the transport")?;
    Ok(link
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned())
}
