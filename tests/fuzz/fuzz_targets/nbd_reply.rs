// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `nbd_reply`.
#![no_main]

#[path = "../src/nbd_reply.rs"]
mod nbd_reply;

libfuzzer_sys::fuzz_target!(|input: &[u8]| nbd_reply::run(input));
