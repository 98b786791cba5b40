// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host side: which storage engine stands behind a disk, and how it is opened.

use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_getaffinity};
use vu_storage::{Disk, file, memory, nbd, null, qcow2};

use crate::args::{CacheMode, DiskArgs, DiskOptions, Format, Source};
use crate::bucket::Rate;
use crate::config::{Cache, Config};
use crate::device::{Blk, Service};
use crate::spec::{ID_LEN, SECTOR};

/// Virtqueues to offer.
const QUEUES: u16 = 64;
/// Largest virtqueue to offer.
const QUEUE_SIZE: u16 = 1024;
/// Longest time to poll.
const POLL: Duration = Duration::from_micros(50);
/// Seconds' worth of requests that may come at once.
const BURST: Duration = Duration::from_millis(100);

/// Opens a disk and makes a device of it.
///
/// # Errors
/// What the host refused, with the path; or options that do not go together.
pub fn open(args: &DiskArgs) -> anyhow::Result<Blk> {
    let options = &args.options;
    let disk = storage(args)?;
    let mut limits = disk.limits();
    limits.read_only |= options.read_only.unwrap_or(false);
    limits.discard = limits.discard.filter(|_| options.discard.unwrap_or(true));
    let config = Config {
        limits,
        cache: match options.cache.unwrap_or_default() {
            CacheMode::Writeback | CacheMode::None => Cache::Writeback,
            CacheMode::Writethrough => Cache::Writethrough,
            CacheMode::Unsafe => Cache::Unsafe,
        },
        queues: options.num_queues.unwrap_or(QUEUES),
        queue_size: options.queue_size.unwrap_or(QUEUE_SIZE),
        lifetime: disk.lifetime().is_some(),
    };
    let service = service(args, config.queues)?;
    Ok(Blk::new(disk, config, service))
}

/// Opens the storage.
fn storage(args: &DiskArgs) -> anyhow::Result<Arc<dyn Disk>> {
    let options = &args.options;
    let block = options.block_size.unwrap_or(SECTOR as u32);
    let whole = |size: u64| {
        let whole = size - size % u64::from(block);
        ensure!(whole > 0, "{size} bytes are less than a block of {block}");
        Ok(whole)
    };
    Ok(match &args.source {
        Source::File(path) => open_file(path, options)?,
        Source::Nbd(uri) => {
            let usual = nbd::Options::new(uri.clone());
            nbd::open(&nbd::Options {
                connections: options.nbd_connections.map_or(usual.connections, usize::from),
                read_only: options.read_only.unwrap_or(false),
                reconnect: options.nbd_timeout,
                block_size: options.block_size,
                ..usual
            })?
        }
        Source::Memory(size) => {
            let disk = memory::open(whole(*size)?, block);
            disk.with_context(|| format!("cannot have {size} bytes of memory"))?
        }
        Source::Null(size) => null::open(whole(*size)?, block),
    })
}

fn open_file(path: &Path, options: &DiskOptions) -> anyhow::Result<Arc<dyn Disk>> {
    let (direct, cache) = (options.direct, options.cache.unwrap_or_default());
    let file = file::Options {
        path: path.to_owned(),
        read_only: options.read_only.unwrap_or(false),
        direct: direct.unwrap_or(cache == CacheMode::None),
        aio: options.aio.unwrap_or_default(),
        lock: options.lock.unwrap_or(true),
        block_size: options.block_size,
        discard: options.discard.unwrap_or(true),
    };
    let backing_file = options.backing_file.clone();
    match options.format.unwrap_or_default() {
        Format::Raw => {
            ensure!(
                backing_file.is_none(),
                "{}: a raw disk has no backing file; is --format qcow2 missing?",
                path.display()
            );
            Ok(file::open(&file)?)
        }
        Format::Qcow2 => Ok(qcow2::open(&qcow2::Options {
            file,
            backing_file,
            backing_format: match options.backing_format.unwrap_or_default() {
                Format::Raw => qcow2::BackingFormat::Raw,
                Format::Qcow2 => qcow2::BackingFormat::Qcow2,
            },
        })?),
    }
}

