// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which disks there are, in the order of the command line.

use std::fmt;
use std::path::PathBuf;

use clap::parser::MatchesError;
use clap::{ArgMatches, Args, Command, FromArgMatches, Parser};

use vu_storage::nbd::Uri;

use super::options::DiskOptions;
use super::value;

/// What sets the disks apart in the help.
const HEADING: &str = "Disks";

/// One disk with its options.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskArgs {
    /// Where its bytes are.
    pub source: Source,
    /// How it is served.
    pub options: DiskOptions,
}

/// Where the bytes of a disk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A regular file or a block device.
    File(PathBuf),
    /// An export of an NBD server.
    Nbd(Uri),
    /// So many bytes of this process' memory.
    Memory(u64),
    /// Nowhere; so many bytes are said to be there.
    Null(u64),
}

impl fmt::Display for Source {
    /// What the log calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Nbd(uri) => uri.fmt(f),
            Self::Memory(size) => write!(f, "memory of {size} bytes"),
            Self::Null(size) => write!(f, "null of {size} bytes"),
        }
    }
}

/// The disks of the command line.
#[derive(Clone, Debug)]
pub(super) struct Disks(Vec<DiskArgs>);

impl Disks {
    /// Each disk with the options that it has not itself from `defaults`.
    pub(super) fn with_defaults<'a>(
        &'a self,
        defaults: &'a DiskOptions,
    ) -> impl Iterator<Item = DiskArgs> + 'a {
        self.0.iter().map(|disk| DiskArgs {
            source: disk.source.clone(),
            options: disk.options.clone().or(defaults),
        })
    }
}

/// The options that name a disk and nothing more, on the command line and within `--disk`.
#[derive(Debug, Args)]
struct Plain {
    /// Serve the regular file or block device at PATH
    ///
    /// Its bytes are the disk's unless --format says otherwise: a format is never guessed, since a guest could
    /// make its disk look like an image.
    #[arg(long, visible_aliases = ["path", "image"], value_name = "PATH", help_heading = HEADING)]
    blk_file: Vec<PathBuf>,

    /// Serve an export of an NBD server: nbd://host/export or nbd+unix:///export?socket=/path
    ///
    /// Requests wait while there is no server, and are sent again to the next one.
    #[arg(long, value_name = "URI", help_heading = HEADING)]
    nbd: Vec<Uri>,

    /// Serve SIZE bytes of memory (as 64M or 1G), all zero at first and gone with the daemon
    #[arg(long, value_name = "SIZE", value_parser = value::capacity, help_heading = HEADING)]
    memory: Vec<u64>,

    /// Serve SIZE bytes that are not there: everything succeeds, nothing is kept (for measurements)
    #[arg(long, value_name = "SIZE", value_parser = value::capacity, help_heading = HEADING)]
    null: Vec<u64>,
}

/// Those of the command line.
#[derive(Debug, Args)]
struct Named {
    #[command(flatten)]
    plain: Plain,

    /// Serve a disk with options of its own
    ///
    /// The keys are the long options of this help without their dashes: `path=/srv/a.img,serial=a,read-only`.
    /// A comma within a value is written twice. What is not given here is as the other options say.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = disk, help_heading = HEADING)]
    disk: Vec<DiskArgs>,
}

impl FromArgMatches for Disks {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut disks = Vec::new();
        collect(matches, "blk_file", &mut disks, |path| plain(Source::File(path)));
        collect(matches, "nbd", &mut disks, |uri| plain(Source::Nbd(uri)));
        collect(matches, "memory", &mut disks, |size| plain(Source::Memory(size)));
        collect(matches, "null", &mut disks, |size| plain(Source::Null(size)));
        collect(matches, "disk", &mut disks, |disk| disk);
        disks.sort_by_key(|(place, _)| *place);
        Ok(Self(disks.into_iter().map(|(_, disk)| disk).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Disks {
    fn augment_args(command: Command) -> Command {
        Named::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Named::augment_args_for_update(command)
    }
}

fn plain(source: Source) -> DiskArgs {
    DiskArgs {
        source,
        options: DiskOptions::default(),
    }
}

/// Adds what option `id` gave, each with its place on the command line.
fn collect<T: Clone + Send + Sync + 'static>(
    matches: &ArgMatches,
    id: &str,
    disks: &mut Vec<(usize, DiskArgs)>,
    make: impl Fn(T) -> DiskArgs,
) {
    let values: Result<_, MatchesError> = matches.try_get_many::<T>(id);
    if let (Ok(Some(values)), Some(places)) = (values, matches.indices_of(id)) {
        disks.extend(places.zip(values.cloned().map(make)));
    }
}

/// One `--disk`, read as a command line of its own.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Line {
    #[command(flatten)]
    plain: Plain,
    #[command(flatten)]
    options: DiskOptions,
}

/// The value of `--disk`.
fn disk(text: &str) -> Result<DiskArgs, String> {
    let words = split(text).into_iter().map(|word| format!("--{word}"));
    let line = Line::try_parse_from(words).map_err(|e| reason(&e))?;
    let Plain {
        blk_file,
        nbd,
        memory,
        null,
    } = line.plain;
    let files = blk_file.into_iter().map(Source::File);
    let exports = nbd.into_iter().map(Source::Nbd);
    let memories = memory.into_iter().map(Source::Memory);
    let nulls = null.into_iter().map(Source::Null);
    let mut sources = files.chain(exports).chain(memories).chain(nulls);
    match (sources.next(), sources.next()) {
        (Some(source), None) => Ok(DiskArgs {
            source,
            options: line.options,
        }),
        _ => Err("exactly one of path, nbd, memory and null is needed".into()),
    }
}

/// The parts between single commas; a double comma stands for one.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    parts
}

/// The first line of an error of clap, without what introduces it.
fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_comma_is_one_within_a_value() {
        for (text, parts) in [
            ("a", vec!["a"]),
            ("a,b", vec!["a", "b"]),
            ("a,,b,c", vec!["a,b", "c"]),
            ("a,,,b", vec!["a,", "b"]),
            (",", vec!["", ""]),
        ] {
            assert_eq!(split(text), parts);
        }
    }

    #[test]
    fn the_keys_of_a_disk_are_the_long_options() {
        let disk = disk("path=/a,,b,read-only,serial=x,block-size=4K,cpus=0,,2,discard=off").unwrap();
        assert_eq!(disk.source, Source::File("/a,b".into()));
        let options = &disk.options;
        assert_eq!(options.read_only, Some(true));
        assert_eq!((options.block_size, options.discard), (Some(4096), Some(false)));
        assert_eq!(options.serial.as_deref(), Some("x"));
        assert_eq!(options.cpus.as_ref().unwrap().0, [0, 2]);
        assert_eq!(options.lock, None);
    }

    #[test]
    fn a_wrong_disk_is_refused_with_a_reason() {
        for (text, message) in [
            ("serial=x", "exactly one of"),
            ("memory=1M,null=1M", "exactly one of"),
            ("memory=1M,memory=1M", "exactly one of"),
            ("memory=1M,colour=red", "unexpected argument '--colour'"),
            ("memory=lots", "a number of bytes"),
            ("memory=1M,help", "unexpected argument"),
            ("memory=1M,socket-path=x", "unexpected argument"),
            ("", "exactly one of"),
        ] {
            let error = disk(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
