// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fuzz targets of `tests/fuzz` for NBD, on their corpus and a fixed number of its descendants.

#[path = "../../../tests/fuzz/src/campaign.rs"]
mod campaign;
#[path = "../../../tests/fuzz/src/nbd_handshake.rs"]
mod nbd_handshake;
#[path = "../../../tests/fuzz/src/nbd_reply.rs"]
mod nbd_reply;

fn corpus(target: &str) -> String {
    format!("{}/../../tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn replies_are_taken_as_the_specification_says() {
    campaign::run(&corpus("nbd_reply"), 50_000, nbd_reply::run);
}

#[test]
fn handshakes_end_in_an_export_or_a_message() {
    campaign::run(&corpus("nbd_handshake"), 100_000, nbd_handshake::run);
}
