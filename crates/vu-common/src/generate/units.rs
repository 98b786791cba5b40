// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Units of systemd: a socket of root's, and a daemon with a user of its own behind it.
//!
//! An instance is a guest's device: `vhost-device-rng@vm1.socket` listens at `/run/vhost-device/rng-vm1.sock`, and its daemon has the
//! options of `/etc/vhost-device/rng-vm1.conf`.

use std::fmt::Write as _;

use crate::about::About;

/// The name without what all have in common: `rng`.
fn short(name: &str) -> &str {
    name.strip_prefix("vhost-device-").unwrap_or(name)
}

/// The socket unit, a template.
pub(super) fn socket(name: &str) -> String {
    let short = short(name);
    format!(
        "[Unit]
Description=Socket of {name} for %i

[Socket]
ListenStream=/run/vhost-device/{short}-%i.sock
SocketGroup=kvm
SocketMode=0660
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"
    )
}

/// The user of the daemon, for systemd-sysusers.
pub(super) fn sysusers(name: &str) -> String {
    format!("u {name} - \"{name}\"\n")
}

/// What no device needs.
const HARDENING: &str = "\
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateMounts=yes
PrivateTmp=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictNamespaces=user mnt net ipc uts
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount unshare seccomp
SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
";

/// The service unit, a template. Nothing of it stands in the way of the daemon's own confinement, which goes further.
pub(super) fn service(name: &str, about: &About) -> String {
    let short = short(name);
    let mut text = format!(
        "[Unit]
Description={name} for %i
Documentation=man:{name}(1)

[Service]
Type=notify
ExecStart=/usr/bin/{name} --fd 3 $OPTIONS
ExecReload=kill -HUP $MAINPID
Environment=\"OPTIONS={example}\"
EnvironmentFile=-/etc/vhost-device/{short}-%i.conf
User={name}
Restart=on-failure
LimitMEMLOCK=infinity
LimitNOFILE=65536
UMask=0077
",
        example = about.example
    );
    text.push_str(HARDENING);
    let _ = writeln!(
        text,
        "RestrictAddressFamilies={}",
        ["AF_UNIX"]
            .iter()
            .chain(about.address_families)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    );
    if about.address_families.is_empty() {
        text.push_str("PrivateNetwork=yes\nIPAddressDeny=any\n");
    }
    if about.host_devices.is_empty() {
        text.push_str("PrivateDevices=yes\n");
    }
    text.push_str("DevicePolicy=closed\n");
    for device in about.host_devices {
        let _ = writeln!(text, "DeviceAllow={device} rw");
    }
    text
}
