// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-gpio with the driver of real guests.

mod host;
