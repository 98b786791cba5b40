// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The manifests: what is published can be found and built by strangers, and versions stand in one place.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::source::{Text, package_of};
use super::{Finding, code};
use crate::util;

/// The words that a page of the registry shows.
const METADATA: [&str; 8] = [
    "description",
    "license",
    "repository",
    "readme",
    "rust_version",
    "edition",
    "keywords",
    "categories",
];

pub(super) fn check(root: &Path, texts: &[Text], findings: &mut Vec<Finding>) -> Result<()> {
    let mut metadata = util::cargo(&["metadata", "--no-deps", "--format-version=1", "--offline"])?;
    let metadata = util::capture(metadata.current_dir(root))?;
    let metadata: Value = serde_json::from_str(&metadata).context("output of `cargo metadata`")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let path = manifest
            .strip_prefix(root)
            .unwrap_or(manifest)
            .display()
            .to_string();
        published(&path, package, findings);
        let readme = format!("{}/README.md", package_of(&path));
        if path.starts_with("crates/") && !texts.iter().any(|text| text.path == readme) {
            findings.push(Finding::new(&path, 1, "readme", format!("{readme} is missing")));
        }
    }
    for text in texts.iter().filter(|text| text.path.ends_with("/Cargo.toml")) {
        versions(text, findings);
    }
    Ok(())
}

/// What lies in `crates/` can be published as it is; `package` is its entry in the output of `cargo metadata`.
fn published(path: &str, package: &Value, findings: &mut Vec<Finding>) {
    if !path.starts_with("crates/") {
        return;
    }
    let mut push = |rule, text| findings.push(Finding::new(path, 1, rule, text));
    let absent = |value: &Value| {
        value.is_null() || value.as_str() == Some("") || value.as_array().is_some_and(|list| list.is_empty())
    };
    for key in METADATA.iter().filter(|key| absent(&package[**key])) {
        push("metadata", format!("`{}` is missing", key.replace('_', "-")));
    }
    if !package["publish"].is_null() {
        push("metadata", "what lies in crates/ is published".to_owned());
    }
    let name = package["name"].as_str().unwrap_or_default();
    if Path::new(path)
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|folder| folder != name)
    {
        push(
            "metadata",
            format!("the package `{name}` and its folder have different names"),
        );
    }
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let dependency_name = dependency["name"].as_str().unwrap_or_default();
        if dependency["req"] == "*" {
            push(
                "metadata",
                format!("the dependency `{dependency_name}` needs a version to be published"),
            );
        }
        let behind = code::BEHIND_THE_WALL.contains(&dependency_name.replace('-', "_").as_str());
        if name.starts_with("vhost-device-") && behind {
            push(
                "wall",
                format!("a device does not depend on `{dependency_name}`: vu-common does"),
            );
        }
    }
}

/// A package names a dependency with `workspace = true`: the version stands in the root.
fn versions(manifest: &Text, findings: &mut Vec<Finding>) {
    let mut in_dependencies = false;
    for (index, line) in manifest.text.lines().enumerate() {
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end().ends_with("dependencies]");
        } else if in_dependencies
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains("workspace = true")
        {
            let text = "use `workspace = true`: the version stands in the Cargo.toml at the top";
            findings.push(Finding::new(&manifest.path, index + 1, "version", text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::short;
    use super::{Text, Value, published, versions};

    fn package(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut package: Value = serde_json::from_str(
            r#"{"name": "vhost-device-x", "description": "A device", "license": "MIT", "repository": "r",
                "readme": "README.md", "rust_version": "1.88", "edition": "2024", "keywords": ["k"],
                "categories": ["c"], "publish": null, "dependencies": [{"name": "log", "req": "^0.4"}]}"#,
        )
        .unwrap();
        change(&mut package);
        let mut findings = Vec::new();
        published("crates/vhost-device-x/Cargo.toml", &package, &mut findings);
        findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.rule, finding.text))
            .collect()
    }

    #[test]
    fn a_package_with_everything_is_fine() {
        assert!(package(|_| ()).is_empty());
    }

    #[test]
    fn missing_metadata_is_found() {
        assert_eq!(
            package(|p| p["description"] = Value::Null),
            ["metadata: `description` is missing"]
        );
        assert_eq!(
            package(|p| p["keywords"] = Value::Array(vec![])),
            ["metadata: `keywords` is missing"]
        );
        assert_eq!(
            package(|p| p["rust_version"] = Value::Null),
            ["metadata: `rust-version` is missing"]
        );
        assert_eq!(
            package(|p| p["publish"] = Value::Array(vec![])),
            ["metadata: what lies in crates/ is published"]
        );
        let renamed = package(|p| p["name"] = "vhost-device-y".into());
        assert_eq!(
            renamed,
            ["metadata: the package `vhost-device-y` and its folder have different names"]
        );
    }

    #[test]
    fn a_dependency_that_cannot_be_published_is_found() {
        let found = package(|p| p["dependencies"][0]["req"] = "*".into());
        assert_eq!(
            found,
            ["metadata: the dependency `log` needs a version to be published"]
        );
    }

    #[test]
    fn a_device_that_depends_on_what_is_behind_the_wall_is_found() {
        let found = package(|p| p["dependencies"][0]["name"] = "virtio-queue".into());
        assert_eq!(
            found,
            ["wall: a device does not depend on `virtio-queue`: vu-common does"]
        );
    }

    #[test]
    fn a_version_outside_of_the_root_is_found() {
        let find = |text: &str| {
            let mut findings = Vec::new();
            versions(
                &Text {
                    path: "crates/x/Cargo.toml".to_owned(),
                    text: text.to_owned(),
                },
                &mut findings,
            );
            short(&findings)
        };
        assert_eq!(
            find("[package]\nname = \"x\"\n[dependencies]\nlog = \"0.4\"\n"),
            ["4: version"]
        );
        assert_eq!(
            find("[dev-dependencies]\nlog = { version = \"0.4\" }\n"),
            ["2: version"]
        );
        assert!(
            find("[dependencies]\nlog.workspace = true\nx = { workspace = true }\n[lints]\ny = 1\n")
                .is_empty()
        );
    }
}
