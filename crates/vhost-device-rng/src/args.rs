// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `vhost-device-rng`.

use std::num::{NonZeroU32, NonZeroUsize, ParseIntError};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use vu_common::CommonArgs;

use crate::bucket::Limit;

/// Serves a virtio entropy device to virtual machines over vhost-user.
///
/// Each socket is one device for one guest. All of them take their bytes from one source, and
/// each has its own limit.
#[derive(Debug, clap::Parser)]
#[command(name = "vhost-device-rng", version)]
pub struct RngArgs {
    /// The options that every device has.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Where the bytes come from: getrandom, file:PATH or seeded:N
    ///
    /// `getrandom` is the host kernel's generator, the right choice for nearly everybody.
    ///
    /// `file:PATH` (or any PATH with a slash) reads a character device such as /dev/hwrng, a FIFO or
    /// a regular file. It is opened once: no byte goes to two guests. While a device or FIFO has no
    /// bytes, requests wait; a FIFO's writer may leave and come back. A regular file is read
    /// once from start to end; after its end each request is answered with no bytes, and a Linux guest
    /// then asks no more until its driver is bound anew.
    ///
    /// `seeded:N` is a fixed sequence, for tests only: it is not random, and every guest gets the same.
    #[arg(short = 'f', long, visible_alias = "filename", default_value = "getrandom")]
    pub source: Source,

    /// Most bytes that a guest gets per period; without it there is no limit
    ///
    /// A request waits until all its bytes are within the limit, or gets N bytes when it asks for more.
    /// The allowance grows evenly, so waits are as short as the rate permits; what a guest does not
    /// use is saved up to N bytes and may be taken at once.
    #[arg(short, long, value_name = "N")]
    pub max_bytes: Option<NonZeroUsize>,

    /// Length of a period in milliseconds
    #[arg(short, long, value_name = "MS")]
    #[arg(requires = "max_bytes", default_value = "65536")]
    pub period: NonZeroU32,
}

impl RngArgs {
    /// The limit of each guest, if `--max-bytes` sets one.
    pub fn limit(&self) -> Option<Limit> {
        let period = Duration::from_millis(self.period.get().into());
        self.max_bytes.map(|bytes| Limit { bytes, period })
    }
}

impl AsRef<CommonArgs> for RngArgs {
    fn as_ref(&self) -> &CommonArgs {
        &self.common
    }
}

/// The value of `--source`: which backend to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host kernel's generator.
    Getrandom,
    /// A regular file, a character device or a FIFO.
    File(PathBuf),
    /// A fixed sequence, for tests.
    Seeded(u64),
}

/// A value of `--source` that names no source.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// None of the forms that we know.
    #[error("no such source (known: getrandom, file:PATH, seeded:N)")]
    Unknown,
    /// `seeded:` with something that is not a number below 2^64.
    #[error("bad seed")]
    Seed(#[from] ParseIntError),
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(value: &str) -> Result<Self, SourceError> {
        match value.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("seeded", seed)) => Ok(Self::Seeded(seed.parse()?)),
            None if value == "getrandom" => Ok(Self::Getrandom),
            _ if value.contains('/') => Ok(Self::File(value.into())),
            _ => Err(SourceError::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    fn parse(options: &[&str]) -> Result<RngArgs, clap::Error> {
        let fixed = ["vhost-device-rng", "--socket-path", "/tmp/rng.sock"];
        RngArgs::try_parse_from(fixed.iter().chain(options))
    }

    #[test]
    fn the_option_table_is_consistent() {
        RngArgs::command().debug_assert();
    }

    #[test]
    fn every_source_is_parsed() {
        for (value, source) in [
            ("getrandom", Source::Getrandom),
            ("file:/dev/hwrng", Source::File("/dev/hwrng".into())),
            ("file:a:b", Source::File("a:b".into())),
            ("seeded:18446744073709551615", Source::Seeded(u64::MAX)),
        ] {
            assert_eq!(value.parse(), Ok(source));
        }
    }

    #[test]
    fn a_bare_path_is_a_file() {
        for value in ["/dev/urandom", "./fifo", "/dev/a:b"] {
            assert_eq!(value.parse(), Ok(Source::File(value.into())));
        }
    }

    #[test]
    fn a_wrong_source_is_refused_with_the_known_ones() {
        for (value, message) in [
            ("", "known: getrandom"),
            ("urandom", "known: getrandom"),
            ("getrandom:", "known: getrandom"),
            ("file:", "known: getrandom"),
            ("seeded:", "bad seed"),
            ("seeded:-1", "bad seed"),
        ] {
            let error = value.parse::<Source>().unwrap_err().to_string();
            assert!(error.contains(message), "{value}: {error}");
        }
    }

    #[test]
    fn the_file_option_of_other_daemons_is_taken() {
        for option in ["--source", "--filename", "-f"] {
            let args = parse(&[option, "/dev/urandom"]).unwrap();
            assert_eq!(args.source, Source::File("/dev/urandom".into()));
        }
    }

    #[test]
    fn without_options_the_kernel_answers_without_limit() {
        let args = parse(&[]).unwrap();
        assert_eq!((&args.source, args.limit()), (&Source::Getrandom, None));
    }

    #[test]
    fn the_limit_is_bytes_per_period() {
        let limit = parse(&["--max-bytes", "1024", "--period", "500"])
            .unwrap()
            .limit()
            .unwrap();
        assert_eq!(
            (limit.bytes.get(), limit.period),
            (1024, Duration::from_millis(500))
        );
        let limit = parse(&["-m", "1"]).unwrap().limit().unwrap();
        assert_eq!(
            (limit.bytes.get(), limit.period),
            (1, Duration::from_millis(65536))
        );
    }

    #[test]
    fn a_limit_that_gives_nothing_or_nothing_to_limit_is_refused() {
        for options in [
            &["--max-bytes", "0"][..],
            &["--max-bytes", "1", "--period", "0"],
            &["--period", "1"],
        ] {
            assert!(parse(options).is_err(), "{options:?}");
        }
    }
}
