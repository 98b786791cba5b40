// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A corpus and its mutated descendants, the same ones each time.

use std::path::Path;

/// Descendants that are kept as parents of further ones.
const POOL: usize = 256;
/// Inputs do not grow beyond this.
const LONGEST: usize = 4096;
/// Bytes at which programs err.
const EDGES: [u8; 8] = [0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff];

/// Runs `target` on each file of `corpus`, and on `count` inputs made from them.
///
/// # Panics
/// When the corpus cannot be read or is empty, and when `target` does; the input is printed then.
pub(crate) fn run(corpus: &str, count: u64, target: impl Fn(&[u8])) {
    let folder = Path::new(corpus);
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{corpus}: {error}"));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    let mut pool: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| std::fs::read(path).expect("a readable file"))
        .collect();
    assert!(!pool.is_empty(), "{corpus} is empty");
    pool.iter().for_each(|input| watched(input, &target));
    let seeds = pool.len();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..count {
        let mut input = pool[random.below(pool.len())].clone();
        let other = random.below(pool.len());
        for _ in 0..=random.below(4) {
            mutate(&mut input, &pool[other], &mut random);
        }
        watched(&input, &target);
        if pool.len() < POOL {
            pool.push(input);
        } else if random.below(16) == 0 {
            let victim = seeds + random.below(POOL - seeds);
            pool[victim] = input;
        }
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if input.is_empty() {
        input.push(0);
    }
    let at = random.below(input.len());
    let len = 1 + random.below(16.min(input.len() - at));
    match random.below(8) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = EDGES[random.below(EDGES.len())],
        2 => input[at] = random.below(256) as u8,
        3 => input[at] = input[at].wrapping_add(random.below(33) as u8).wrapping_sub(16),
        4 => drop(input.drain(at..at + len)),
        5 => {
            let block = input[at..at + len].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, block);
        }
        6 if !other.is_empty() => {
            let from = random.below(other.len());
            let block = &other[from..other.len().min(from + 64)];
            let end = input.len().min(at + block.len());
            input.splice(at..end, block.iter().copied());
        }
        _ => input[at..at + len].fill(EDGES[random.below(EDGES.len())]),
    }
    input.truncate(LONGEST);
}

/// Runs `target`, and prints the input if it panics.
fn watched(input: &[u8], target: &impl Fn(&[u8])) {
    struct Told<'a>(&'a [u8]);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
                eprintln!("the input: {hex}");
            }
        }
    }
    let _told = Told(input);
    target(input);
}

/// Xorshift: enough to pick places.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % end
    }
}
