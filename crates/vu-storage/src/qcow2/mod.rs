// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Images in qcow2 format: mappings by the `imago` crate, data by the engine of the file.
