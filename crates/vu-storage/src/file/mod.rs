// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Raw files and block devices, each by the fastest way that its host knows.
