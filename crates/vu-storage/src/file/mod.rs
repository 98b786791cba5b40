// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Raw files and block devices, each by the fastest way that its host knows.
//!
//! | engine | for | why |
//! |---|---|---|
//! | `io_uring` | what can say "not now" (`RWF_NOWAIT`): ext4, XFS, btrfs, most block devices | one system call for a batch; what is cached is done within it |
//! | inline | what is memory: tmpfs, ramfs, zram, DAX | never waits, so any hand-over costs more than the work; `io_uring` hands each request to a kernel thread there |
//! | threads | all else (FUSE, NFS), and where `io_uring` is forbidden | somebody has to wait |
//!
//! [`open`] finds out which one suits, and logs it. Guest memory is never registered with `io_uring` as
//! fixed buffers: that gains at most 13 %, pins all of it, and once the virtual machine monitor punches a
//! hole into it (balloon, free page reporting, `virtio-mem`, postcopy), reads go to pages that the guest no
//! longer sees, and succeed.
//!
//! A file that is cut off underneath gives errors to reads beyond its new end, and grows back, sparse, by writes.

mod inline;
mod limits;
mod lock;
mod pool;
mod probe;
mod raw;
mod sys;
mod sysfs;
mod uring;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vu_common::{Access, Needs};

use self::inline::Inline;
use self::limits::Facts;
use self::pool::{Pool, Threads};
use self::probe::Kind;
use self::raw::RawFile;
use self::uring::Uring;
use crate::{Disk, Engine, Lifetime, Limits};

/// How a file is opened and used.
#[derive(Clone, Debug)]
pub struct Options {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// Opens it for reading only.
    pub read_only: bool,
    /// Bypasses the page cache of the host (`O_DIRECT`).
    pub direct: bool,
    /// Which engine.
    pub aio: Aio,
    /// Locks the image as QEMU does, so that nobody else writes to it.
    pub lock: bool,
    /// Logical block size in bytes; `None` is what the storage says, and 512 for regular files.
    pub block_size: Option<u32>,
    /// Whether discarded blocks are given back to the host.
    pub discard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            read_only: false,
            direct: false,
            aio: Aio::Auto,
            lock: true,
            block_size: None,
            discard: true,
        }
    }
}

/// How requests are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aio {
    /// What suits the file; see the module.
    #[default]
    Auto,
    /// `io_uring`, one ring per thread.
    IoUring,
    /// At once, on the thread that submits.
    Inline,
    /// A bounded pool of threads.
    Threads,
}

impl Aio {
    /// All of them with their names.
    pub const NAMES: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("io-uring", Self::IoUring),
        ("inline", Self::Inline),
        ("threads", Self::Threads),
    ];
}

/// A name that no engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of auto, io-uring, inline, threads")]
pub struct UnknownAio;

impl FromStr for Aio {
    type Err = UnknownAio;

    fn from_str(name: &str) -> Result<Self, UnknownAio> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|&(_, aio)| aio).ok_or(UnknownAio)
    }
}

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host refused something.
    #[error("{}: {what}: {source}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A directory, a FIFO and the like.
    #[error("{}: neither a regular file nor a block device", .0.display())]
    NotADisk(PathBuf),
    /// Somebody else has it open in a way that does not go together with ours.
    #[error("{}: in use by another process (--lock off to override)", .0.display())]
    InUse(PathBuf),
    /// A block size that is no power of two, or too small or too large for the file.
    #[error("{}: block size {size}: must be a power of two from {least} to {most}", path.display())]
    BlockSize {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        size: u32,
        /// Smallest that can be had.
        least: u32,
        /// Largest that can be had.
        most: u32,
    },
    /// `O_DIRECT` on a file system that does not have it.
    #[error("{}: its file system cannot bypass the page cache (O_DIRECT)", .0.display())]
    NoDirect(PathBuf),
}

