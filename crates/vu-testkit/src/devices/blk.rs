// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The block device (virtio, "Block Device"): writes, reads, flushes and identification in turns, and the names of its
//! wire format for tests of its own.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

use super::Profile;
use crate::chains::Request;
use crate::spawn::{Daemon, Launch};

/// Bytes of a sector, the unit of all positions and lengths on the wire.
pub const SECTOR: usize = 512;
/// Length of a request's header in bytes.
pub const HEADER: usize = 16;
/// Length of the answer to [`kind::GET_ID`], without the status.
pub const ID_LEN: usize = 20;
/// Length of `struct virtio_blk_config`, up to and including the characteristics of zoned devices.
pub const CONFIG_LEN: u32 = 96;

/// Types of requests.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const GET_LIFETIME: u32 = 10;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
    pub const SECURE_ERASE: u32 = 14;
}

/// Values of the status byte.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod status {
    pub const OK: u8 = 0;
    pub const IOERR: u8 = 1;
    pub const UNSUPP: u8 = 2;
}

/// Feature bits, as masks.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const LIFETIME: u64 = 1 << 15;
    pub const SECURE_ERASE: u64 = 1 << 16;
    pub const ZONED: u64 = 1 << 17;
}

/// How our own daemon is started for the table. Some cases start a second one on the same disk, and one wants rings of the
/// largest size that there is.
pub const ARGS: &[&str] = &[
    "--blk-file",
    "{storage}",
    "--lock",
    "off",
    "--num-queues",
    "2",
    "--queue-size",
    "32768",
];

/// The header of a request.
#[must_use]
pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

/// One segment of a discard, write-zeroes or secure-erase request: sectors, and flags (bit 0 is "unmap").
#[must_use]
pub fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

/// What this profile writes to the sectors from `sector` on: it depends on nothing but the position, so that a right
/// answer to a read is known whatever the order of requests was.
#[must_use]
pub fn pattern(sector: u64, sectors: usize) -> Vec<u8> {
    let words = sector * 64..(sector + sectors as u64) * 64;
    words.flat_map(|word| mix(word).to_le_bytes()).collect()
}

/// SplitMix64: a permutation without a visible order.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sectors of the disk that the profile brings along, and to which it keeps.
const SECTORS: u64 = (64 << 20) / SECTOR as u64;
/// Writes of one length that are remembered for reads.
const REMEMBERED: usize = 1024;

/// The profile of the block device, with a disk of 64 MiB: a file without a name, so that it goes when this goes.
#[derive(Debug)]
pub struct Blk {
    queues: u16,
    storage: File,
    /// Where data of so many sectors was written and acknowledged.
    written: Mutex<HashMap<usize, Vec<u64>>>,
}

