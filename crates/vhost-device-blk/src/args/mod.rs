// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-blk`: which disks there are (`disks`), and how each is served (`options`).

mod disks;
mod options;
mod value;

pub(crate) use value::size;

use vu_common::CommonArgs;

use self::disks::Disks;
pub use self::disks::{DiskArgs, Source};
pub use self::options::{CacheMode, Cpus, DiskOptions, Format};

/// Serves virtio block devices to virtual machines over vhost-user.
///
/// Each disk goes to the socket that stands at the same place in the order of --socket-path. A disk is named by
/// one of --blk-file, --memory, --null and --nbd, or with options of its own by --disk. The other options
/// hold for all disks.
#[derive(Debug, clap::Parser)]
#[command(name = "vhost-device-blk", version)]
pub struct BlkArgs {
    /// The options that every device has.
    #[command(flatten)]
    pub common: CommonArgs,

    #[command(flatten)]
    disks: Disks,

    /// What holds for all disks.
    #[command(flatten)]
    options: DiskOptions,
}

/// There is nothing to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no disk: name one by --blk-file PATH, --nbd URI, --memory SIZE or --disk KEY=VALUE,...")]
pub struct NoDisk;

impl BlkArgs {
    /// The disks in the order of their sockets, each with all its options.
    ///
    /// # Errors
    /// There is none.
    pub fn disks(&self) -> Result<Vec<DiskArgs>, NoDisk> {
        let disks: Vec<_> = self.disks.with_defaults(&self.options).collect();
        if disks.is_empty() { Err(NoDisk) } else { Ok(disks) }
    }
}

impl AsRef<CommonArgs> for BlkArgs {
    fn as_ref(&self) -> &CommonArgs {
        &self.common
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use vu_storage::file::Aio;

    use super::{BlkArgs, CacheMode, DiskArgs, Format, NoDisk, Source};

    fn parse(options: &[&str]) -> Result<BlkArgs, clap::Error> {
        BlkArgs::try_parse_from(["vhost-device-blk"].iter().chain(options))
    }

    fn disks(options: &[&str]) -> Vec<DiskArgs> {
        parse(options).unwrap().disks().unwrap()
    }

    #[test]
    fn the_option_table_is_consistent_and_the_help_tells_all_of_it() {
        BlkArgs::command().debug_assert();
        let help = BlkArgs::command().render_long_help().to_string();
        for argument in BlkArgs::command().get_arguments() {
            let long = argument.get_long().unwrap();
            assert!(help.contains(&format!("--{long}")), "{long}");
            assert!(argument.get_help().is_some(), "{long}");
        }
    }

    #[test]
    fn disks_are_in_the_order_of_the_command_line() {
        let options = [
            "--memory=1M",
            "--disk=null=2M",
            "--blk-file",
            "a",
            "--null=3M",
            "--path=b",
            "--nbd=nbd://h/x",
            "--disk",
            "path=c",
            "--image=d",
        ];
        let sources: Vec<_> = disks(&options).into_iter().map(|disk| disk.source).collect();
        let file = |path: &str| Source::File(path.into());
        assert_eq!(
            sources,
            [
                Source::Memory(1 << 20),
                Source::Null(2 << 20),
                file("a"),
                Source::Null(3 << 20),
                file("b"),
                Source::Nbd("nbd://h/x".parse().unwrap()),
                file("c"),
                file("d"),
            ]
        );
    }

    #[test]
    fn options_hold_for_all_disks_that_do_not_say_otherwise() {
        let options = [
            "--memory=1M",
            "-r",
            "--serial=all",
            "--cache=unsafe",
            "--disk=memory=1M,read-only=off,serial=own,rate-iops=7",
            "--rate-iops=9",
        ];
        let disks = disks(&options);
        let facts = |disk: &DiskArgs| {
            let options = disk.options.clone();
            let iops = options.rate_iops.map(u64::from);
            (options.read_only, options.serial, options.cache, iops)
        };
        let text = |serial: &str| Some(serial.to_owned());
        let cache = Some(CacheMode::Unsafe);
        assert_eq!(facts(&disks[0]), (Some(true), text("all"), cache, Some(9)));
        assert_eq!(facts(&disks[1]), (Some(false), text("own"), cache, Some(7)));
    }

    #[test]
    fn an_option_of_the_command_line_reaches_a_disk_whole() {
        let options = [
            "--blk-file=a",
            "--format=qcow2",
            "--backing-file=b",
            "--backing-format=raw",
            "--readonly",
            "--cache=none",
            "--direct=off",
            "--aio=threads",
            "--discard=off",
            "--lock=off",
            "--block-size=4K",
            "--nbd-connections=2",
            "--nbd-timeout=3",
            "--serial=s",
            "--num-queues=4",
            "--queue-size=256",
            "--threads=2",
            "--cpus=0-1",
            "--poll-max-us=0",
            "--rate-iops=1",
            "--rate-bps=1M",
            "--rate-burst=2.5",
        ];
        let args = parse(&options).unwrap();
        let [disk] = &args.disks().unwrap()[..] else {
            panic!("one disk")
        };
        assert_eq!(disk.options, args.options);
        let given = format!("{:?}", disk.options);
        // Beside those in `Some`, there is none.
        assert_eq!(given.matches("None").count(), 1, "{given}");
        assert_eq!(disk.options.cache, Some(CacheMode::None));
        assert_eq!(
            (disk.options.format, disk.options.aio, disk.options.direct),
            (Some(Format::Qcow2), Some(Aio::Threads), Some(false))
        );
    }

    #[test]
    fn a_wrong_option_is_refused() {
        for option in [
            "--num-queues=0",
            "--num-queues=257",
            "--threads=0",
            "--rate-iops=0",
            "--poll-max-us=1000001",
            "--aio=fast",
            "--format=vmdk",
            "--cache=on",
            "--nbd=http://h/",
            "--nbd-connections=0",
            "--disk=memory=1M,colour=red",
            "--serial=123456789012345678901",
        ] {
            let error = parse(&["--memory=1M", option]).unwrap_err().to_string();
            assert!(error.starts_with("error: "), "{option}: {error}");
        }
    }

    #[test]
    fn without_a_disk_the_ways_to_name_one_are_told() {
        assert_eq!(parse(&["-s", "x"]).unwrap().disks(), Err(NoDisk));
        assert!(NoDisk.to_string().contains("--blk-file PATH"));
    }
}
