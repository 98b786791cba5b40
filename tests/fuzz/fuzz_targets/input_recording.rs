// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `input_recording`.
#![no_main]

#[path = "../src/input_recording.rs"]
mod input_recording;

libfuzzer_sys::fuzz_target!(|input: &[u8]| input_recording::run(input));
