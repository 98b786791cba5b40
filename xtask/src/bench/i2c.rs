// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The I2C adapter: the messages that drivers of registers send, one at a time and as many as fit into QEMU's ring.

use anyhow::{Result, ensure};
use vu_testkit::chains::Request;
use vu_testkit::devices::i2c::{REGISTERS, read, status, write};

use super::pair::{Args, Load, Pair};
use super::report;

const fn load(what: &'static str, requests: fn() -> Vec<Request>, depth: usize) -> Load {
    Load {
        what,
        requests,
        depth,
        goal: Some(2.0),
    }
}

/// A register is selected and filled by a write; a read goes on where the last one ended.
const LOADS: &[Load] = &[
    load("write of 2 bytes", || vec![write(REGISTERS, 0, &[0, 1])], 1),
    load("write of 2 bytes", || vec![write(REGISTERS, 0, &[0, 1])], 4),
    load("read of 2 bytes", || vec![read(REGISTERS, 0, 2)], 1),
    load("read of 2 bytes", || vec![read(REGISTERS, 0, 2)], 4),
    load("read of 32 bytes", || vec![read(REGISTERS, 0, 32)], 4),
];

pub(super) fn run(args: &Args) -> Result<()> {
    let mut pair = Pair::start("i2c", args.launches("i2c")?, args)?;
    let profile = pair.profile.clone();
    // All that follows is worth nothing when the answers are wrong.
    pair.each(|bench| {
        bench.ask(&*profile, &write(REGISTERS, 0, &[0, 17, 34]))?;
        bench.ask(&*profile, &write(REGISTERS, 0, &[0]))?;
        let answer = bench.ask(&*profile, &read(REGISTERS, 0, 2))?;
        ensure!(answer == [17, 34, status::OK], "registers read as {answer:?}");
        Ok(())
    })?;
    let groups = pair.loads(LOADS)?;
    let rows = [pair.start_up()?, pair.memory()?];
    let idle = pair.idle()?;
    report::print_groups(&groups);
    report::print(pair.peer(), &rows);
    report::print_facts(pair.peer(), &[idle]);
    Ok(())
}
