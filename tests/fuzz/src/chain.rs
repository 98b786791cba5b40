// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descriptor chains of any shape for a device that tells what it was given, beside a second opinion.
//!
//! An input is records of 8 bytes: 16 for the table of the ring, the others for an indirect table. A record names its
//! address and length in few bytes, so that most inputs say something; see [`record`].

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use vu_common::{Cx, Device, Spec, Start, Worker, serve_stream};
use vu_testkit::chains::{Descriptor, INDIRECT, NEXT, WRITE};
use vu_testkit::devices::{Profile, rng};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{ADJACENT, ADJACENT_SIZE, Guest, NOWHERE, Options, RINGS, RINGS_SIZE};
use vu_testkit::memory::{GuestMemory, RegionSpec};

/// Entries of the ring.
const RING: usize = 16;
/// Entries of the indirect table that inputs describe, and where it stands.
const TABLE: usize = 64;
const TABLE_ADDR: u64 = ADJACENT + 0x1_0000;
/// Where the memory ends.
const END: u64 = ADJACENT + ADJACENT_SIZE;
/// The most entries of an indirect table that a device of ours serves.
const MOST: u32 = 1024;
/// Bytes of a buffer that go into the digest.
const DIGESTED: usize = 256;

/// What the device answers: how much it was given to read and to write, and a digest of the former's beginning.
fn report(readable: &[u8], readable_len: u64, writable_len: u64) -> [u8; 24] {
    let digest = readable.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&readable_len.to_le_bytes());
    bytes[8..16].copy_from_slice(&writable_len.to_le_bytes());
    bytes[16..].copy_from_slice(&digest.to_le_bytes());
    bytes
}

struct Told;

impl Device for Told {
    type Worker = Self;

    fn spec(&self) -> Spec {
        Spec::new("told", 63, 1)
    }

    fn start(&self, _start: &Start<'_>) -> io::Result<Self> {
        Ok(Self)
    }
}

impl Worker for Told {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        while let Some(mut chain) = cx.pop(q) {
            let mut readable = vec![0; chain.readable_len().min(DIGESTED)];
            chain
                .reader()
                .read_exact(&mut readable)
                .expect("as long as it says");
            let answer = report(
                &readable,
                chain.readable_len() as u64,
                chain.writable_len() as u64,
            );
            let len = chain.writable_len().min(answer.len());
            chain
                .writer()
                .write_all(&answer[..len])
                .expect("as long as it says");
            chain.complete(len as u32);
        }
    }
}

/// One guest for all inputs: a chain must not harm those after it, either.
fn guest() -> &'static Mutex<Guest> {
    static GUEST: OnceLock<Mutex<Guest>> = OnceLock::new();
    GUEST.get_or_init(|| {
        let (ours, theirs) = UnixStream::pair().expect("a socket");
        std::thread::spawn(move || serve_stream(theirs, &Arc::new(Told)));
        let deadline = Duration::from_secs(20);
        let front = FrontEnd::from_stream(ours, deadline).expect("a socket takes timeouts");
        let options = Options {
            size: RING as u16,
            layout: vec![
                RegionSpec::new(RINGS, RINGS_SIZE),
                RegionSpec::new(ADJACENT, ADJACENT_SIZE),
            ],
            deadline,
            ..Options::default()
        };
        let guest = Guest::boot(front, &rng() as &dyn Profile, &options).expect("the device starts");
        let bytes: Vec<u8> = (0..ADJACENT_SIZE).map(|at| ((at * 7) >> 3) as u8).collect();
        guest.memory.write(ADJACENT, &bytes);
        Mutex::new(guest)
    })
}

/// A descriptor from 8 bytes: address (2), length (2), flags, next, and how the first two are meant.
fn record(bytes: &[u8]) -> Descriptor {
    let mut raw = [0; 8];
    raw[..bytes.len()].copy_from_slice(bytes);
    let (near, len) = (
        u64::from(u16::from_le_bytes([raw[0], raw[1]])),
        u32::from(u16::from_le_bytes([raw[2], raw[3]])),
    );
    let addr = match raw[6] & 7 {
        0 | 1 => ADJACENT + near,
        2 => TABLE_ADDR + near % 64,
        3 => ADJACENT - near % 0x1000, // into the region before
        4 => END - near % 0x1000,
        5 => NOWHERE + near,
        6 => u64::MAX - near,
        _ => near << 48,
    };
    let len = match raw[7] & 7 {
        0 | 1 => len,
        2 | 3 => len % (TABLE as u32 + 8) * 16,
        4 => len << 8,
        5 => len << 16,
        6 => u32::MAX - len,
        _ => len % 64,
    };
    Descriptor {
        addr,
        len,
        flags: u16::from(raw[4]),
        next: u16::from(raw[5]),
    }
}

/// Whether all of a range is memory.
fn mapped(addr: u64, len: u32) -> bool {
    addr.checked_add(u64::from(len)).is_some_and(|end| end <= END) // it starts at 0
}

/// The buffers of a chain, by the rules for drivers.
#[derive(Default)]
struct Chain {
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
}

