// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Storage`]: the file under an image as `imago` reads and writes its tables.
//!
//! `imago` keeps tables in memory and writes refcounts before the L2 tables that rely on them, or the other way
//! round for what it frees. Two things are missing to survive a crash at any moment, and are done here:
//!
//! * It writes an entry of the L1 or refcount table at once, while the refcount of the table that the entry
//!   points to is still in memory only. Such entries are kept back until a flush has written all refcounts.
//! * It never syncs, and the host may write out its cache in any order. Here a sync stands between refcounts and
//!   all else, in each direction, and before and after the entries that were kept back.
//!
//! UNSAFETY: the trait's methods are unsafe to call, since they demand aligned requests; this file aligns to
//! one byte and contains no unsafe operation.
#![allow(
    unsafe_code,
    reason = "methods of a trait that declares them unsafe; see the module's text"
)]

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use rustix::fs::{FallocateFlags, SeekFrom};

use super::header::Header;
use super::map::Source;

/// Where the header says where the refcount table is, and how many clusters it has.
const REFCOUNT_TABLE: u64 = 48;
/// Bytes of the longest header that has a meaning for us.
const HEADER: u64 = 104;
/// Entries kept back, after which it is time for a flush.
const KEPT_MAX: usize = 256;

/// A handle of the file; clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct Storage(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: File,
    path: PathBuf,
    source: Source,
    regular: bool,
    /// `None` if nothing is ever written.
    order: Option<Mutex<Order>>,
    helper: CommonStorageHelper,
}

/// What was written last, of what must not be reordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A block of the refcounts.
    Refcounts,
    /// L2 tables, new tables, data that is copied.
    Other,
}

#[derive(Debug)]
struct Order {
    cluster: u64,
    l1: Range<u64>,
    refcount_table: Range<u64>,
    refcount_blocks: HashSet<u64>,
    /// Entries of the refcount table and of the L1 table: offset and bytes.
    kept_refcounts: Vec<(u64, Vec<u8>)>,
    kept_l1: Vec<(u64, Vec<u8>)>,
    /// Since the last sync.
    last: Option<Kind>,
    flushing: bool,
}

impl Storage {
    pub(super) fn new(
        file: File,
        path: PathBuf,
        source: Source,
        header: Option<&Header>,
    ) -> io::Result<Self> {
        let regular = file.metadata()?.is_file();
        let order = match header {
            Some(header) => Some(Mutex::new(Order::new(&file, header)?)),
            None => None,
        };
        Ok(Self(Arc::new(Shared {
            file,
            path,
            source,
            regular,
            order,
            helper: CommonStorageHelper::default(),
        })))
    }

    pub(super) fn source(&self) -> Source {
        self.0.source
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        if self.0.regular {
            Ok(self.0.file.metadata()?.len())
        } else {
            Ok(rustix::fs::seek(&self.0.file, SeekFrom::End(0))?)
        }
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync_data()
    }

    /// Gives a range back to the host, where it knows how.
    pub(super) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0.file, flags, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Whether so many entries are kept back, or such, that [`flush`](Self::flush) is due.
    pub(super) fn wants_flush(&self) -> bool {
        self.order()
            .is_some_and(|order| !order.kept_refcounts.is_empty() || order.kept_l1.len() > KEPT_MAX)
    }

    /// Makes durable what was written, then what `write_tables` writes, then the entries kept back.
    pub(super) fn flush(&self, write_tables: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.sync_data()?;
        if let Some(mut order) = self.order() {
            order.last = None;
            order.flushing = true;
        }
        let written = write_tables();
        let Some(mut order) = self.order() else {
            return written;
        };
        order.flushing = false;
        written?;
        let file = &self.0.file;
        order.release_refcounts(file)?;
        file.sync_data()?;
        if !order.kept_l1.is_empty() {
            release(file, &mut order.kept_l1)?;
            file.sync_data()?;
        }
        order.last = None;
        Ok(())
    }

