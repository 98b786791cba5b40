// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fuzz targets of `tests/fuzz` on their corpus and a fixed number of its descendants.

#[path = "../../../tests/fuzz/src/campaign.rs"]
mod campaign;
#[path = "../../../tests/fuzz/src/input_device.rs"]
mod input_device;
#[path = "../../../tests/fuzz/src/input_recording.rs"]
mod input_recording;
#[path = "../../../tests/fuzz/src/input_script.rs"]
mod input_script;

fn corpus(target: &str) -> String {
    format!("{}/../../tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_device_answers_as_the_specification_says() {
    campaign::run(&corpus("input_device"), 40_000, input_device::run);
}

#[test]
fn commands_do_what_a_device_can_do() {
    campaign::run(&corpus("input_script"), 40_000, input_script::run);
}

#[test]
fn recordings_are_of_what_a_device_can_do_and_errors_have_lines() {
    campaign::run(&corpus("input_recording"), 40_000, input_recording::run);
}
