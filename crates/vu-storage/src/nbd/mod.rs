// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Disks on the network, by the NBD protocol.
