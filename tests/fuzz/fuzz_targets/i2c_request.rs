// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `i2c_request`.
#![no_main]

#[path = "../src/i2c_request.rs"]
mod i2c_request;

libfuzzer_sys::fuzz_target!(|input: &[u8]| i2c_request::run(input));
