// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A disk in the memory of the daemon, gone with it.
