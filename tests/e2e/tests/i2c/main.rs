// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-i2c with the driver of real guests.

mod host;
