// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `nbd_handshake`.
#![no_main]

#[path = "../src/nbd_handshake.rs"]
mod nbd_handshake;

libfuzzer_sys::fuzz_target!(|input: &[u8]| nbd_handshake::run(input));
