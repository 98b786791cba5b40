// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Constants of the I2C adapter device (virtio 1.3, section 5.15), by their names there.

/// Virtio device id (section 5.15.1).
pub(crate) const VIRTIO_ID_I2C_ADAPTER: u32 = 34;
/// The only virtqueue (section 5.15.2).
pub(crate) const REQUESTQ: usize = 0;
/// Requests may have no buffer, and say by a flag which way they go. A driver must take it.
pub(crate) const VIRTIO_I2C_F_ZERO_LENGTH_REQUEST: u64 = 1 << 0;

/// Bytes of `struct virtio_i2c_out_hdr`.
pub(crate) const OUT_HDR_LEN: usize = 8;
/// Bytes of `struct virtio_i2c_in_hdr`.
pub(crate) const IN_HDR_LEN: usize = 1;

/// The next request belongs to the same group, and fails if this one does.
pub(crate) const VIRTIO_I2C_FLAGS_FAIL_NEXT: u32 = 1 << 0;
/// A read request.
pub(crate) const VIRTIO_I2C_FLAGS_M_RD: u32 = 1 << 1;

pub(crate) const VIRTIO_I2C_MSG_OK: u8 = 0;
pub(crate) const VIRTIO_I2C_MSG_ERR: u8 = 1;
