// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libFuzzer's way to `chain`.
#![no_main]

#[path = "../src/chain.rs"]
mod chain;

libfuzzer_sys::fuzz_target!(|input: &[u8]| chain::run(input));
