// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fuzz target of `tests/fuzz` on its corpus and a fixed number of its descendants.

#[path = "../../../tests/fuzz/src/campaign.rs"]
mod campaign;
#[path = "../../../tests/fuzz/src/vsock_packet.rs"]
mod vsock_packet;

#[test]
fn packets_are_parsed_as_the_specification_says() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fuzz/corpus/vsock_packet"
    );
    campaign::run(corpus, 300_000, vsock_packet::run);
}
