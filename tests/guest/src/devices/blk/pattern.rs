// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Blocks that say of themselves where they belong and which write they are from. The guest writes them, and the
//! tests check them on the host: the same file is part of both.

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;

/// The first word of a block.
const MAGIC: u64 = u64::from_le_bytes(*b"vu-block");

/// Fills whole blocks, of which the first stands at `offset`, as the write `sequence` leaves them.
pub(crate) fn fill(data: &mut [u8], offset: u64, sequence: u64) {
    for (block, at) in data.chunks_exact_mut(BLOCK).zip((offset..).step_by(BLOCK)) {
        for (word, value) in block.chunks_exact_mut(8).zip(words(at, sequence)) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Checks whole blocks, of which the first stands at `offset`, against what the write `sequence` left.
///
/// # Errors
/// What the first block is that differs, in words.
pub(crate) fn check(data: &[u8], offset: u64, sequence: u64) -> Result<(), String> {
    for (block, at) in data.chunks_exact(BLOCK).zip((offset..).step_by(BLOCK)) {
        if !is(block, at, sequence) {
            return Err(format!(
                "block at {at}, write {sequence}: it is {}",
                describe(block)
            ));
        }
    }
    Ok(())
}

/// The number of the write that a block claims to be from, and the offset where it claims to belong.
fn claims(block: &[u8]) -> Option<(u64, u64)> {
    let mut words = block
        .chunks_exact(8)
        .map_while(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
    (words.next()? == MAGIC).then_some(())?;
    Some((words.next()?, words.next()?))
}

/// What a block is, for people.
pub(crate) fn describe(block: &[u8]) -> String {
    if block.iter().all(|byte| *byte == 0) {
        return "zero".to_owned();
    }
    let Some((offset, sequence)) = claims(block) else {
        return "none of our blocks".to_owned();
    };
    let torn = if is(block, offset, sequence) {
        ""
    } else {
        "torn: it begins as "
    };
    format!("{torn}the block of {offset}, write {sequence}")
}

/// Whether all of a block is as the write `sequence` leaves it.
fn is(block: &[u8], offset: u64, sequence: u64) -> bool {
    let words = words(offset, sequence);
    block
        .chunks_exact(8)
        .zip(words)
        .all(|(word, value)| word == value.to_le_bytes())
}

/// The words of a block: what it is, then noise that is its own.
fn words(offset: u64, sequence: u64) -> impl Iterator<Item = u64> {
    let seed = splitmix64(offset ^ sequence.rotate_left(32));
    [MAGIC, offset, sequence]
        .into_iter()
        .chain((1..).map(move |i: u64| splitmix64(seed.wrapping_add(i))))
}

/// A good mix of the bits of `x`.
pub(crate) fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, check, describe, fill};

    #[test]
    fn what_was_filled_is_what_is_checked() {
        let mut data = vec![0; 3 * BLOCK];
        fill(&mut data, 8 * BLOCK as u64, 7);
        check(&data, 8 * BLOCK as u64, 7).unwrap();
        assert!(
            check(&data, 8 * BLOCK as u64, 8)
                .unwrap_err()
                .ends_with("the block of 32768, write 7")
        );
        assert!(check(&data, 0, 7).is_err());
        data[2 * BLOCK + 4000] ^= 1;
        assert!(
            check(&data, 8 * BLOCK as u64, 7)
                .unwrap_err()
                .contains("block at 40960, write 7: it is torn")
        );
        assert_eq!(describe(&[0; BLOCK]), "zero");
        assert_eq!(describe(&[1; BLOCK]), "none of our blocks");
    }
}
