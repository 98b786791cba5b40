// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests in the loop: boots real guest kernels against the daemons.
//!
//! A test takes the parts from the lab ([`artifacts`]), starts a [`daemon`], and boots a guest with it under QEMU
//! ([`qemu`], steered by [`qmp`]), under User-mode Linux ([`uml`]), or inside a simulated host ([`host`]). The program that is PID 1 of
//! the [`guest`] runs tasks and reports each as a line of JSON on its console.

pub mod artifacts;
pub mod cpu;
pub mod daemon;
pub mod front;
pub mod guest;
pub mod host;
pub mod image;
pub mod launch;
pub mod nbd;
pub mod qemu;
pub mod qmp;
pub mod quick;
pub mod scratch;
pub mod uml;
