// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a program is made of, as a bill of materials in the format of CycloneDX 1.5: the crates that it is linked from.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Package, Source, write};

pub(super) fn make(source: &Source, package: &Package, out: &Path) -> Result<()> {
    let text = format!("{:#}\n", bill(&source.metadata, package)?);
    write(&out.join(format!("{}.cdx.json", package.name)), text.as_bytes())
}

fn bill(metadata: &Value, package: &Package) -> Result<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (packages, nodes) = (list(&metadata["packages"]), list(&metadata["resolve"]["nodes"]));
    let ours = packages
        .iter()
        .find(|one| one["name"] == package.name.as_str() && one["source"].is_null());
    let ours = &ours.with_context(|| format!("{} is not in the metadata", package.name))?["id"];
    let needs = |id: &Value| -> Vec<Value> {
        let node = nodes.iter().find(|node| node["id"] == *id);
        let deps = node.map(|node| list(&node["deps"])).unwrap_or_default();
        // Neither for tests nor for build scripts.
        let linked = deps
            .into_iter()
            .filter(|dep| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
        linked.map(|dep| dep["pkg"].clone()).collect()
    };
    let mut seen = BTreeSet::new();
    let mut waiting = vec![ours.clone()];
    while let Some(id) = waiting.pop() {
        if seen.insert(id.as_str().unwrap_or_default().to_owned()) {
            waiting.extend(needs(&id));
        }
    }
    let name = |id: &Value| {
        reference(
            packages
                .iter()
                .find(|one| one["id"] == *id)
                .unwrap_or(&Value::Null),
        )
    };
    let mut parts: Vec<&Value> = packages
        .iter()
        .filter(|one| one["id"].as_str().is_some_and(|id| seen.contains(id)))
        .collect();
    parts.sort_by_key(|part| reference(part));
    let dependencies: Vec<_> = parts
        .iter()
        .map(|part| {
            let on: BTreeSet<_> = needs(&part["id"]).iter().map(name).collect();
            json!({"ref": reference(part), "dependsOn": on})
        })
        .collect();
    let (main, libraries): (Vec<&Value>, Vec<&Value>) =
        parts.into_iter().partition(|part| part["id"] == *ours);
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": main.first().map(|part| component(part, "application"))},
        "components": libraries.into_iter().map(|part| component(part, "library")).collect::<Vec<_>>(),
        "dependencies": dependencies,
    }))
}

/// A package URL.
fn reference(part: &Value) -> String {
    let text = |key: &str| part[key].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", text("name"), text("version"))
}

fn component(part: &Value, kind: &str) -> Value {
    json!({
        "type": kind,
        "bom-ref": reference(part),
        "name": part["name"],
        "version": part["version"],
        "purl": reference(part),
        "licenses": [{"expression": part["license"].as_str().unwrap_or("NOASSERTION").replace('/', " OR ")}],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::bill;
    use crate::dist::Package;

    #[test]
    fn only_what_is_linked_is_in_it() {
        let package = |id: &str, source| json!({"id": id, "name": id, "version": "1", "source": source, "license": "MIT/Apache-2.0"});
        let dep = |id: &str, kind| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("vhost-device-x", None), package("a", Some("r")), package("b", Some("r")), package("dev", Some("r")), package("other", None)],
            "resolve": {"nodes": [
                {"id": "vhost-device-x", "deps": [dep("a", None), dep("dev", Some("dev"))]},
                {"id": "a", "deps": [dep("b", None), dep("other", Some("build"))]},
            ]},
        });
        let package = Package {
            name: "vhost-device-x".into(),
            version: "1".into(),
            description: String::new(),
            homepage: String::new(),
        };
        let bill = bill(&metadata, &package).unwrap();
        let names: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|part| part["name"].clone())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bill["metadata"]["component"]["name"], "vhost-device-x");
        assert_eq!(
            bill["components"][0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(
            bill["dependencies"][0],
            json!({"ref": "pkg:cargo/a@1", "dependsOn": ["pkg:cargo/b@1"]})
        );
    }
}
