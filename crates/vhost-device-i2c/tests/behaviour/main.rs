// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is special to this device, seen by a driver: over the socket of the real daemon, or with a bus that records
//! what reaches it.

mod bounds;
mod daemon;
mod groups;
mod messages;
mod stuck;
mod support;
