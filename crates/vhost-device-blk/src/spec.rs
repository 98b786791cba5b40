// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The wire of the block device (virtio 1.3, section 5.2), by the names of the specification without their
//! `VIRTIO_BLK_` prefix.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Virtio device id (section 5.2.1).
pub const VIRTIO_ID_BLOCK: u32 = 2;
/// Bytes of a sector, the unit of positions and lengths on the wire whatever the block size is.
pub const SECTOR: u64 = 512;
/// Length of a device id string (section 5.2.6).
pub const ID_LEN: usize = 20;

/// Feature bits as masks (section 5.2.3).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const LIFETIME: u64 = 1 << 15;
    pub const SECURE_ERASE: u64 = 1 << 16;
}

/// Types of requests (section 5.2.6).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const GET_LIFETIME: u32 = 10;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
    pub const SECURE_ERASE: u32 = 14;
}

/// Values of the status byte (section 5.2.6).
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod status {
    pub const OK: u8 = 0;
    pub const IOERR: u8 = 1;
    pub const UNSUPP: u8 = 2;
}

/// The flag `unmap` of [`DiscardWriteZeroes::flags`].
pub const FLAG_UNMAP: u32 = 1;

/// `struct virtio_blk_req` without its data and status.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// One of [`kind`].
    pub kind: U32,
    /// Was a priority once.
    pub reserved: U32,
    /// First sector of a read or write.
    pub sector: U64,
}

/// `struct virtio_blk_discard_write_zeroes`, one segment of such a request.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscardWriteZeroes {
    /// First sector.
    pub sector: U64,
    /// Sectors concerned.
    pub num_sectors: U32,
    /// [`FLAG_UNMAP`] or nothing.
    pub flags: U32,
}

/// `struct virtio_blk_lifetime`.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Lifetime {
    /// Reserved blocks that are used up, in classes.
    pub pre_eol_info: U16,
    /// Wear of SLC cells in steps of 10 %.
    pub device_lifetime_est_typ_a: U16,
    /// Wear of MLC cells in steps of 10 %.
    pub device_lifetime_est_typ_b: U16,
}

/// `struct virtio_blk_geometry`.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub struct Geometry {
    pub cylinders: U16,
    pub heads: u8,
    pub sectors: u8,
}

/// `struct virtio_blk_topology`.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Topology {
    /// Logical blocks per physical block, as a power of two.
    pub physical_block_exp: u8,
    /// First logical block that starts a physical one.
    pub alignment_offset: u8,
    /// Smallest request without a penalty, in logical blocks.
    pub min_io_size: U16,
    /// Best size of a request, in logical blocks.
    pub opt_io_size: U32,
}

/// `struct virtio_blk_zoned_characteristics`: all zero, since no disk of ours is zoned.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub struct Zoned {
    pub zone_sectors: U32,
    pub max_open_zones: U32,
    pub max_active_zones: U32,
    pub max_append_sectors: U32,
    pub write_granularity: U32,
    pub model: u8,
    pub unused2: [u8; 3],
}

/// `struct virtio_blk_config` (section 5.2.4).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub struct ConfigSpace {
    pub capacity: U64,
    pub size_max: U32,
    pub seg_max: U32,
    pub geometry: Geometry,
    pub blk_size: U32,
    pub topology: Topology,
    pub writeback: u8,
    pub unused0: u8,
    pub num_queues: U16,
    pub max_discard_sectors: U32,
    pub max_discard_seg: U32,
    pub discard_sector_alignment: U32,
    pub max_write_zeroes_sectors: U32,
    pub max_write_zeroes_seg: U32,
    pub write_zeroes_may_unmap: u8,
    pub unused1: [u8; 3],
    pub max_secure_erase_sectors: U32,
    pub max_secure_erase_seg: U32,
    pub secure_erase_sector_alignment: U32,
    pub zoned: Zoned,
}

/// Where [`ConfigSpace::writeback`] lies, the only byte that a driver may write.
pub const WRITEBACK_OFFSET: usize = std::mem::offset_of!(ConfigSpace, writeback);
