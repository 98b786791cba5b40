// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is special to this device, seen by a driver over the real socket of the real daemon and by processes of the host.

mod arrivals;
mod bounds;
mod chance;
mod rules;
mod streams;
mod support;
