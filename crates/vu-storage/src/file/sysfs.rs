// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What sysfs says of a block device.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Lifetime;

/// The directory of a whole disk in sysfs, also for one of its partitions.
#[derive(Clone, Debug)]
pub(super) struct Device(PathBuf);

impl Device {
    /// The disk with these numbers; `None` if sysfs does not know it (file systems without one device).
    pub(super) fn of(major: u32, minor: u32) -> Option<Self> {
        let found = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        Some(Self::at(&found))
    }

    fn at(dir: &Path) -> Self {
        let partition = dir.join("partition").exists();
        let disk = if partition { dir.parent() } else { None };
        Self(disk.unwrap_or(dir).into())
    }

    /// As in `/dev`.
    pub(super) fn name(&self) -> &str {
        self.0
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// A number from `queue/`.
    pub(super) fn queue<T: FromStr>(&self, attribute: &str) -> Option<T> {
        read(&self.0.join("queue").join(attribute))?.parse().ok()
    }

    /// Wear, of eMMC and UFS.
    pub(super) fn lifetime(&self) -> Option<Lifetime> {
        self.emmc().or_else(|| self.ufs())
    }

    /// `life_time` has both estimates, each in steps of 10 %, `pre_eol_info` the reserved blocks.
    fn emmc(&self) -> Option<Lifetime> {
        let device = self.0.join("device");
        let both = read(&device.join("life_time"))?;
        let mut estimates = both.split_whitespace().filter_map(hex);
        Some(Lifetime {
            pre_eol_info: hex(&read(&device.join("pre_eol_info"))?)?,
            device_lifetime_est_typ_a: estimates.next()?,
            device_lifetime_est_typ_b: estimates.next()?,
        })
    }

    /// The host controller, some levels above the logical unit, has the health descriptor.
    fn ufs(&self) -> Option<Lifetime> {
        let device = fs::canonicalize(self.0.join("device")).ok()?;
        let health = device
            .ancestors()
            .map(|dir| dir.join("health_descriptor"))
            .find(|dir| dir.is_dir())?;
        let value = |name| hex(&read(&health.join(name))?);
        Some(Lifetime {
            pre_eol_info: value("eol_info")?,
            device_lifetime_est_typ_a: value("life_time_estimation_a")?,
            device_lifetime_est_typ_b: value("life_time_estimation_b")?,
        })
    }
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn hex(number: &str) -> Option<u16> {
    u16::from_str_radix(number.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree like sysfs, removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("vu-sysfs-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn lifetime(pre_eol_info: u16, a: u16, b: u16) -> Option<Lifetime> {
        Some(Lifetime {
            pre_eol_info,
            device_lifetime_est_typ_a: a,
            device_lifetime_est_typ_b: b,
        })
    }

    #[test]
    fn a_partition_has_the_limits_and_the_wear_of_its_disk() {
        let tree = Tree::new(
            "emmc",
            &[
                ("mmcblk0/queue/discard_granularity", "4194304\n"),
                ("mmcblk0/device/life_time", "0x03 0x0b\n"),
                ("mmcblk0/device/pre_eol_info", "0x02\n"),
                ("mmcblk0/mmcblk0p1/partition", "1\n"),
            ],
        );
        for dir in ["mmcblk0", "mmcblk0/mmcblk0p1"] {
            let device = Device::at(&tree.0.join(dir));
            assert_eq!(device.name(), "mmcblk0");
            assert_eq!(device.queue("discard_granularity"), Some(4_194_304_u32));
            assert_eq!(device.queue::<u32>("nothing"), None);
            assert_eq!(device.lifetime(), lifetime(2, 3, 11));
        }
    }

    #[test]
    fn the_wear_of_ufs_is_that_of_its_host_controller() {
        let tree = Tree::new(
            "ufs",
            &[
                ("ufs/health_descriptor/eol_info", "0x01\n"),
                ("ufs/health_descriptor/life_time_estimation_a", "0x02\n"),
                ("ufs/health_descriptor/life_time_estimation_b", "0x04\n"),
                ("ufs/host0/target/unit/vendor", "x\n"),
                ("ufs/host0/target/unit/block/sda/size", "8\n"),
            ],
        );
        let disk = tree.0.join("ufs/host0/target/unit/block/sda");
        std::os::unix::fs::symlink("../..", disk.join("device")).unwrap();
        assert_eq!(Device::at(&disk).lifetime(), lifetime(1, 2, 4));
    }

    #[test]
    fn what_has_no_wear_says_nothing() {
        let tree = Tree::new("none", &[("sda/size", "8\n")]);
        assert_eq!(Device::at(&tree.0.join("sda")).lifetime(), None);
    }
}
