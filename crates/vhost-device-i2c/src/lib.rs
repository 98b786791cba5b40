// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user I2C adapter: a guest talks to devices on a bus of the host, or on a simulated one when there is none.

pub mod backend;
