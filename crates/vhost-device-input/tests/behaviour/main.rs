// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is special to this device, seen by a driver: over the socket of the real daemon, or with a source that the test
//! plays.

mod config;
mod control;
mod daemon;
mod evdev;
mod events;
mod release;
mod replay;
mod source;
mod status;
mod support;
