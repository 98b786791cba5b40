// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the header of an image says, checked before anything is believed or allocated.
//!
//! Format: "QCow2 Image File Format" in QEMU's `docs/interop/qcow2.rst`. All numbers are big-endian.

/// Bytes that [`Header::parse`] looks at: the longest cluster is longer than any header with its name of a backing file.
pub(super) const LENGTH: usize = 64 << 10;

/// Largest L1 table and refcount table that QEMU accepts, in bytes.
const TABLE_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_MAX: u64 = 8 << 20;

/// What of a header concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    pub(super) snapshots: u32,
    /// Name of the backing file; for people only.
    pub(super) backing: Option<String>,
}

/// Why an image cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No magic number.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// Another version than 2 or 3.
    #[error("qcow2 version {0} is unknown (known: 2, 3)")]
    Version(u32),
    /// A number that cannot be.
    #[error("damaged header: {0} (`qemu-img check` may tell more)")]
    Damaged(&'static str),
    /// A feature that we lack.
    #[error("{0} is not supported here; serve the image with qemu-storage-daemon over NBD instead")]
    Unsupported(&'static str),
    /// Refcounts are not up to date.
    #[error("was not closed by its last user: run `qemu-img check -r all` on it first")]
    Unclean,
    /// Marked so by who noticed it.
    #[error("is marked corrupt: run `qemu-img check -r all` on it first")]
    Corrupt,
}

impl Header {
    /// Reads the start of an image that has `file_len` bytes in all.
    pub(super) fn parse(start: &[u8], file_len: u64) -> Result<Self, Problem> {
        if start.get(..4) != Some(b"QFI\xfb") {
            return Err(Problem::NotQcow2);
        }
        let fields = Fields(start);
        let version = fields.u32(4)?;
        if !(2..=3).contains(&version) {
            return Err(Problem::Version(version));
        }
        let header = Self {
            version,
            cluster_bits: fields.u32(20)?,
            size: fields.u64(24)?,
            l1_offset: fields.u64(40)?,
            l1_entries: fields.u32(36)?.into(),
            snapshots: fields.u32(60)?,
            backing: fields.backing()?,
        };
        if !(9..=21).contains(&header.cluster_bits) {
            return Err(Problem::Damaged("cluster size"));
        }
        if fields.u32(32)? != 0 {
            return Err(Problem::Unsupported("encryption"));
        }
        if version == 3 {
            fields.check_features(header.cluster_size())?;
        }
        header.check_tables(&fields, file_len)?;
        Ok(header)
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn check_tables(&self, fields: &Fields<'_>, file_len: u64) -> Result<(), Problem> {
        let cluster = self.cluster_size();
        let inside = |offset: u64, len: u64| {
            offset >= cluster
                && offset.is_multiple_of(cluster)
                && offset.checked_add(len).is_some_and(|end| end <= file_len)
        };
        // An L2 table is one cluster of 8-byte entries.
        let covered_by_entry = cluster.saturating_mul(cluster >> 3);
        let l1_len = self.l1_entries.saturating_mul(8);
        if self.size > i64::MAX as u64 || self.size.div_ceil(covered_by_entry) > self.l1_entries {
            return Err(Problem::Damaged("size and L1 table do not fit together"));
        }
        if l1_len > TABLE_MAX || (l1_len > 0 && !inside(self.l1_offset, l1_len)) {
            return Err(Problem::Damaged("L1 table"));
        }
        let refcounts = u64::from(fields.u32(56)?).saturating_mul(cluster);
        if refcounts == 0 || refcounts > REFCOUNT_TABLE_MAX || !inside(fields.u64(48)?, refcounts) {
            return Err(Problem::Damaged("refcount table"));
        }
        Ok(())
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Problem> {
        let bytes = self.0.get(at..at.saturating_add(N));
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(Problem::Damaged("cut off"))
    }

    fn u32(&self, at: usize) -> Result<u32, Problem> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, Problem> {
        self.array(at).map(u64::from_be_bytes)
    }

    /// The fields that version 3 has.
    fn check_features(&self, cluster: u64) -> Result<(), Problem> {
        const NAMES: [&str; 3] = ["an external data file", "zstd compression", "extended L2 entries"];
        let incompatible = self.u64(72)?;
        if incompatible & 2 != 0 {
            return Err(Problem::Corrupt);
        }
        for (bit, name) in (2..).zip(NAMES) {
            if incompatible >> bit & 1 != 0 {
                return Err(Problem::Unsupported(name));
            }
        }
        if incompatible >> 5 != 0 {
            return Err(Problem::Unsupported("a feature newer than this program"));
        }
        if incompatible & 1 != 0 {
            return Err(Problem::Unclean);
        }
        if self.u32(96)? > 6 {
            return Err(Problem::Damaged("refcount width"));
        }
        if !(104..=cluster).contains(&self.u32(100)?.into()) {
            return Err(Problem::Damaged("header length"));
        }
        Ok(())
    }

    fn backing(&self) -> Result<Option<String>, Problem> {
        let offset = self.u64(8)?;
        if offset == 0 {
            return Ok(None);
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let len = self.u32(16)?;
        let name = if len <= 1023 {
            self.0.get(start..start.saturating_add(len as usize))
        } else {
            None
        };
        let name = name.ok_or(Problem::Damaged("name of the backing file"))?;
        Ok(Some(String::from_utf8_lossy(name).into_owned()))
    }
}
