// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `vsock_packet`.
#![no_main]

#[path = "../src/vsock_packet.rs"]
mod vsock_packet;

libfuzzer_sys::fuzz_target!(|input: &[u8]| vsock_packet::run(input));
