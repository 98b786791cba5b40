// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A container image, as a folder in the OCI image layout (OCI image specification 1.1): one static program and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::build::Programs;
use super::{Package, Source, sha256, write};
use crate::util;

/// Nobody on the host, as a user without a name.
const USER: &str = "65532:65532";

pub(super) fn make(source: &Source, package: &Package, programs: &Programs, out: &Path) -> Result<()> {
    let image = out.join(format!("{}.oci", package.name));
    let layer = layer(source, package, programs)?;
    let plain = sha256(source, &layer)?;
    util::capture(source.tool("gzip").args(["-9", "-n", "-k", "-f"]).arg(&layer))?;
    let layer = blob_of_file(
        source,
        &image,
        &layer.with_extension("tar.gz"),
        "application/vnd.oci.image.layer.v1.tar+gzip",
    )?;
    let time = time(source)?;
    let config = json!({
        "architecture": architecture(source)?,
        "os": "linux",
        "created": time,
        "config": {
            "User": USER,
            "Entrypoint": [format!("/usr/bin/{}", package.name)],
            "WorkingDir": "/",
            "Labels": labels(package),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{plain}")]},
        "history": [{"created": time, "created_by": "cargo xtask dist"}],
    });
    let config = blob(
        source,
        &image,
        &config,
        "application/vnd.oci.image.config.v1+json",
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
        "annotations": labels(package),
    });
    let mut manifest = blob(
        source,
        &image,
        &manifest,
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": package.version});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    write(&image.join("index.json"), index.to_string().as_bytes())?;
    write(
        &image.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes(),
    )
}

/// The program, and empty folders for what a daemon makes or is given.
fn layer(source: &Source, package: &Package, programs: &Programs) -> Result<std::path::PathBuf> {
    let folder = source.fresh("oci")?;
    let root = folder.join("root");
    for (name, mode) in [
        ("run", 0o1777),
        ("tmp", 0o1777),
        ("usr/bin", 0o755),
        ("usr", 0o755),
    ] {
        fs::create_dir_all(root.join(name))?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode))?;
    }
    let program = root.join("usr/bin").join(&package.name);
    let from = programs.path(package);
    fs::copy(&from, &program).with_context(|| from.display().to_string())?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let layer = folder.join("layer.tar");
    let mut tar = source.tool("tar");
    tar.arg("--directory").arg(&root);
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--format=ustar",
    ]);
    tar.arg(format!("--mtime=@{}", source.epoch))
        .arg("--file")
        .arg(&layer)
        .args(["--create", "run", "tmp", "usr"]);
    util::capture(&mut tar)?;
    Ok(layer)
}

fn labels(package: &Package) -> Value {
    json!({
        "org.opencontainers.image.title": package.name,
        "org.opencontainers.image.description": package.description,
        "org.opencontainers.image.version": package.version,
        "org.opencontainers.image.licenses": "Apache-2.0 OR BSD-3-Clause",
        "org.opencontainers.image.source": package.homepage,
    })
}

/// As Go names it.
fn architecture(source: &Source) -> Result<String> {
    Ok(util::capture(source.tool("dpkg").arg("--print-architecture"))?
        .trim()
        .to_owned())
}

fn time(source: &Source) -> Result<String> {
    let mut date = source.tool("date");
    date.args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d"])
        .arg(format!("@{}", source.epoch));
    Ok(util::capture(&mut date)?.trim().to_owned())
}

fn blob(source: &Source, image: &Path, content: &Value, kind: &str) -> Result<Value> {
    let file = source.out.join("oci/blob");
    write(&file, content.to_string().as_bytes())?;
    blob_of_file(source, image, &file, kind)
}

/// Puts a file into the image; its descriptor.
fn blob_of_file(source: &Source, image: &Path, file: &Path, kind: &str) -> Result<Value> {
    let (bytes, sum) = (fs::read(file)?, sha256(source, file)?);
    write(&image.join("blobs/sha256").join(&sum), &bytes)?;
    Ok(json!({"mediaType": kind, "digest": format!("sha256:{sum}"), "size": bytes.len()}))
}
