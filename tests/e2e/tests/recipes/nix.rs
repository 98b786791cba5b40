// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! microvm.nix: the modules are evaluated, and what they run is run.

use crate::book::Recipe;
use crate::kitchen::{Kitchen, finish};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;

/// Calls a module with packages that are only paths.
const CALL: &str = r#"{ config = { }; lib = { }; pkgs = { vhost-device-rng = "/nix/store/x"; }; }"#;

pub(crate) fn check(recipe: &mut Recipe, kitchen: &mut Kitchen<'_>) -> Result<()> {
    let mut guests = 0;
    for block in recipe.take("nix")? {
        let module = evaluate(&block.text).with_context(|| block.place.clone())?;
        if let Some(services) = module["systemd"]["services"].as_object() {
            for service in services.values() {
                serve(kitchen, &service["serviceConfig"])?;
            }
        } else {
            ensure!(
                module["microvm"]["hypervisor"] == "qemu",
                "not for QEMU: {module}"
            );
            boot(kitchen, &module["microvm"])?;
            guests += 1;
        }
    }
    ensure!(
        guests > 0 && !kitchen.daemons.is_empty(),
        "no guest, or no daemon"
    );
    Ok(())
}

fn evaluate(module: &str) -> Result<Value> {
    let mut command = Command::new("nix-instantiate");
    command.args(["--eval", "--strict", "--json", "--store", "dummy://", "--expr"]);
    let json = finish(command.arg(format!("({module}) {CALL}")))?;
    Ok(serde_json::from_str(&json)?)
}

/// Starts what the service starts.
fn serve(kitchen: &mut Kitchen<'_>, service: &Value) -> Result<()> {
    let line = kitchen.at_home(service["ExecStart"].as_str().context("no ExecStart")?);
    let mut words = line.split_whitespace();
    let program = words.next().context("no program")?;
    let name = program
        .strip_prefix("/nix/store/x/bin/")
        .context("no program of ours")?;
    kitchen.serve(name, &words.collect::<Vec<_>>())
}

/// Starts QEMU with the words that the guest adds to the line of microvm.nix.
fn boot(kitchen: &Kitchen<'_>, guest: &Value) -> Result<()> {
    let memory = format!("{}M", guest["mem"]);
    let machine = guest["qemu"]["machine"].as_str().context("no machine")?;
    let words = guest["qemu"]["extraArgs"].as_array().context("no words")?.iter();
    let words: Option<Vec<String>> = words.map(|word| Some(kitchen.at_home(word.as_str()?))).collect();
    let words = words.context("a word is not a string")?;
    let mut args = vec!["-M", machine, "-m", &memory];
    args.extend(words.iter().map(String::as_str));
    kitchen.qemu(&args)
}
