// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `input_device`.
#![no_main]

#[path = "../src/input_device.rs"]
mod input_device;

libfuzzer_sys::fuzz_target!(|input: &[u8]| input_device::run(input));