/// The profile of the block device.
///
/// # Panics
/// When the kernel has no memory for its disk.
#[must_use]
pub fn blk() -> Blk {
    let storage = memfd_create("disk", MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map(File::from)
        .and_then(|file| file.set_len(SECTORS * SECTOR as u64).map(|()| file));
    Blk {
        queues: 2,
        storage: storage.expect("an empty file of memory needs hardly any"),
        written: Mutex::default(),
    }
}

impl Blk {
    /// The same for a driver of so many queues.
    #[must_use]
    pub fn with_queues(self, queues: u16) -> Self {
        Self { queues, ..self }
    }

    fn written<T>(&self, act: impl FnOnce(&mut HashMap<usize, Vec<u64>>) -> T) -> T {
        act(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where `sectors` sectors were written before.
    fn readable(&self, number: u64, sectors: usize) -> Option<u64> {
        self.written(|written| {
            let places = written.get(&sectors)?;
            Some(places[usize::try_from(mix(number) >> 32).ok()? % places.len()])
        })
    }

    fn remember(&self, sector: u64, sectors: usize) {
        self.written(|written| {
            let places = written.entry(sectors).or_default();
            if places.len() < REMEMBERED {
                places.push(sector);
            } else {
                let place = usize::try_from(mix(sector) >> 32).unwrap_or(0) % REMEMBERED;
                places[place] = sector;
            }
        });
    }
}

/// What a header says: type and sector.
fn parse(readable: &[u8]) -> Option<(u32, u64)> {
    let (kind, rest) = readable.split_first_chunk()?;
    let (_, rest) = rest.split_first_chunk::<4>()?;
    Some((
        u32::from_le_bytes(*kind),
        u64::from_le_bytes(*rest.first_chunk()?),
    ))
}

/// Whether these are options of our own daemon; what others understand is not known here.
fn is_ours(launch: &Launch) -> bool {
    launch
        .program
        .file_name()
        .is_some_and(|name| name == "vhost-device-blk")
}

impl Profile for Blk {
    fn name(&self) -> &'static str {
        "blk"
    }

    fn virtio_id(&self) -> u32 {
        2
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn request_queues(&self) -> Range<u16> {
        0..self.queues()
    }

    fn in_order(&self) -> bool {
        false
    }

    fn features(&self) -> u64 {
        feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::CONFIG_WCE
            | feature::MQ
            | feature::DISCARD
            | feature::WRITE_ZEROES
    }

    fn config_len(&self) -> u32 {
        CONFIG_LEN
    }

    fn storage(&self) -> Option<PathBuf> {
        let (pid, fd) = (std::process::id(), self.storage.as_raw_fd());
        Some(format!("/proc/{pid}/fd/{fd}").into())
    }

    /// Of eight requests four write and two read what was written before; one flushes and one asks for the serial number.
    fn request(&self, number: u64, size: usize) -> Request {
        let sectors = size.div_ceil(SECTOR).max(1);
        let read = |sector| Request {
            readable: header(kind::IN, sector),
            writable: sectors * SECTOR + 1,
        };
        let write = || {
            let sector = mix(number) % (SECTORS - sectors as u64);
            let mut readable = header(kind::OUT, sector);
            readable.extend(pattern(sector, sectors));
            Request {
                readable,
                writable: 1,
            }
        };
        match number % 8 {
            3 => Request {
                readable: header(kind::FLUSH, 0),
                writable: 1,
            },
            7 => Request {
                readable: header(kind::GET_ID, 0),
                writable: ID_LEN + 1,
            },
            2 | 6 => self.readable(number, sectors).map_or_else(write, read),
            _ => write(),
        }
    }

    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        let (kind, sector) = parse(&request.readable).ok_or("the request has no header")?;
        let (&status, data) = answer.split_last().ok_or("the request has no status")?;
        if status != status::OK {
            return Err(format!("type {kind} at sector {sector}: status {status}"));
        }
        let used = used as usize;
        // The driver of a read may rely on no more than the used length says.
        if used > answer.len() || used == 0 || (kind == kind::IN && used < answer.len()) {
            let len = answer.len();
            return Err(format!("type {kind}: used length {used} of {len} writable bytes"));
        }
        match kind {
            kind::OUT => self.remember(sector, (request.readable.len() - HEADER) / SECTOR),
            kind::IN => {
                let expected = pattern(sector, data.len() / SECTOR);
                if let Some(at) = data.iter().zip(&expected).position(|(got, want)| got != want) {
                    let (got, want) = (data[at], expected[at]);
                    return Err(format!(
                        "byte {at} of sector {sector} and on is {got:#x} instead of {want:#x}"
                    ));
                }
            }
            kind::GET_ID => {
                let id = data.split(|byte| *byte == 0).next().unwrap_or_default();
                if !id.iter().all(u8::is_ascii_graphic) {
                    return Err(format!("the serial number is {id:x?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn slow(&self, launch: &Launch) -> Option<Launch> {
        is_ours(launch).then(|| launch.with(&["--rate-iops", "1"]))
    }

    /// Grows the disk, and has the daemon look at it.
    fn change_config(&self, daemon: &mut Daemon) -> bool {
        let len = self.storage.metadata().map_or(0, |metadata| metadata.len());
        let grown = is_ours(daemon.launch()) && self.storage.set_len(len + (1 << 20)).is_ok();
        if grown {
            daemon.process().hang_up();
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::{Blk, Profile, blk, kind, parse, status};
    use crate::chains::Request;
    use crate::devices::FILL;

    fn written(blk: &Blk) -> Request {
        let request = blk.request(1, 1024);
        assert_eq!(request.readable.len(), 16 + 1024);
        assert!(blk.check(&request, 1, &[status::OK]).is_ok());
        request
    }

    #[test]
    fn a_read_must_give_what_was_written() {
        let blk = blk();
        assert_eq!(parse(&blk.request(2, 1024).readable).unwrap().0, kind::OUT);
        let data = written(&blk).readable.split_off(16);
        let read = blk.request(2, 1024);
        assert_eq!(parse(&read.readable).unwrap().0, kind::IN);
        let mut answer = data;
        answer.push(status::OK);
        assert!(blk.check(&read, 1025, &answer).is_ok());
        assert!(blk.check(&read, 1024, &answer).is_err());
        answer[700] ^= 1;
        assert!(blk.check(&read, 1025, &answer).is_err());
        assert!(blk.check(&read, 1025, &[FILL; 1025]).is_err());
    }

    #[test]
    fn a_status_other_than_ok_and_an_odd_length_are_found() {
        let blk = blk();
        let write = written(&blk);
        for (used, answer) in [(0, status::OK), (2, status::OK), (1, status::IOERR), (1, FILL)] {
            assert!(blk.check(&write, used, &[answer]).is_err());
        }
        let id = blk.request(7, 0);
        assert!(blk.check(&id, 21, &[FILL; 21]).is_err());
        let mut answer = *b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert!(blk.check(&id, 21, &answer).is_ok());
        answer[2] = 7;
        assert!(blk.check(&id, 21, &answer).is_err());
    }

    #[test]
    fn its_disk_can_be_opened_by_another_process() {
        let blk = blk();
        let path = blk.storage().unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().len(), 64 << 20);
    }
}