fn service(args: &DiskArgs, queues: u16) -> anyhow::Result<Service> {
    let options = &args.options;
    let cpus = cpus(options)?;
    let processors = match cpus.len() {
        0 => available_parallelism().map_or(1, usize::from),
        named => named,
    };
    let processors = u16::try_from(processors).unwrap_or(u16::MAX);
    let mut serial = [0; ID_LEN];
    let text = options.serial.as_deref().unwrap_or_default();
    for (byte, character) in serial.iter_mut().zip(text.bytes()) {
        *byte = character;
    }
    Ok(Service {
        name: args.source.to_string(),
        serial,
        threads: options.threads.unwrap_or(processors).min(queues),
        cpus,
        poll: options
            .poll_max_us
            .map_or(POLL, |us| Duration::from_micros(us.into())),
        rate: Rate {
            iops: options.rate_iops,
            bps: options.rate_bps,
            burst: options.rate_burst.unwrap_or(BURST),
        },
    })
}

/// The processors of `--cpus`, all of which this process may use.
fn cpus(options: &DiskOptions) -> anyhow::Result<Vec<usize>> {
    let Some(cpus) = &options.cpus else {
        return Ok(Vec::new());
    };
    let allowed = sched_getaffinity(None).context("cannot tell the CPUs of this process")?;
    for cpu in &cpus.0 {
        let list = || {
            (0..CpuSet::MAX_CPU)
                .filter(|cpu| allowed.is_set(*cpu))
                .map(|cpu| cpu.to_string())
        };
        ensure!(
            allowed.is_set(*cpu),
            "CPU {cpu}: not one of those that this process may use ({})",
            list().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(cpus.0.clone())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use vu_common::Device;

    use super::open;
    use crate::BlkArgs;
    use crate::device::Blk;
    use crate::spec::feature;

    fn opened(options: &[&str]) -> anyhow::Result<Blk> {
        let args = BlkArgs::parse_from(["vhost-device-blk"].iter().chain(options));
        open(&args.disks()?[0])
    }

    fn error(options: &[&str]) -> String {
        opened(options)
            .err()
            .map_or_else(String::new, |e| format!("{e:#}"))
    }

    fn sectors(blk: &Blk) -> u64 {
        let mut bytes = [0; 8];
        blk.read_config(0, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn a_disk_is_what_the_options_make_of_it() {
        let features = |options: &[&str]| opened(options).unwrap().spec().features;
        let plain = features(&["--memory=1M"]);
        assert_ne!(plain & feature::DISCARD, 0);
        assert_eq!(plain & feature::RO, 0);
        let read_only = features(&["--memory=1M", "--read-only"]);
        assert_ne!(read_only & feature::RO, 0);
        assert_eq!(read_only & (feature::DISCARD | feature::WRITE_ZEROES), 0);
        assert_eq!(features(&["--memory=1M", "--discard=off"]) & feature::DISCARD, 0);
        assert_eq!(features(&["--memory=1M", "--cache=unsafe"]) & feature::FLUSH, 0);
    }

    #[test]
    fn a_capacity_is_whole_blocks() {
        assert_eq!(sectors(&opened(&["--null=1M"]).unwrap()), 2048);
        assert_eq!(sectors(&opened(&["--null=5000"]).unwrap()), 9);
        assert_eq!(
            sectors(&opened(&["--memory=9000", "--block-size=4K"]).unwrap()),
            16
        );
        assert!(error(&["--memory=600", "--block-size=4K"]).contains("less than a block of 4096"));
    }

    #[test]
    fn threads_are_no_more_than_virtqueues_and_follow_the_cpus() {
        let threads = |options: &[&str]| {
            let options = [&["--null=1M"], options].concat();
            opened(&options).unwrap().spec().threads
        };
        assert_eq!(threads(&["--threads=8", "--num-queues=2"]), 2);
        assert_eq!(threads(&["--threads=8"]), 8);
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..1024).find(|cpu| allowed.is_set(*cpu)).unwrap().to_string();
        assert_eq!(threads(&["--cpus", &cpu]), 1);
        let other = (0..1024).find(|cpu| !allowed.is_set(*cpu)).unwrap().to_string();
        assert!(error(&["--null=1M", "--cpus", &other]).contains(&format!("CPU {other}: not one of")));
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        assert!(error(&["--blk-file=/nonexistent"]).contains("/nonexistent: "));
        assert!(error(&["--blk-file=/"]).contains("/: neither a regular file"));
        let backing = ["--blk-file=/nonexistent", "--backing-file=/x"];
        assert!(error(&backing).contains("--format qcow2"), "{}", error(&backing));
    }
}
