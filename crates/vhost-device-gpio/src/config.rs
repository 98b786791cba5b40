// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration space (virtio 1.3, section 5.18.4) and the block of names that it tells the size of.

use std::collections::HashSet;
use std::sync::Arc;

use crate::spec::CONFIG_LEN;

/// Longest name that is given to the guest, in bytes: what Linux's chips allow, less its NUL.
const MAX_NAME: usize = 31;

/// The lines' number and names, as the guest gets them.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    lines: usize,
    block: Arc<[u8]>,
}

impl Names {
    /// The names in the order of the lines; empty for a line without one.
    ///
    /// A name must be 7-bit ASCII and unique (section 5.18.6.1): other characters become `?`, and of two
    /// lines with one name the second loses it. When no line has a name, the block is empty.
    pub(crate) fn new(names: &[String]) -> Self {
        let mut seen = HashSet::new();
        let mut block = Vec::new();
        for name in names {
            let printable = |c: char| {
                if c.is_ascii() && !c.is_ascii_control() {
                    c
                } else {
                    '?'
                }
            };
            let name: String = name.chars().map(printable).take(MAX_NAME).collect();
            if !name.is_empty() && seen.insert(name.clone()) {
                block.extend_from_slice(name.as_bytes());
            }
            block.push(0);
        }
        if seen.is_empty() {
            block.clear();
        }
        Self {
            lines: names.len(),
            block: block.into(),
        }
    }

    /// Zero-terminated names of all lines; empty when there are none.
    pub(crate) fn block(&self) -> &[u8] {
        &self.block
    }
}

/// Fills `dst` with the bytes from `offset` on of `struct virtio_gpio_config`.
pub(crate) fn read(names: &Names, offset: usize, dst: &mut [u8]) {
    let mut config = [0; CONFIG_LEN];
    let (ngpio, size) = config.split_at_mut(4);
    let lines = u16::try_from(names.lines).unwrap_or(u16::MAX);
    ngpio[..2].copy_from_slice(&lines.to_le_bytes());
    size.copy_from_slice(&u32::try_from(names.block.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (at, byte) in dst.iter_mut().enumerate() {
        *byte = config.get(offset.saturating_add(at)).copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, read};

    fn names(names: &[&str]) -> Names {
        Names::new(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_block_has_a_string_for_each_line() {
        assert_eq!(names(&["a", "", "Red LED"]).block(), b"a\0\0Red LED\0");
    }

    #[test]
    fn without_names_there_is_no_block() {
        assert_eq!(names(&["", "", ""]).block(), b"");
    }

    #[test]
    fn names_are_ascii_unique_and_bounded() {
        assert_eq!(names(&["x", "x", "\u{e9}\n"]).block(), b"x\0\0??\0");
        assert_eq!(names(&[&"n".repeat(99)]).block().len(), 32);
    }

    #[test]
    fn config_is_right_at_every_offset_and_zero_beyond() {
        let names = names(&["ab", "", "c"]);
        let whole = [3, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0];
        for start in 0..whole.len() {
            for end in start..whole.len() {
                let mut bytes = vec![0xff; end - start];
                read(&names, start, &mut bytes);
                assert_eq!(bytes, whole[start..end]);
            }
        }
    }
}
