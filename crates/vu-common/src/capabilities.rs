// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `--print-capabilities` answers to a manager such as libvirt.

/// The type and the optional features of a daemon, as the back-end program conventions of vhost-user name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The device type: `rng`, `block`, `gpio`. Letters, digits and `-` only.
    pub kind: &'static str,
    /// Optional features of that type: `read-only`. Letters, digits and `-` only.
    pub features: &'static [&'static str],
}

impl Capabilities {
    /// One JSON object on one line: `{"type":"block","features":["read-only"]}`.
    pub fn to_json(&self) -> String {
        // For such names, Rust's debug notation of strings and arrays is JSON.
        if self.features.is_empty() {
            format!(r#"{{"type":{:?}}}"#, self.kind)
        } else {
            format!(r#"{{"type":{:?},"features":{:?}}}"#, self.kind, self.features)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Capabilities;

    #[test]
    fn a_device_without_features_has_only_a_type() {
        let capabilities = Capabilities {
            kind: "rng",
            features: &[],
        };
        assert_eq!(capabilities.to_json(), r#"{"type":"rng"}"#);
    }

    #[test]
    fn features_become_an_array() {
        let capabilities = Capabilities {
            kind: "block",
            features: &["read-only", "blk-file"],
        };
        assert_eq!(
            capabilities.to_json(),
            r#"{"type":"block","features":["read-only", "blk-file"]}"#
        );
    }
}
