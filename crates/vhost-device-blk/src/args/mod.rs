// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-blk`: which disks there are (`disks`), and how each is served (`options`).

mod disks;
mod options;
mod value;

use vu_common::CommonArgs;

use self::disks::Disks;
pub use self::disks::{DiskArgs, Source};
pub use self::options::{CacheMode, Cpus, DiskOptions, Format};

/// Serves virtio block devices to virtual machines over vhost-user.
///
/// Each disk goes to the socket that stands at the same place in the order of --socket-path. A disk is named by
/// one of --blk-file, --memory, --null and --nbd, or with options of its own by --disk. The other options
/// hold for all disks.
#[derive(Debug, clap::Parser)]
#[command(name = "vhost-device-blk", version)]
pub struct BlkArgs {
    /// The options that every device has.
    #[command(flatten)]
    pub common: CommonArgs,

    #[command(flatten)]
    disks: Disks,

    /// What holds for all disks.
    #[command(flatten)]
    options: DiskOptions,
}

/// There is nothing to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no disk: name one by --blk-file PATH, --nbd URI, --memory SIZE or --disk KEY=VALUE,...")]
pub struct NoDisk;

impl BlkArgs {
    /// The disks in the order of their sockets, each with all its options.
    ///
    /// # Errors
    /// There is none.
    pub fn disks(&self) -> Result<Vec<DiskArgs>, NoDisk> {
        let disks: Vec<_> = self.disks.with_defaults(&self.options).collect();
        if disks.is_empty() { Err(NoDisk) } else { Ok(disks) }
    }
}

impl AsRef<CommonArgs> for BlkArgs {
    fn as_ref(&self) -> &CommonArgs {
        &self.common
    }
}
