// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernel configuration: what fragments ask for, and whether the kernel took it.

use std::collections::BTreeMap;

/// The symbols that fragments ask for, the last one winning: `None` stands for `# CONFIG_X is not set`.
pub(super) fn requested(fragments: &str) -> BTreeMap<&str, Option<&str>> {
    fragments.lines().filter_map(setting).collect()
}

/// Each request that `config`, the kernel's final configuration, does not honour, for people. Kconfig drops silently
/// what is misspelt, was renamed, or depends on something that is off.
pub(super) fn refused(requested: &BTreeMap<&str, Option<&str>>, config: &str) -> Vec<String> {
    let actual: BTreeMap<&str, &str> = config
        .lines()
        .filter_map(setting)
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let shown = |value: Option<&str>| value.unwrap_or("not set").to_owned();
    requested
        .iter()
        .filter(|(name, value)| actual.get(*name).copied() != **value)
        .map(|(name, value)| {
            format!(
                "{name}: asked {}, got {}",
                shown(*value),
                shown(actual.get(name).copied())
            )
        })
        .collect()
}

fn setting(line: &str) -> Option<(&str, Option<&str>)> {
    let unset = line
        .strip_prefix("# ")
        .and_then(|rest| rest.strip_suffix(" is not set"));
    match unset {
        Some(name) => Some((name, None)).filter(|_| name.starts_with("CONFIG_")),
        None => line
            .split_once('=')
            .map(|(name, value)| (name, Some(value)))
            .filter(|_| line.starts_with("CONFIG_")),
    }
}

#[cfg(test)]
mod tests {
    use super::{refused, requested};

    const FRAGMENTS: &str =
        "# a comment = 1\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=\"x\"\nCONFIG_A=m\n";

    #[test]
    fn the_last_request_wins() {
        let requested = requested(FRAGMENTS);
        assert_eq!(requested.len(), 4);
        assert_eq!(requested["CONFIG_A"], Some("m"));
        assert_eq!(requested["CONFIG_C"], None);
    }

    #[test]
    fn what_did_not_take_is_named() {
        let requested = requested(FRAGMENTS);
        assert!(refused(&requested, "CONFIG_A=m\nCONFIG_B=m\nCONFIG_D=\"x\"\nCONFIG_E=y\n").is_empty());
        assert_eq!(
            refused(
                &requested,
                "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_D=\"x\"\n"
            ),
            [
                "CONFIG_A: asked m, got y",
                "CONFIG_B: asked m, got not set",
                "CONFIG_C: asked not set, got y"
            ]
        );
    }
}
