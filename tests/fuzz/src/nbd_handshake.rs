// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an NBD server says before it serves. An input is all of it.

use vu_storage::nbd::fuzz::handshake;

/// The target.
///
/// # Panics
/// When an export is taken that nobody could use, or a message for people is long or holds control characters.
pub(crate) fn run(input: &[u8]) {
    match handshake(input) {
        Ok((size, _, minimum, max_payload)) => {
            assert!(i64::try_from(size).is_ok(), "a size of {size}");
            assert!(
                minimum.is_power_of_two() && minimum <= 65536,
                "a minimum of {minimum}"
            );
            let fits =
                max_payload >= minimum && max_payload.is_multiple_of(minimum) && max_payload <= 32 << 20;
            assert!(fits, "{max_payload} bytes at once with a minimum of {minimum}");
        }
        Err(message) => {
            assert!(!message.contains(char::is_control), "{message:?}");
            assert!(message.len() < 20_000, "{} bytes", message.len());
        }
    }
}