    fn order(&self) -> Option<MutexGuard<'_, Order>> {
        let order = self.0.order.as_ref()?;
        Some(order.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, bytes: Vec<u8>, offset: u64) -> io::Result<()> {
        let file = &self.0.file;
        let Some(mut order) = self.order() else {
            return Err(io::ErrorKind::PermissionDenied.into());
        };
        let end = offset.saturating_add(bytes.len() as u64);
        let within = |table: &Range<u64>| table.contains(&offset) && end <= table.end;
        if within(&order.l1) {
            order.kept_l1.push((offset, bytes));
            return Ok(());
        }
        if within(&order.refcount_table) {
            order.refcount_blocks.extend(pointers(&bytes));
            order.kept_refcounts.push((offset, bytes));
            return Ok(());
        }
        if offset < HEADER {
            file.sync_data()?;
            file.write_all_at(&bytes, offset)?;
            file.sync_data()?;
            order.last = None;
            return order.load_refcount_table(file);
        }
        let kind = if order.refcount_blocks.contains(&offset) {
            Kind::Refcounts
        } else {
            Kind::Other
        };
        if order.flushing && kind == Kind::Other {
            order.release_refcounts(file)?;
        }
        if order.last.is_some_and(|last| last != kind) {
            file.sync_data()?;
        }
        order.last = Some(kind);
        file.write_all_at(&bytes, offset)
    }
}

impl Order {
    fn new(file: &File, header: &Header) -> io::Result<Self> {
        let mut order = Self {
            cluster: header.cluster_size(),
            l1: header.l1_offset
                ..header
                    .l1_offset
                    .saturating_add(header.l1_entries.saturating_mul(8)),
            refcount_table: 0..0,
            refcount_blocks: HashSet::new(),
            kept_refcounts: Vec::new(),
            kept_l1: Vec::new(),
            last: None,
            flushing: false,
        };
        order.load_refcount_table(file)?;
        Ok(order)
    }

    /// Finds out where the refcounts are.
    fn load_refcount_table(&mut self, file: &File) -> io::Result<()> {
        let mut offset = [0; 8];
        let mut clusters = [0; 4];
        file.read_exact_at(&mut offset, REFCOUNT_TABLE)?;
        file.read_exact_at(&mut clusters, REFCOUNT_TABLE + 8)?;
        let start = u64::from_be_bytes(offset);
        let len = u64::from(u32::from_be_bytes(clusters)).saturating_mul(self.cluster);
        let table = start..start.saturating_add(len);
        if table == self.refcount_table {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, start)?;
        // A table that has moved was written in one piece, after all refcounts: entries kept back for its
        // old place are in it, and that place may become anything.
        self.kept_refcounts.clear();
        self.refcount_blocks = pointers(&bytes).collect();
        self.refcount_table = table;
        Ok(())
    }

    /// Writes the entries of the refcount table that were kept back; all refcounts have been written.
    fn release_refcounts(&mut self, file: &File) -> io::Result<()> {
        if self.kept_refcounts.is_empty() {
            return Ok(());
        }
        file.sync_data()?;
        release(file, &mut self.kept_refcounts)?;
        file.sync_data()?;
        self.last = None;
        Ok(())
    }
}

fn release(file: &File, kept: &mut Vec<(u64, Vec<u8>)>) -> io::Result<()> {
    for (offset, bytes) in &*kept {
        file.write_all_at(bytes, *offset)?;
    }
    kept.clear();
    Ok(())
}

/// Offsets that the entries of a refcount table hold.
fn pointers(table: &[u8]) -> impl Iterator<Item = u64> {
    let (entries, _) = table.as_chunks();
    entries
        .iter()
        .map(|entry| u64::from_be_bytes(*entry) & !511)
        .filter(|&offset| offset != 0)
}

impl Display for Storage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.path.display().fmt(f)
    }
}

impl imago::Storage for Storage {
    fn size(&self) -> io::Result<u64> {
        self.len()
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut buffers = bufv.into_inner();
        let mut rest: &mut [IoSliceMut<'_>] = &mut buffers;
        let mut at = offset;
        while !rest.is_empty() {
            let moved = match rustix::io::preadv(&self.0.file, rest, at) {
                Ok(0) => break,
                Ok(moved) => moved,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            at = at.saturating_add(moved as u64);
            IoSliceMut::advance_slices(&mut rest, moved);
        }
        for beyond_the_end in rest {
            beyond_the_end.fill(0);
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let buffers = bufv.into_inner();
        let bytes = buffers.iter().flat_map(|slice: &IoSlice<'_>| slice.iter());
        self.write(bytes.copied().collect(), offset)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.0.regular || self.0.order.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let end = offset.saturating_add(len);
        if self.len()? < end {
            self.0.file.set_len(end)?;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.0.file, flags, offset, len)?)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.0.helper
    }
}
