// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Images in qcow2 format: mappings by the `imago` crate, data by the engine of the file.
//!
//! ```text
//! Engine (one per thread) --- map: guest offset -> place in a file ---> Engine of the file ---> guest memory
//!    | not in the map, to be allocated, compressed                            (crate::file)
//!    v                                                                                ^
//! metadata thread (one per disk): imago, the tables; answers by eventfd; writes new clusters
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `header` | what is checked before an image is believed |
//! | `map` | the cache of places, read by all engines without a lock |
//! | `gate` | waits until nobody uses a cluster that is to be freed |
//! | `engine` | the data path |
//! | `meta` | the metadata thread |
//! | `storage` | how tables reach the file, in an order that survives a crash |
//!
//! An image cannot choose files of the host: a backing file that it names is used only if an option names one.
//! After a crash at any moment, clusters may be allocated that nobody uses (`qemu-img check` finds them), and
//! nothing else is wrong. What has completed survives the end of this process, flushed or not: a change of the
//! tables is answered when they have been flushed, for as many changes together as have come. The size is fixed while the image is open: it is locked, so nobody can change it.
//!
//! Not supported: encryption, external data files, extended L2 entries, zstd, and writing to images with
//! internal snapshots; qemu-storage-daemon serves those over NBD.

mod engine;
mod gate;
mod header;
mod map;
mod meta;
mod slab;
mod storage;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;

use self::engine::Qcow2Engine;
use self::gate::Gate;
use self::header::Header;
pub use self::header::Problem;
use self::map::{Map, Source};
use self::meta::{Job, Meta, Shared};
use self::storage::Storage;
use crate::{Disk, Engine, Limits, Range, file};

/// Longest range of a discard or of zeroes, in clusters and in bytes: some milliseconds of changes to tables.
const LONGEST_CLUSTERS: u64 = 16384;
const LONGEST: u64 = 1 << 30;

/// How an image is opened and used.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The image file.
    pub file: file::Options,
    /// The file that clusters are read from which the image does not have. Opened for reading only.
    pub backing_file: Option<PathBuf>,
    /// What [`backing_file`](Self::backing_file) is. Never guessed: a guest may have written what looks like
    /// an image to a raw file.
    pub backing_format: BackingFormat,
}

/// Format of a backing file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackingFormat {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// An image without a backing file of its own.
    Qcow2,
}

/// A name that no format has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of raw, qcow2")]
pub struct UnknownFormat;

impl FromStr for BackingFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(UnknownFormat),
        }
    }
}

