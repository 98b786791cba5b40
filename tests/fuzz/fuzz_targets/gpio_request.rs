// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `gpio_request`.
#![no_main]

#[path = "../src/gpio_request.rs"]
mod gpio_request;

libfuzzer_sys::fuzz_target!(|input: &[u8]| gpio_request::run(input));
