// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What to measure of the entropy device.

use super::pair::Load;

/// A key, a page, and more than anybody asks for; and one request at a time, as Linux's hwrng core does.
pub(super) const LOADS: &[Load] = &[
    Load {
        size: 64,
        depth: None,
    },
    Load {
        size: 4 << 10,
        depth: None,
    },
    Load {
        size: 64 << 10,
        depth: None,
    },
    Load {
        size: 64,
        depth: Some(1),
    },
    Load {
        size: 4 << 10,
        depth: Some(1),
    },
];
