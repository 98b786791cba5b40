// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Storage engines behind the disks of the suite (`vhost-device-blk`, `vhost-device-scsi`).
//!
//! A [`Disk`] is opened once and shared; each worker thread has an [`Engine`] of it, to which it submits
//! [`Request`]s and from which it reaps [`Completion`]s. Data goes straight between the storage and the
//! guest's memory ([`vu_common::Segments`]). Nothing here knows of virtqueues, requests of a guest or a
//! status byte.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod disk;
pub mod file;
pub mod memory;
pub mod nbd;
pub mod null;
pub mod qcow2;

pub use disk::{Completion, Disk, Engine, Lifetime, Limits, Op, Range, Request};
