// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drivers that break the rules of the GPIO device, over the real socket of the real daemon: what they get, and that no
//! buffer is lost or comes back twice, neither then nor when the ring stops or the daemon is killed.

mod events;
mod messages;
mod random;
mod recovery;
mod support;
