// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fixed sequence of bytes, so that a test knows what a guest must get. Not random: never for real use.

use std::io;

use super::Backend;

/// The little-endian bytes of SplitMix64 with this seed. Every guest gets the sequence from its start.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(pub u64);

impl Seeded {
    fn byte(self, position: u64) -> u8 {
        let count = position / 8 + 1;
        let z = self.0.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()[(position % 8) as usize]
    }
}

impl Backend for Seeded {
    fn read(&self, position: u64, buf: &mut [u8]) -> io::Result<usize> {
        buf.iter_mut()
            .zip(position..)
            .for_each(|(byte, position)| *byte = self.byte(position));
        Ok(buf.len())
    }

    fn reads_ahead(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64, position: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(Seeded(seed).read(position, &mut bytes).unwrap(), len);
        bytes
    }

    /// Published first outputs of SplitMix64 with the seed 1234567.
    #[test]
    fn it_is_splitmix64() {
        let words = [
            6_457_827_717_110_365_317_u64,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(bytes(1_234_567, 0, 24), words.map(u64::to_le_bytes).concat());
    }

    #[test]
    fn the_sizes_of_reads_do_not_matter() {
        let parts = [bytes(7, 0, 1), bytes(7, 1, 9), bytes(7, 10, 14)];
        assert_eq!(parts.concat(), bytes(7, 0, 24));
    }

    #[test]
    fn another_seed_gives_other_bytes() {
        assert_ne!(bytes(3, 0, 8), bytes(4, 0, 8));
    }

    /// 255 degrees of freedom: mean 255, standard deviation 22.6; the bounds are six of these away.
    #[test]
    fn each_byte_value_comes_as_often_as_chance_allows() {
        const LEN: usize = 1 << 20;
        for seed in [0, 1, u64::MAX] {
            let mut counts = [0_f64; 256];
            bytes(seed, 0, LEN)
                .iter()
                .for_each(|&byte| counts[usize::from(byte)] += 1.0);
            let expected = LEN as f64 / 256.0;
            let chi_square: f64 = counts
                .iter()
                .map(|count| (count - expected).powi(2) / expected)
                .sum();
            assert!((119.0..391.0).contains(&chi_square), "seed {seed}: {chi_square}");
        }
    }
}
