// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The recipes of docs/recipes: each block of each is run, or taken by the program that it is for.

mod book;
mod cloud_hypervisor;
mod discovery;
mod kitchen;
mod kubernetes;
mod libvirt;
mod nix;
mod systemd;

use anyhow::{Result, ensure};
use book::Recipe;
use kitchen::Kitchen;
use std::collections::BTreeSet;
use vu_e2e::artifacts::tools;
use vu_e2e::quick::skip;
use vu_e2e::scratch::Scratch;

/// The documents, each with the test of its name here.
const RECIPES: [&str; 7] = [
    "cloud-hypervisor",
    "kubernetes",
    "kubevirt",
    "libvirt",
    "microvm-nix",
    "qemu",
    "systemd",
];

/// What of `needs` is not here.
fn missing(needs: &[&str]) -> Option<String> {
    let missing = needs.iter().find(|program| !tools::installed(program))?;
    Some(format!("{missing}: not installed"))
}

/// Has `check` take every block of the recipe `name`, unless a program that it needs is not here.
fn cook(
    name: &str,
    needs: &[&str],
    check: impl FnOnce(&mut Recipe, &mut Kitchen<'_>) -> Result<()>,
) -> Result<()> {
    ensure!(RECIPES.contains(&name), "{name}: not in the list");
    if let Some(missing) = missing(needs) {
        return skip(&format!("recipes::{name}"), &missing);
    }
    Scratch::scope(|scratch| {
        let mut recipe = Recipe::read(name)?;
        check(&mut recipe, &mut Kitchen::new(scratch))?;
        recipe.close()
    })
}

#[test]
fn every_document_has_a_test() -> Result<()> {
    let files = std::fs::read_dir(book::folder())?;
    let names = files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    let names: BTreeSet<String> = names.collect::<Result<_>>()?;
    let tested = RECIPES.iter().map(|name| format!("{name}.md"));
    let expected: BTreeSet<String> = tested.chain(["README.md".to_owned()]).collect();
    ensure!(names == expected, "documents {names:?}, tests {expected:?}");
    Ok(())
}

#[test]
fn qemu() -> Result<()> {
    cook("qemu", &[], |recipe, kitchen| {
        let blocks = recipe.take("sh")?;
        blocks.iter().try_for_each(|block| kitchen.run(&block.text))
    })
}

#[test]
fn libvirt() -> Result<()> {
    cook("libvirt", &["virsh", libvirt::DRIVER], libvirt::check)
}

#[test]
fn a_guest_with_a_shared_folder_starts_beside_our_files() -> Result<()> {
    let name = "recipes::a_guest_with_a_shared_folder_starts_beside_our_files";
    if !systemd::may_start() {
        return skip(name, "we may not have namespaces");
    }
    if let Some(missing) = missing(&["virsh", libvirt::DRIVER]) {
        return skip(name, &missing);
    }
    Scratch::scope(|scratch| discovery::check(&Kitchen::new(scratch)))
}

#[test]
fn systemd() -> Result<()> {
    if !systemd::may_start() {
        return skip(
            "recipes::systemd",
            "we may not have namespaces for a systemd of our own",
        );
    }
    cook("systemd", &["nsenter", "systemd-analyze"], systemd::check)
}

#[test]
fn cloud_hypervisor() -> Result<()> {
    cook("cloud-hypervisor", &[], cloud_hypervisor::check)
}

#[test]
fn kubernetes() -> Result<()> {
    cook("kubernetes", &[kubernetes::YAML], kubernetes::fleet)
}

#[test]
fn kubevirt() -> Result<()> {
    cook(
        "kubevirt",
        &[kubernetes::YAML, "virsh", libvirt::DRIVER],
        kubernetes::hook,
    )
}

#[test]
fn microvm_nix() -> Result<()> {
    cook("microvm-nix", &["nix-instantiate"], nix::check)
}
