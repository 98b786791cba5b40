// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A profile of AppArmor, for hosts where it is the administrator's way to bound a daemon beside its own confinement. Files of
//! the host, as images of disks, go to the local part.

use std::fmt::Write as _;

use crate::about::About;

/// Paths of a kind of devices, by the name that `DeviceAllow=` of systemd has for it.
fn paths(kind: &str) -> &'static str {
    match kind {
        "char-gpiochip" => "/dev/gpiochip*",
        "char-hwrng" => "/dev/hwrng",
        "char-i2c" => "/dev/i2c-*",
        "char-input" => "/dev/input/{,**}",
        "block-sd" => "/dev/sd*",
        "block-loop" => "/dev/loop[0-9]*",
        "block-device-mapper" => "/dev/{dm-*,mapper/**}",
        "block-virtblk" => "/dev/vd*",
        "block-blkext" => "/dev/nvme[0-9]*n[0-9]*",
        _ => "/dev/null",
    }
}

/// The profile of the daemon `name`.
pub(super) fn profile(name: &str, about: &About) -> String {
    let mut text = format!(
        "abi <abi/3.0>,
include <tunables/global>

profile {name} /usr/bin/{name} flags=(attach_disconnected) {{
  include <abstractions/base>

  # It confines itself: namespaces, an empty root, no capabilities.
  capability setpcap,
  capability sys_admin,
  capability sys_resource,
  mount,
  umount,
  pivot_root,

  # --socket-group
  capability chown,
  /etc/group r,

  /usr/bin/{name} mr,
  @{{PROC}}/@{{pid}}/{{uid_map,gid_map,setgroups}} rw,
  @{{PROC}}/@{{pid}}/{{status,task/**}} r,
  /run/vhost-device/** rwk,
  unix (create, bind, listen, accept, connect, send, receive, getattr, setattr, getopt, setopt, shutdown),
  signal (receive),
"
    );
    for family in about.address_families {
        let family = family.trim_start_matches("AF_").to_lowercase();
        let _ = writeln!(text, "  network {family} stream,");
    }
    for kind in about.host_devices {
        let _ = writeln!(text, "  {} rwk,", paths(kind));
    }
    let _ = write!(text, "\n  include if exists <local/{name}>\n}}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::profile;
    use crate::about::About;

    #[test]
    fn devices_and_families_are_those_of_the_daemon() {
        let about = About {
            host_devices: &["char-i2c"],
            address_families: &["AF_INET6"],
            ..About::new("x")
        };
        let text = profile("vhost-device-x", &about);
        for line in [
            "  /dev/i2c-* rwk,",
            "  network inet6 stream,",
            "  include if exists <local/vhost-device-x>",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is not in {text}");
        }
        assert!(!profile("vhost-device-y", &About::new("y")).contains("/dev/"));
    }
}
