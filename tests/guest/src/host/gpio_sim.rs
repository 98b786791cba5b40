// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulated gpio chips: the kernel's gpio-sim, set up in configfs.

use super::string;
use anyhow::Context;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const FOLDER: &str = "/sys/kernel/config/gpio-sim";

/// Makes a chip of one bank. `/run/NAME` leads to the folder that has a `sim_gpioN` for each line, with `pull` to
/// drive the line from outside and `value` to measure it.
pub(super) fn make(chip: &Value) -> anyhow::Result<Value> {
    let name = string(&chip["name"])?;
    let bank = Path::new(FOLDER).join(name).join("bank0");
    folder(&bank)?;
    write(&bank.join("num_lines"), &chip["lines"].to_string())?;
    write(&bank.join("label"), name)?;
    for (line, name) in chip["names"].as_object().into_iter().flatten() {
        let line = bank.join(format!("line{line}"));
        folder(&line)?;
        write(&line.join("name"), string(name)?)?;
    }
    for (line, consumer) in chip["hogs"].as_object().into_iter().flatten() {
        let hog = bank.join(format!("line{line}/hog"));
        folder(&hog)?;
        write(&hog.join("name"), string(consumer)?)?;
        write(&hog.join("direction"), "output-high")?;
    }
    let chip = Path::new(FOLDER).join(name);
    write(&chip.join("live"), "1")?;
    let folder = Path::new("/sys/devices/platform")
        .join(read(&chip.join("dev_name"))?)
        .join(read(&bank.join("chip_name"))?);
    let link = Path::new("/run").join(name);
    symlink(&folder, &link).with_context(|| link.display().to_string())?;
    Ok(Value::Null)
}

/// Takes a chip away.
pub(super) fn unplug(name: &Value) -> anyhow::Result<Value> {
    write(&Path::new(FOLDER).join(string(name)?).join("live"), "0")?;
    Ok(Value::Null)
}

fn folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}
