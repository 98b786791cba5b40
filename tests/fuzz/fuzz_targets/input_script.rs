// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `input_script`.
#![no_main]

#[path = "../src/input_script.rs"]
mod input_script;

libfuzzer_sys::fuzz_target!(|input: &[u8]| input_script::run(input));
