// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a disk is served: the same options for all disks, and within `--disk` for one.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use vu_storage::file::Aio;

use super::value;

const STORAGE: &str = "Options of the storage";
const DEVICE: &str = "Options of the device";

/// Options of one disk. `None` is the default, which the help tells.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct DiskOptions {
    /// Format of the file [default: raw]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = STORAGE)]
    pub format: Option<Format>,

    /// Read what a qcow2 image does not have from the file at PATH
    ///
    /// What the image itself says about a backing file is not followed, since a guest could have written it.
    #[arg(long, value_name = "PATH", help_heading = STORAGE)]
    pub backing_file: Option<PathBuf>,

    /// Format of the backing file [default: raw]
    #[arg(long, value_enum, value_name = "FORMAT", hide_possible_values = true, help_heading = STORAGE)]
    pub backing_format: Option<Format>,

    /// Refuse writes, and open the file for reading only
    #[arg(short, long, visible_alias = "readonly", value_name = "on|off", value_parser = value::switch)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "on", help_heading = STORAGE)]
    pub read_only: Option<bool>,

    /// When writes become durable [default: writeback]
    #[arg(long, value_enum, value_name = "MODE", help_heading = STORAGE)]
    pub cache: Option<CacheMode>,

    /// Bypass the page cache of the host (O_DIRECT)
    #[arg(long, value_name = "on|off", value_parser = value::switch)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "on", help_heading = STORAGE)]
    pub direct: Option<bool>,

    /// How requests to a file are carried out: auto, io-uring, inline or threads [default: auto]
    ///
    /// `auto` finds out which suits the file: `io_uring` for file systems and block devices that can say "not
    /// now", `inline` for what is memory (tmpfs, zram, DAX), `threads` for all else.
    #[arg(long, value_name = "ENGINE", help_heading = STORAGE)]
    pub aio: Option<Aio>,

    /// Give discarded blocks back to the host [default: on]
    #[arg(long, value_name = "on|off", value_parser = value::switch, help_heading = STORAGE)]
    pub discard: Option<bool>,

    /// Lock the image as QEMU does, so that nobody else writes to it [default: on]
    #[arg(long, value_name = "on|off", value_parser = value::switch, help_heading = STORAGE)]
    pub lock: Option<bool>,

    /// Bytes of a logical block [default: what the storage says, 512 for regular files]
    #[arg(long, value_name = "SIZE", value_parser = value::block_size, help_heading = STORAGE)]
    pub block_size: Option<u32>,

    /// Most connections to an NBD server that allows several [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..), help_heading = STORAGE)]
    pub nbd_connections: Option<u8>,

    /// After how many seconds without an NBD server requests fail [default: never, they wait]
    #[arg(long, value_name = "SECONDS", value_parser = value::seconds, help_heading = STORAGE)]
    pub nbd_timeout: Option<Duration>,

    /// Serial number that the guest sees, at most 20 bytes [default: none]
    #[arg(long, value_name = "TEXT", value_parser = value::serial, help_heading = DEVICE)]
    pub serial: Option<String>,

    /// Virtqueues that a front end may use [default: 64]
    ///
    /// One that is not used costs nothing. QEMU uses as many as its own `num-queues` says, at most these.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = DEVICE)]
    pub num_queues: Option<u16>,

    /// Largest virtqueue that a front end may ask for, a power of two [default: 1024]
    #[arg(long, value_name = "N", value_parser = vu_common::queue_size, help_heading = DEVICE)]
    pub queue_size: Option<u16>,

    /// Threads; virtqueue Q is served by thread Q modulo N [default: one per virtqueue or CPU]
    ///
    /// A thread starts when the first of its virtqueues does. The default is the number of virtqueues or that
    /// of CPUs (those of --cpus, if given), whichever is less.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = DEVICE)]
    pub threads: Option<u16>,

    /// Bind the threads to these CPUs in turns, as 0,2-3 [default: the host decides]
    #[arg(long, value_name = "LIST", help_heading = DEVICE)]
    pub cpus: Option<Cpus>,

    /// Longest time in microseconds that a thread polls before it sleeps [default: 50]
    ///
    /// It adapts below this bound, to nothing when the guest is idle or others want the CPU. 0 never polls.
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(..=1_000_000), help_heading = DEVICE)]
    pub poll_max_us: Option<u32>,

    /// Most requests per second [default: no limit]
    #[arg(long, value_name = "N", help_heading = DEVICE)]
    pub rate_iops: Option<NonZeroU64>,

    /// Most bytes per second, as 512K, 64M or 1G [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = value::rate, help_heading = DEVICE)]
    pub rate_bps: Option<NonZeroU64>,

    /// For how many seconds' worth a disk that was idle may exceed its rates [default: 0.1]
    #[arg(long, value_name = "SECONDS", value_parser = value::seconds, help_heading = DEVICE)]
    pub rate_burst: Option<Duration>,
}

impl DiskOptions {
    /// These options, and where one is not given that of `defaults`.
    pub(super) fn or(self, defaults: &Self) -> Self {
        Self {
            format: self.format.or(defaults.format),
            backing_file: self.backing_file.or_else(|| defaults.backing_file.clone()),
            backing_format: self.backing_format.or(defaults.backing_format),
            read_only: self.read_only.or(defaults.read_only),
            cache: self.cache.or(defaults.cache),
            direct: self.direct.or(defaults.direct),
            aio: self.aio.or(defaults.aio),
            discard: self.discard.or(defaults.discard),
            lock: self.lock.or(defaults.lock),
            block_size: self.block_size.or(defaults.block_size),
            nbd_connections: self.nbd_connections.or(defaults.nbd_connections),
            nbd_timeout: self.nbd_timeout.or(defaults.nbd_timeout),
            serial: self.serial.or_else(|| defaults.serial.clone()),
            num_queues: self.num_queues.or(defaults.num_queues),
            queue_size: self.queue_size.or(defaults.queue_size),
            threads: self.threads.or(defaults.threads),
            cpus: self.cpus.or_else(|| defaults.cpus.clone()),
            poll_max_us: self.poll_max_us.or(defaults.poll_max_us),
            rate_iops: self.rate_iops.or(defaults.rate_iops),
            rate_bps: self.rate_bps.or(defaults.rate_bps),
            rate_burst: self.rate_burst.or(defaults.rate_burst),
        }
    }
}

/// How the bytes of a file make a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// They are the bytes of the disk.
    #[default]
    Raw,
    /// They are an image that grows as it is written.
    Qcow2,
}

/// When writes become durable, and whether the host caches them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheMode {
    /// When the guest flushes; it may switch to writethrough.
    #[default]
    Writeback,
    /// Before they complete; the guest may switch to writeback.
    Writethrough,
    /// As writeback, bypassing the page cache of the host (--direct).
    None,
    /// Never for certain: the guest is offered no flush, and a crash of the host destroys the disk.
    Unsafe,
}

/// A list of processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus(pub Vec<usize>);

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        value::cpus(text).map(Self)
    }
}
