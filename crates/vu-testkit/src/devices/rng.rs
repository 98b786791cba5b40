// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The entropy device: one queue of device-writable buffers (virtio, "Entropy Device").

use super::{FILL, Profile};
use crate::chains::Request;
use crate::spawn::Launch;

/// The profile of the entropy device.
#[derive(Clone, Copy, Debug)]
pub struct Rng;

/// The profile of the entropy device.
#[must_use]
pub fn rng() -> Rng {
    Rng
}

impl Profile for Rng {
    fn name(&self) -> &'static str {
        "rng"
    }

    fn virtio_id(&self) -> u32 {
        4
    }

    fn queues(&self) -> u16 {
        1
    }

    fn request(&self, _number: u64, size: usize) -> Request {
        Request {
            readable: Vec::new(),
            writable: size.max(1),
        }
    }

    /// The device places one or more random bytes into the buffer; it may use less than all of it.
    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        let used = used as usize;
        if used == 0 || used > request.writable {
            return Err(format!(
                "used length {used} for a buffer of {} bytes",
                request.writable
            ));
        }
        let bytes = &answer[..used];
        // Chance lets 16 equal bytes pass once in 2^120 requests.
        if used >= 16 && bytes.iter().all(|byte| *byte == bytes[0]) {
            let what = if bytes[0] == FILL {
                "nothing was written"
            } else {
                "all bytes are equal"
            };
            return Err(format!("{used} bytes of entropy: {what}"));
        }
        // Of 256 random bytes about 1 equals the fill: a run of 16 of them was never written.
        if bytes
            .windows(16)
            .any(|window| window.iter().all(|byte| *byte == FILL))
        {
            return Err(format!("a part of the {used} bytes was not written"));
        }
        Ok(())
    }

    fn slow(&self, launch: &Launch) -> Option<Launch> {
        Some(launch.with(&["--max-bytes", "64", "--period", "60000"]))
    }

    fn memory_limit(&self) -> u64 {
        16 << 20
    }
}

#[cfg(test)]
mod tests {
    use super::{FILL, Profile, rng};

    #[test]
    fn answers_that_are_not_entropy_are_found() {
        let request = rng().request(0, 64);
        let good: Vec<u8> = (0..64).collect();
        assert!(rng().check(&request, 64, &good).is_ok());
        assert!(rng().check(&request, 0, &good).is_err());
        assert!(rng().check(&request, 65, &good).is_err());
        assert!(rng().check(&request, 64, &[FILL; 64]).is_err());
        let mut half = good;
        half[20..].fill(FILL);
        assert!(rng().check(&request, 64, &half).is_err());
        assert!(rng().check(&request, 20, &half).is_ok());
    }
}
