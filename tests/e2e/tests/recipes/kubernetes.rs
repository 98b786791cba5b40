// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kubernetes and KubeVirt: what a container runs is run, and the hook changes a domain as libvirt takes it.

use crate::book::{Block, Recipe};
use crate::kitchen::{Kitchen, finish};
use crate::libvirt;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;
use vu_e2e::daemon::{self, Profile};

/// What reads YAML: Debian's module for its Python.
pub(crate) const YAML: &str = "/usr/lib/python3/dist-packages/yaml/__init__.py";

/// A domain as KubeVirt makes it, as far as it matters to the hook.
const DOMAIN: &str = "<domain type='kvm'><name>guest</name><memory unit='MiB'>512</memory>\
    <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices></devices></domain>";

/// How KubeVirt names the hook's container.
const HOOK: &str = "hook-sidecar-0";

/// The documents of all blocks of YAML.
fn documents(blocks: &[Block]) -> Result<Vec<Value>> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.argv[1]))))";
    let mut documents: Vec<Value> = Vec::new();
    for block in blocks {
        let json = finish(Command::new("/usr/bin/python3").args(["-c", program, &block.text]))
            .with_context(|| block.place.clone())?;
        documents.append(&mut serde_json::from_str(&json)?);
    }
    for document in &documents {
        for key in ["apiVersion", "kind"] {
            ensure!(document[key].is_string(), "no {key} in {document}");
        }
        ensure!(document["metadata"]["name"].is_string(), "no name in {document}");
    }
    Ok(documents)
}

/// Starts each daemon of the set with its arguments.
pub(crate) fn fleet(recipe: &mut Recipe, kitchen: &mut Kitchen<'_>) -> Result<()> {
    for document in documents(&recipe.take("yaml")?)? {
        let spec = &document["spec"]["template"]["spec"];
        let volumes: Vec<&Value> = list(&spec["volumes"])?
            .iter()
            .map(|volume| &volume["name"])
            .collect();
        for container in list(&spec["containers"])? {
            let mounts = list(&container["volumeMounts"])?;
            ensure!(
                mounts.iter().all(|mount| volumes.contains(&&mount["name"])),
                "a volume of {container} is not there"
            );
            let args = list(&container["args"])?.iter();
            let args: Option<Vec<String>> = args.map(|arg| Some(kitchen.at_home(arg.as_str()?))).collect();
            let args = args.context("an argument is not a string")?;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            kitchen.serve(container["image"].as_str().context("no image")?, &args)?;
        }
    }
    ensure!(!kitchen.daemons.is_empty(), "no daemon");
    Ok(())
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}

/// Calls the hook for a domain: it starts the daemon, and libvirt takes what it gives.
pub(crate) fn hook(recipe: &mut Recipe, kitchen: &mut Kitchen<'_>) -> Result<()> {
    let image = recipe.take("dockerfile")?;
    let copied = image[0].text.lines().find_map(|line| line.strip_prefix("COPY "));
    ensure!(
        copied == Some("vhost-device-rng /usr/bin/vhost-device-rng"),
        "the image has {copied:?}"
    );
    let documents = documents(&recipe.take("yaml")?)?;
    let [map, guest] = &documents[..] else {
        anyhow::bail!("{} documents", documents.len());
    };
    let annotation = &guest["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"];
    let hooks: Value = serde_json::from_str(annotation.as_str().context("no hook")?)?;
    ensure!(
        hooks[0]["configMap"]["name"] == map["metadata"]["name"],
        "another map"
    );
    ensure!(
        hooks[0]["configMap"]["hookPath"] == "/usr/bin/onDefineDomain",
        "another hook"
    );
    let key = hooks[0]["configMap"]["key"].as_str().context("no key")?;
    let script = map["data"][key].as_str().context("no script")?;

    let changed = call(kitchen, script)?;
    let line = libvirt::argv(kitchen, &changed)?;
    ensure!(
        line.contains(&format!("{HOOK}/rng.sock")),
        "another socket: {line}"
    );
    for part in [
        "-device vhost-user-rng-pci,chardev=rng,bus=pcie.0,addr=0x10",
        "memory-backend-memfd",
        "\"share\":true",
    ] {
        ensure!(line.contains(part), "libvirt leaves out {part}: {line}");
    }
    kitchen.qemu(&[
        "-M",
        "q35",
        "-chardev",
        &chardev(&line)?,
        "-device",
        "vhost-user-rng-pci,chardev=rng,bus=pcie.0,addr=0x10",
    ])
}

/// The backend of the device on libvirt's line.
fn chardev(line: &str) -> Result<String> {
    let word = line
        .split_whitespace()
        .find(|word| word.starts_with("socket,id=rng,"));
    word.map(str::to_owned).context("no socket")
}

/// Runs the script as the hook's program does, and ends the daemon that it leaves behind when the test ends.
fn call(kitchen: &mut Kitchen<'_>, script: &str) -> Result<String> {
    let program = daemon::build("vhost-device-rng", Profile::Debug)?;
    let path = std::env::var("PATH")?;
    let bin = program.parent().context("no folder")?.display();
    // What the hook has at the top, the VM has in a folder of the hook's name.
    std::os::unix::fs::symlink(".", kitchen.scratch.path(HOOK))?;
    // The daemon is the test's, so that it goes with it; the script finds it there, as at its second call.
    let socket = kitchen.scratch.path("rng.sock").display().to_string();
    let script = kitchen.at_home(script);
    let start = script
        .lines()
        .find(|line| line.contains("vhost-device-rng --socket-path"));
    ensure!(
        start.is_some_and(|line| line.trim_end().ends_with('&')),
        "no daemon"
    );
    kitchen.serve("vhost-device-rng", &["--socket-path", &socket])?;
    finish(
        Command::new("sh")
            .args(["-c", &script, "onDefineDomain", "--vmi", "{}", "--domain", DOMAIN])
            .env("PATH", format!("{bin}:{path}"))
            .env("CONTAINER_NAME", HOOK),
    )
}
