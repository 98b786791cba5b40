// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests in the loop: boots real guest kernels against the daemons.

pub mod artifacts;
pub mod cpu;
pub mod daemon;
pub mod guest;
pub mod host;
pub mod launch;
pub mod qemu;
pub mod scratch;
pub mod uml;
