// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![doc = include_str!("../README.md")]

pub mod chains;
pub mod conformance;
pub mod control;
pub mod devices;
pub mod driver;
pub mod event;
mod evil;
pub mod frontend;
pub mod guest;
#[cfg(target_arch = "x86_64")]
pub mod inject;
pub mod memory;
pub mod meter;
pub mod page_cache;
pub mod process;
pub mod spawn;