/// Why an image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] file::OpenError),
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
    /// The image.
    #[error("{}: {problem}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// An image must not choose files of the host.
    #[error("{}: names the backing file `{}`, which is not opened by itself: name it with --backing-file", path.display(), name.escape_debug())]
    NeedsBacking {
        /// The image.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// Only one level of backing files.
    #[error("{}: has a backing file of its own, `{}`: chains are not supported here; serve the image with qemu-storage-daemon over NBD instead, or merge them with `qemu-img rebase`", path.display(), name.escape_debug())]
    Chain {
        /// The backing file.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// A backing file for an image that has none: its empty clusters are zeroes, not the file's.
    #[error("{}: has no backing file (--backing-file was given)", .0.display())]
    NoBacking(PathBuf),
    /// Clusters that cannot be read one by one.
    #[error("{}: its clusters of {cluster} bytes are smaller than a block of its file ({block} bytes)", path.display())]
    SmallClusters {
        /// The image.
        path: PathBuf,
        /// Bytes of a cluster.
        cluster: u64,
        /// Bytes of a block.
        block: u32,
    },
}

/// Opens an image as a disk.
///
/// # Errors
/// See [`OpenError`]; each names the path.
pub fn open(options: &Options) -> Result<Arc<dyn Disk>, OpenError> {
    let path = &options.file.path;
    // First the disk: it takes the lock.
    let disk = file::open(&options.file)?;
    let (file, header) = read_header(path, options.file.read_only)?;
    let backing = open_backing(options, &header)?;
    if !options.file.read_only {
        whole_clusters(&file, &header).map_err(host(path, "cannot extend to a whole cluster"))?;
        disk.refresh().map_err(host(path, "cannot tell its size"))?;
    }
    let mut limits = disk.limits();
    if let Some(backing) = &backing {
        limits.logical_block = limits.logical_block.max(backing.disk.limits().logical_block);
    }
    if header.cluster_size() < limits.logical_block.into() {
        return Err(OpenError::SmallClusters {
            path: path.clone(),
            cluster: header.cluster_size(),
            block: limits.logical_block,
        });
    }
    let limits = limits_of(&limits, options, &header, backing.is_some());
    let order = (!options.file.read_only).then_some(&header);
    let storage = Storage::new(file, path.clone(), Source::Image, order)
        .map_err(host(path, "cannot read its refcount table"))?;
    start(options, &header, storage, disk, backing, limits)
        .map(|disk| Arc::new(disk) as Arc<dyn Disk>)
        .map_err(host(path, "cannot open the image"))
}

/// A backing file, ready for both threads.
struct Backing {
    disk: Arc<dyn Disk>,
    layer: FormatAccess<Storage>,
}

fn open_backing(options: &Options, header: &Header) -> Result<Option<Backing>, OpenError> {
    let path = match (&options.backing_file, &header.backing) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(OpenError::NoBacking(options.file.path.clone())),
        (None, Some(name)) => {
            return Err(OpenError::NeedsBacking {
                path: options.file.path.clone(),
                name: name.clone(),
            });
        }
        (Some(path), Some(_)) => path,
    };
    let disk = file::open(&file::Options {
        path: path.clone(),
        read_only: true,
        ..options.file.clone()
    })?;
    let cannot = || host(path, "cannot open the backing file");
    let layer = if options.backing_format == BackingFormat::Qcow2 {
        let (file, header) = read_header(path, true)?;
        if let Some(name) = header.backing {
            return Err(OpenError::Chain {
                path: path.clone(),
                name,
            });
        }
        let storage = Storage::new(file, path.clone(), Source::Backing, None).map_err(cannot())?;
        FormatAccess::new(open_image(storage, false, None).map_err(cannot())?)
    } else {
        let file = File::open(path).map_err(cannot())?;
        let storage = Storage::new(file, path.clone(), Source::Backing, None).map_err(cannot())?;
        FormatAccess::new(Raw::open_image(storage, false).map_err(cannot())?)
    };
    Ok(Some(Backing { disk, layer }))
}

/// `imago`'s image, with nothing opened that we did not give it.
fn open_image(
    storage: Storage,
    writable: bool,
    backing: Option<FormatAccess<Storage>>,
) -> io::Result<Qcow2<Storage>> {
    let mut image = Qcow2::open_image(storage, writable)?;
    image.set_data_file(None);
    image.set_backing(backing);
    Ok(image)
}

/// Opens a file a second time, for its tables, and reads its header.
fn read_header(path: &Path, read_only: bool) -> Result<(File, Header), OpenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .map_err(host(path, "cannot open"))?;
    let mut start = vec![0; header::LENGTH];
    let mut len = 0;
    loop {
        let rest = start.get_mut(len..).unwrap_or_default();
        match file.read_at(rest, len as u64) {
            Ok(0) => break,
            Ok(moved) => len = len.saturating_add(moved),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(host(path, "cannot read its header")(error)),
        }
    }
    start.truncate(len);
    let file_len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0));
    let file_len = file_len.map_err(|error| host(path, "cannot tell its size")(error.into()))?;
    let header = Header::parse(&start, file_len);
    let header = header.and_then(|header| {
        if header.snapshots > 0 && !read_only {
            return Err(Problem::Unsupported(
                "writing to an image with internal snapshots",
            ));
        }
        Ok(header)
    });
    let header = header.map_err(|problem| OpenError::Image {
        path: path.into(),
        problem,
    })?;
    Ok((file, header))
}

/// The last cluster of the file may be cut off, but is written in place.
fn whole_clusters(file: &File, header: &Header) -> io::Result<()> {
    let metadata = file.metadata()?;
    let whole = metadata.len().next_multiple_of(header.cluster_size());
    if metadata.is_file() && metadata.len() < whole {
        file.set_len(whole)?;
    }
    Ok(())
}

fn limits_of(file: &Limits, options: &Options, header: &Header, has_backing: bool) -> Limits {
    let cluster = header.cluster_size();
    // Without a bit for zeroes, clearing a cluster would uncover the backing file.
    let can_clear = !options.file.read_only && (header.version >= 3 || !has_backing);
    let range = can_clear.then_some(Range {
        max_len: cluster.saturating_mul(LONGEST_CLUSTERS).min(LONGEST),
        alignment: u32::try_from(cluster).unwrap_or(file.logical_block),
    });
    Limits {
        read_only: options.file.read_only,
        minimum_io: 0,
        optimal_io: u32::try_from(cluster).unwrap_or(0),
        discard: range.filter(|_| options.file.discard),
        write_zeroes: range,
        secure_erase: None,
        ..file.clone()
    }
}