impl Chain {
    fn len(buffers: &[(u64, u32)]) -> u64 {
        buffers.iter().map(|buffer| u64::from(buffer.1)).sum()
    }

    fn take(&mut self, descriptor: Descriptor) -> Option<()> {
        let Descriptor { addr, len, flags, .. } = descriptor;
        let late = flags & WRITE == 0 && !self.writable.is_empty();
        if len == 0 || late || !mapped(addr, len) {
            return None;
        }
        let buffers = if flags & WRITE == 0 {
            &mut self.readable
        } else {
            &mut self.writable
        };
        buffers.push((addr, len));
        (Self::len(buffers) < 1 << 32).then_some(())
    }

    /// Follows the chain in `table`; gives the indirect descriptor that it ends with, if it does.
    fn follow(&mut self, table: &[Descriptor]) -> Option<Option<Descriptor>> {
        let mut index = 0;
        for _ in 0..table.len() {
            let descriptor = *table.get(index)?;
            if descriptor.flags & INDIRECT != 0 {
                return Some(Some(descriptor));
            }
            self.take(descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Some(None);
            }
            index = usize::from(descriptor.next);
        }
        None
    }

    /// What a driver meant by the ring's table, if it kept to the rules.
    fn of(ring: &[Descriptor], memory: &GuestMemory) -> Option<Self> {
        let mut chain = Self::default();
        if let Some(Descriptor { addr, len, flags, .. }) = chain.follow(ring)? {
            if flags & NEXT != 0 || len == 0 || len % 16 != 0 || len / 16 > MOST {
                return None;
            }
            // Entries that are not memory end the chain when they are reached.
            let there = (0..len / 16).take_while(|index| {
                let entry = addr.checked_add(u64::from(index * 16));
                entry.is_some_and(|entry| mapped(entry, 16))
            });
            let read = |index: u32| {
                let mut bytes = [0; 16];
                memory.read(addr + u64::from(index * 16), &mut bytes);
                entry(bytes)
            };
            let table: Vec<_> = there.map(read).collect();
            if chain.follow(&table)?.is_some() {
                return None;
            }
        }
        Some(chain)
    }
}

fn entry(bytes: [u8; 16]) -> Descriptor {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    Descriptor {
        addr: word(0),
        len: word(8) as u32,
        flags: (word(8) >> 32) as u16,
        next: (word(8) >> 48) as u16,
    }
}

/// The target.
///
/// # Panics
/// When the device read or wrote other bytes than the chain says, or served one that breaks the rules.
pub(crate) fn run(input: &[u8]) {
    let mut guest = guest().lock().unwrap_or_else(PoisonError::into_inner);
    let memory = guest.memory.clone();
    let mut records = input.chunks(8).map(record);
    let mut ring: Vec<_> = records.by_ref().take(RING).collect();
    ring.resize(RING, Descriptor::default());
    let mut table: Vec<u8> = records.take(TABLE).flat_map(Descriptor::to_bytes).collect();
    table.resize(16 * TABLE, 0);
    memory.write(TABLE_ADDR, &table);
    let expected = Chain::of(&ring, &memory);
    let mut readable = Vec::new();
    for (addr, len) in expected.iter().flat_map(|chain| &chain.readable) {
        let mut bytes = vec![0; (*len as usize).min(DIGESTED - readable.len())];
        memory.read(*addr, &mut bytes);
        readable.extend(bytes);
    }
    let before: Vec<_> = expected
        .iter()
        .flat_map(|chain| &chain.writable)
        .map(|(addr, len)| {
            let mut bytes = vec![0; (*len).min(24) as usize];
            memory.read(*addr, &mut bytes);
            (*addr, bytes)
        })
        .collect();
    let lane = guest.lane();
    lane.queue.add_raw(&ring);
    lane.queue.submit();
    let used = lane.queue.wait(lane.end()).expect("every chain comes back");
    let Some(chain) = expected else {
        assert_eq!(used.len, 0, "a chain that breaks the rules was served: {ring:x?}");
        return;
    };
    let writable_len = Chain::len(&chain.writable);
    let report = report(&readable, Chain::len(&chain.readable), writable_len);
    assert_eq!(u64::from(used.len), writable_len.min(24), "{ring:x?}");
    let mut answer = Vec::new();
    for (addr, len) in &chain.writable {
        let mut bytes = vec![0; (*len as usize).min(24 - answer.len())];
        memory.read(*addr, &mut bytes);
        answer.extend(bytes);
    }
    // An input means the same after any other.
    before
        .iter()
        .rev()
        .for_each(|(addr, bytes)| memory.write(*addr, bytes));
    // Buffers that overlap say what was written last.
    if !overlap(&chain.writable) {
        assert_eq!(answer, report[..answer.len()], "{ring:x?}");
    }
}

fn overlap(buffers: &[(u64, u32)]) -> bool {
    let mut sorted = buffers.to_vec();
    sorted.sort_unstable();
    sorted
        .windows(2)
        .any(|pair| pair[0].0 + u64::from(pair[0].1) > pair[1].0)
}
