// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fuzz targets of `tests/fuzz` on their corpus and a fixed number of its descendants.

#[path = "../../../tests/fuzz/src/blk_request.rs"]
mod blk_request;
#[path = "../../../tests/fuzz/src/campaign.rs"]
mod campaign;
#[path = "../../../tests/fuzz/src/chain.rs"]
mod chain;

fn corpus(target: &str) -> String {
    format!("{}/../../tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn requests_are_parsed_as_the_specification_says() {
    campaign::run(&corpus("blk_request"), 300_000, blk_request::run);
}

#[test]
fn chains_are_walked_as_the_specification_says() {
    campaign::run(&corpus("chain"), 50_000, chain::run);
}