/// Starts the metadata thread.
fn start(
    options: &Options,
    header: &Header,
    storage: Storage,
    disk: Arc<dyn Disk>,
    backing: Option<Backing>,
    limits: Limits,
) -> io::Result<Qcow2Disk> {
    let shared = Arc::new(Shared {
        map: Map::new(header.size, header.cluster_bits),
        gate: Arc::new(Gate::new()),
        dirty: AtomicBool::new(false),
    });
    let capacity = header.size & !(u64::from(limits.logical_block).wrapping_sub(1));
    let (layer, backing) = backing.map_or((None, None), |Backing { disk, layer }| (Some(layer), Some(disk)));
    let readable = [
        disk.capacity(),
        backing.as_ref().map_or(0, |disk| disk.capacity()),
    ];
    let has_backing = layer.is_some();
    let image = FormatAccess::new(open_image(storage.clone(), !options.file.read_only, layer)?);
    let (jobs, received) = mpsc::channel();
    let (started, start) = mpsc::channel();
    let (cluster_bits, version, punch) = (header.cluster_bits, header.version, options.file.discard);
    let body = {
        let (shared, disk) = (shared.clone(), disk.clone());
        move || {
            let engine = match disk.engine(1) {
                Ok(engine) => engine,
                Err(error) => return started.send(Err(error)).unwrap_or(()),
            };
            let _ = started.send(Ok(()));
            let meta = Meta {
                image,
                storage,
                engine,
                shared,
                cluster_bits,
                version,
                has_backing,
                readable,
                punch,
            };
            meta.run(&received);
        }
    };
    let owner = Owner {
        image: disk,
        backing,
        shared,
        limits,
        jobs: Some(jobs),
        thread: Mutex::new(MetaThread::new(body, start)),
    };
    Ok(Qcow2Disk {
        owner: Arc::new(owner),
        capacity,
    })
}

/// What the disk and its engines have in common. When the last of them goes, the tables are flushed and the
/// metadata thread ends.
struct Owner {
    image: Arc<dyn Disk>,
    backing: Option<Arc<dyn Disk>>,
    shared: Arc<Shared>,
    limits: Limits,
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    thread: Mutex<MetaThread>,
}

/// The metadata thread begins with the first engine: a daemon is confined by then, and the thread with it.
enum MetaThread {
    Waits(Box<dyn FnOnce() -> io::Result<JoinHandle<()>> + Send>),
    Runs(JoinHandle<()>),
    /// It could not be started.
    Gone,
}

impl MetaThread {
    /// One that will do `body`, which says by `started` whether it could begin.
    fn new(body: impl FnOnce() + Send + 'static, started: Receiver<io::Result<()>>) -> Self {
        Self::Waits(Box::new(move || {
            let thread = thread::Builder::new().name("qcow2".into()).spawn(body)?;
            started.recv().map_err(io::Error::other)??;
            Ok(thread)
        }))
    }
}

impl Owner {
    fn begin(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        *thread = match std::mem::replace(&mut *thread, MetaThread::Gone) {
            MetaThread::Waits(begin) => MetaThread::Runs(begin()?),
            MetaThread::Runs(thread) => MetaThread::Runs(thread),
            MetaThread::Gone => return Err(io::ErrorKind::NotConnected.into()),
        };
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let MetaThread::Runs(thread) = std::mem::replace(thread, MetaThread::Gone) {
            let _ = thread.join();
        }
    }
}

struct Qcow2Disk {
    owner: Arc<Owner>,
    capacity: u64,
}

impl Disk for Qcow2Disk {
    fn limits(&self) -> Limits {
        self.owner.limits.clone()
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The image is locked, so its size stays.
    fn refresh(&self) -> io::Result<u64> {
        Ok(self.capacity)
    }

    /// Tables are kept in memory: who opened the image before their last change would not know of it.
    fn can_be_handed_over(&self) -> bool {
        self.owner.limits.read_only
    }

    fn engine(&self, depth: usize) -> io::Result<Box<dyn Engine>> {
        self.owner.begin()?;
        Ok(Box::new(Qcow2Engine::new(self.owner.clone(), depth)?))
    }
}

fn host(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.into();
    move |source| OpenError::Host { path, what, source }
}
