// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`About`]: what is known of a daemon before its options are.

/// A command at the control socket (`--control-socket`), for who asks what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name: `set-line`.
    pub name: &'static str,
    /// Its arguments, as `vhost-device-ctl` takes them: `line=N value=0|1`.
    pub arguments: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

/// What a manager asks for with `--print-capabilities`, and what packages are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The device type, as the back-end program conventions of vhost-user name it: `rng`, `block`, `gpio`.
    /// Letters, digits and `-` only.
    pub kind: &'static str,
    /// Optional features of that type: `read-only`. Letters, digits and `-` only.
    pub features: &'static [&'static str],
    /// Devices of the host that some option opens, as `DeviceAllow=` of systemd.resource-control(5) takes them:
    /// `char-gpiochip`.
    pub host_devices: &'static [&'static str],
    /// Address families that some option needs beside `AF_UNIX`: `AF_INET`.
    pub address_families: &'static [&'static str],
    /// What the device can be told at the control socket beyond what every daemon can.
    pub commands: &'static [Command],
    /// The device's own options for a first try that needs no hardware: `--chip sim:8`.
    pub example: &'static str,
}

impl About {
    /// A daemon of that type without optional features, which needs nothing of the host.
    pub const fn new(kind: &'static str) -> Self {
        Self {
            kind,
            features: &[],
            host_devices: &[],
            address_families: &[],
            commands: &[],
            example: "",
        }
    }

    /// The answer to `--print-capabilities`: one JSON object on one line, such as
    /// `{"type":"block","features":["read-only"]}`.
    pub fn capabilities(&self) -> String {
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
    use super::About;

    #[test]
    fn a_device_without_features_has_only_a_type() {
        assert_eq!(About::new("rng").capabilities(), r#"{"type":"rng"}"#);
    }

    #[test]
    fn features_become_an_array() {
        let about = About {
            features: &["read-only", "blk-file"],
            ..About::new("block")
        };
        assert_eq!(
            about.capabilities(),
            r#"{"type":"block","features":["read-only", "blk-file"]}"#
        );
    }
}
