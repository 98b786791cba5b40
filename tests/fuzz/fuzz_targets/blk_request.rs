// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `blk_request`.
#![no_main]

#[path = "../src/blk_request.rs"]
mod blk_request;

libfuzzer_sys::fuzz_target!(|input: &[u8]| blk_request::run(input));