/// Opens a regular file or a block device as a disk, and finds out how to use it best.
///
/// # Errors
/// See [`OpenError`]; each names the path.
pub fn open(options: &Options) -> Result<Arc<dyn Disk>, OpenError> {
    let path = &options.path;
    let file = open_file(options)?;
    if options.lock {
        lock::lock(&file, path, options.read_only)?;
    }
    let facts = Facts::of(&file, path, options)?;
    let choice = probe::choose(options.aio, &facts).map_err(|source| host(path, "io_uring", source))?;
    log::info!("{}: {choice}", path.display());
    disk(file, path, facts, choice.engine).map_err(|source| host(path, "cannot tell its size", source))
}

/// A disk of an anonymous file in memory.
pub(crate) fn memory(file: File, logical_block: u32) -> io::Result<Arc<dyn Disk>> {
    let options = Options {
        path: "memory".into(),
        block_size: Some(logical_block),
        ..Options::default()
    };
    let facts = Facts::of(&file, &options.path, &options).map_err(io::Error::other)?;
    disk(file, &options.path, facts, Kind::Inline)
}

/// Opens the file itself; nothing but a regular file or a block device, so that it cannot wait.
fn open_file(options: &Options) -> Result<File, OpenError> {
    let path = &options.path;
    let failed = |source| host(path, "cannot open", source);
    let check = |kind: std::fs::FileType| {
        if kind.is_file() || kind.is_block_device() {
            Ok(())
        } else {
            Err(OpenError::NotADisk(path.clone()))
        }
    };
    check(path.metadata().map_err(failed)?.file_type())?;
    let file = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(if options.direct { libc::O_DIRECT } else { 0 })
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) if options.direct => OpenError::NoDirect(path.clone()),
            _ => failed(error),
        })?;
    check(file.metadata().map_err(failed)?.file_type())?;
    // When a guest reads its disk need not be known; only the owner of a file may say so.
    let _ = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::NOATIME));
    Ok(file)
}

fn host(path: &Path, what: &'static str, source: io::Error) -> OpenError {
    OpenError::Host {
        path: path.into(),
        what,
        source,
    }
}

struct RawDisk {
    raw: Arc<RawFile>,
    pool: Arc<Pool>,
    engine: Kind,
    sysfs: Option<sysfs::Device>,
}

fn disk(file: File, path: &Path, facts: Facts, engine: Kind) -> io::Result<Arc<dyn Disk>> {
    let raw = Arc::new(RawFile::new(file, path, &facts, engine));
    raw.measure()?;
    Needs::default()
        .system_calls(sys::CALLS)
        .ioctls(sys::IOCTLS)
        .declare();
    if facts
        .sysfs
        .as_ref()
        .is_some_and(|device| device.lifetime().is_some())
    {
        // It is asked for again whenever the guest does.
        Needs::default().path("/sys", Access::Read).declare();
    }
    if engine == Kind::IoUring {
        Needs::default().system_calls(sys::IO_URING).declare();
    }
    Ok(Arc::new(RawDisk {
        pool: Arc::new(Pool::new(raw.clone())),
        raw,
        engine,
        sysfs: facts.sysfs,
    }))
}

impl Disk for RawDisk {
    fn limits(&self) -> Limits {
        self.raw.limits.clone()
    }

    fn capacity(&self) -> u64 {
        self.raw.capacity.load(Ordering::Relaxed)
    }

    fn refresh(&self) -> io::Result<u64> {
        self.raw.measure()
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        self.raw.grow(bytes)
    }

    fn lifetime(&self) -> Option<Lifetime> {
        self.sysfs.as_ref()?.lifetime()
    }

    fn engine(&self, depth: usize) -> io::Result<Box<dyn Engine>> {
        let (raw, pool) = (self.raw.clone(), self.pool.clone());
        Ok(match self.engine {
            Kind::IoUring => match Uring::new(raw, pool.clone(), depth) {
                Ok(engine) => Box::new(engine),
                // A user may lock so much memory and no more, for all rings of all processes.
                Err(error) => {
                    log::warn!(
                        "{}: no further io_uring, going on with threads: {error}",
                        self.raw.path.display()
                    );
                    Box::new(Threads::new(pool, depth)?)
                }
            },
            Kind::Inline => Box::new(Inline::new(raw, depth)),
            Kind::Threads => Box::new(Threads::new(pool, depth)?),
        })
    }
}
