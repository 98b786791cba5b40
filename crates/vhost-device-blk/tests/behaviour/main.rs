// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is special to this device, seen by a driver over the real socket of the real daemon, and by the host.

mod host;
mod ranges;
mod recovery;
mod requests;
mod support;
