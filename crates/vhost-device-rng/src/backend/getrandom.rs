// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host kernel's generator.

use std::io;

use rustix::rand::GetRandomFlags;

use super::Backend;

/// The `getrandom` system call. It has no bytes only while the host itself starts and has gathered none.
#[derive(Clone, Copy, Debug)]
pub struct Getrandom;

impl Backend for Getrandom {
    fn read(&self, _position: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::rand::getrandom(buf, GetRandomFlags::NONBLOCK)?)
    }

    fn reads_ahead(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reads_are_full_and_differ() {
        let (mut a, mut b) = ([0; 256], [0; 256]);
        assert_eq!(Getrandom.read(0, &mut a).unwrap(), 256);
        assert_eq!(Getrandom.read(0, &mut b).unwrap(), 256);
        assert_ne!(a, b);
    }
}
