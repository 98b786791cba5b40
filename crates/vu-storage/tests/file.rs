// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files as disks, with every engine; and the disks that have no file.

mod support;

use support::exercise;

#[test]
fn memory_keeps_what_was_written() {
    exercise(&*vu_storage::memory::open(3 << 20, 512).unwrap(), 1);
    exercise(&*vu_storage::memory::open(3 << 20, 4096).unwrap(), 2);
}
