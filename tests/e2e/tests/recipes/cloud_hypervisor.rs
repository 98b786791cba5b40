// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cloud Hypervisor: what is said of each device is what its daemon says.

use crate::book::Recipe;
use crate::kitchen::{Kitchen, finish};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use vu_e2e::daemon::{self, Profile};
use vu_testkit::frontend::FrontEnd;

pub(crate) fn check(recipe: &mut Recipe, kitchen: &mut Kitchen<'_>) -> Result<()> {
    for block in recipe.take("sh")? {
        kitchen.run(&block.text)?;
    }
    let values = recipe.take("text")?;
    let mut sockets = 0;
    for line in values.iter().flat_map(|block| block.text.lines()) {
        check_device(&kitchen.at_home(line)).with_context(|| line.to_owned())?;
        sockets += 1;
    }
    ensure!(sockets == kitchen.daemons.len(), "{sockets} lines");
    Ok(())
}

/// Compares `socket=PATH,device_type=NAME,queue_sizes=[N,...]` with the daemon that listens there.
fn check_device(value: &str) -> Result<()> {
    let (socket, rest) = value
        .strip_prefix("socket=")
        .and_then(|rest| rest.split_once(",device_type="))
        .context("no socket or type")?;
    let (kind, sizes) = rest.split_once(",queue_sizes=[").context("no sizes")?;
    let sizes = sizes.strip_suffix(']').context("sizes without an end")?;
    let sizes: Vec<u16> = sizes.split(',').map(str::parse).collect::<Result<_, _>>()?;
    ensure!(
        sizes.iter().all(|size| size.is_power_of_two()),
        "sizes must be powers of two"
    );

    let socket = Path::new(socket);
    let name = socket.file_stem().context("no name")?.to_string_lossy();
    let program = daemon::build(&format!("vhost-device-{name}"), Profile::Debug)?;
    let says: Value = serde_json::from_str(&finish(Command::new(program).arg("--print-capabilities"))?)?;
    ensure!(says["type"] == kind, "the daemon says {says}");

    let mut front_end = FrontEnd::connect(socket, Duration::from_secs(30))?;
    front_end.get_features()?;
    let protocol_features = front_end.get_protocol_features()?;
    front_end.set_protocol_features(protocol_features)?;
    let queues = front_end.get_queue_num()?;
    ensure!(queues == sizes.len() as u64, "the daemon has {queues} virtqueues");
    Ok(())
}
