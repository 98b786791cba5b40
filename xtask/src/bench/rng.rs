// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The entropy device: a key, a page, and more than anybody asks for; and one request at a time, as Linux's hwrng core
//! does.

use anyhow::Result;
use vu_testkit::chains::Request;

use super::pair::{Args, Load, Pair};
use super::report;

/// `bytes` of entropy, `depth` times at once.
const fn load(what: &'static str, requests: fn() -> Vec<Request>, depth: usize) -> Load {
    Load {
        what,
        requests,
        depth,
        goal: None,
    }
}

fn bytes(writable: usize) -> Vec<Request> {
    vec![Request {
        readable: Vec::new(),
        writable,
    }]
}

const LOADS: &[Load] = &[
    load("64 B", || bytes(64), 64),
    load("4 KiB", || bytes(4 << 10), 64),
    load("64 KiB", || bytes(64 << 10), 64),
    load("64 B", || bytes(64), 1),
    load("4 KiB", || bytes(4 << 10), 1),
];

pub(super) fn run(args: &Args) -> Result<()> {
    let mut pair = Pair::start("rng", args.launches("rng")?, args)?;
    let groups = pair.loads(LOADS)?;
    let rows = [pair.start_up()?, pair.memory()?];
    let idle = pair.idle()?;
    report::print_groups(&groups);
    report::print(pair.peer(), &rows);
    report::print_facts(pair.peer(), &[idle]);
    Ok(())
}
