// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The disks that are measured: how one is made, and how each daemon is told to serve it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise, statfs};
use vu_testkit::spawn::Launch;

/// Where the bytes of a disk lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nowhere: requests are answered and no byte is moved.
    Null,
    Tmpfs,
    /// A file on ext4, all of it in the page cache.
    Cached,
    /// A file on ext4, past the page cache.
    Direct,
    /// A RAM disk with compression, past the page cache.
    Zram,
}

/// Of a disk without bytes.
const NULL_SIZE: u64 = 1 << 30;
/// Of the others: far more than a CPU's cache, and quickly written.
const SIZE: u64 = 256 << 20;
/// `f_type` of ext4.
const EXT4: u64 = 0xef53;
/// Of tmpfs.
const SHM: &str = "/dev/shm";

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Null, Self::Tmpfs, Self::Cached, Self::Direct, Self::Zram];
    pub(super) const QUICK: [Self; 2] = [Self::Null, Self::Tmpfs];

    /// One word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Tmpfs => "tmpfs",
            Self::Cached => "ext4-cached",
            Self::Direct => "ext4-direct",
            Self::Zram => "zram",
        }
    }

    /// Why there can be no such disk here. `folder` is for those on ext4.
    pub(super) fn absent(self, folder: &Path) -> Result<Option<String>> {
        let reason = match self {
            Self::Null => None,
            Self::Tmpfs => (!Path::new(SHM).is_dir()).then(|| format!("{SHM}: no such folder")),
            Self::Cached | Self::Direct => {
                let kind = statfs(folder)
                    .with_context(|| folder.display().to_string())?
                    .f_type;
                let other = u64::try_from(kind).ok() != Some(EXT4);
                other.then(|| {
                    format!(
                        "{}: not on ext4; name a folder that is by --dir",
                        folder.display()
                    )
                })
            }
            Self::Zram => {
                let none = "no /dev/zramN that nobody has set up, or it may not be set up";
                free_zram()?.is_none().then(|| none.to_owned())
            }
        };
        Ok(reason)
    }

    /// Whether the page cache is to be left out.
    fn direct(self) -> bool {
        matches!(self, Self::Direct | Self::Zram)
    }
}

/// A disk; its bytes go away with it.
pub(super) struct Disk {
    kind: Kind,
    /// None for a disk without bytes.
    path: Option<PathBuf>,
}

impl Disk {
    /// Makes a disk and fills it with bytes that do not compress; one on ext4 in `folder`.
    pub(super) fn make(kind: Kind, folder: &Path) -> Result<Self> {
        let name = format!("vu-bench-{}.img", std::process::id());
        let path = match kind {
            Kind::Null => None,
            Kind::Tmpfs => Some(Path::new(SHM).join(name)),
            Kind::Cached | Kind::Direct => Some(folder.join(name)),
            Kind::Zram => {
                let number = free_zram()?.context("no zram is free")?;
                let size = zram(number).join("disksize");
                fs::write(&size, SIZE.to_string()).with_context(|| size.display().to_string())?;
                Some(format!("/dev/zram{number}").into())
            }
        };
        let disk = Self { kind, path };
        if let Some(path) = &disk.path {
            fill(path, kind.direct()).with_context(|| path.display().to_string())?;
        }
        Ok(disk)
    }

    /// Of its kind.
    pub(super) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Our daemon on this disk. `--lock off` because the daemons that take turns have the same disk.
    pub(super) fn ours(&self, program: &Path, queues: usize, options: &[String]) -> Launch {
        let program = program.to_string_lossy();
        let launch = Launch::ours(&program, &["--num-queues", &queues.to_string()]);
        let launch = match &self.path {
            None => launch.with(&["--null", &format!("{}M", NULL_SIZE >> 20)]),
            Some(path) => launch.with(&["--path", &path.to_string_lossy(), "--lock", "off"]),
        };
        let direct: &[&str] = if self.kind.direct() { &["--direct"] } else { &[] };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        launch.with(direct).with(&options)
    }

    /// The peer on this disk, in each way that may be its best; with a thread of its own for the requests.
    pub(super) fn peers(&self, queues: usize) -> Result<Vec<(&'static str, Launch)>> {
        let engines: &[&str] = match (&self.path, self.kind.direct()) {
            (None, _) => &["null-co"],
            (Some(_), false) => &["io_uring", "threads"],
            (Some(_), true) => &["io_uring", "native"],
        };
        let launch = |engine: &&'static str| {
            let storage = match &self.path {
                None => format!("driver=null-co,size={NULL_SIZE},read-zeroes=off"),
                Some(path) => {
                    let driver = if self.kind == Kind::Zram {
                        "host_device"
                    } else {
                        "file"
                    };
                    let direct = if self.kind.direct() { "on" } else { "off" };
                    let path = path.display();
                    format!("driver={driver},filename={path},locking=off,aio={engine},cache.direct={direct}")
                }
            };
            let line = format!(
                "qemu-storage-daemon --object iothread,id=worker --blockdev {storage},node-name=disk --export \
                 type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=worker,num-queues={queues},\
                 addr.type=unix,addr.path={{socket}}"
            );
            Ok((*engine, Launch::parse(&line)?))
        };
        engines.iter().map(launch).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        match &self.path {
            None => {}
            Some(path) if self.kind == Kind::Zram => {
                let reset = Path::new("/sys/block")
                    .join(path.file_name().unwrap_or_default())
                    .join("reset");
                if let Err(error) = fs::write(&reset, "1") {
                    eprintln!("warning: {}: {error}", reset.display());
                }
            }
            Some(path) => {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Writes the whole disk, durably. Leaves it in the page cache, read twice so that the kernel has its pages where those of
/// a file in use are; or takes it out of there.
fn fill(path: &Path, direct: bool) -> io::Result<()> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    io::copy(&mut File::open("/dev/urandom")?.take(SIZE), &mut file)?;
    file.sync_all()?;
    if direct {
        return Ok(fadvise(&file, 0, None, Advice::DontNeed)?);
    }
    for _ in 0..2 {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
    }
    Ok(())
}

fn zram(number: usize) -> PathBuf {
    format!("/sys/block/zram{number}").into()
}

/// The first zram without a size, which nobody can be using, if we may set it up.
fn free_zram() -> Result<Option<usize>> {
    for number in 0..16 {
        let size = zram(number).join("disksize");
        match fs::read_to_string(&size) {
            Ok(text) if text.trim() == "0" => {
                return Ok(File::options().write(true).open(&size).is_ok().then_some(number));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| size.display().to_string()),
        }
    }
    Ok(None)
}

/// The version of the peer, as it says itself.
pub(super) fn peer_version() -> Result<String> {
    let mut command = Command::new("qemu-storage-daemon");
    let text = crate::util::capture(command.arg("--version").stdin(Stdio::null()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Disk, Kind};
    use std::path::Path;

    #[test]
    fn both_daemons_serve_the_same_disk() {
        let disk = Disk {
            kind: Kind::Direct,
            path: Some("/nowhere/x.img".into()),
        };
        let ours = disk.ours(Path::new("blk"), 2, &["--aio".to_owned(), "inline".to_owned()]);
        let line = ours.args.join(" ");
        assert_eq!(
            line,
            "--socket-path {socket} --num-queues 2 --path /nowhere/x.img --lock off --direct --aio inline"
        );
        let peers = disk.peers(2).unwrap();
        assert_eq!(
            peers.iter().map(|peer| peer.0).collect::<Vec<_>>(),
            ["io_uring", "native"]
        );
        let line = peers[1].1.args.join(" ");
        for part in [
            "filename=/nowhere/x.img,",
            "aio=native,cache.direct=on",
            "num-queues=2",
            "{socket}",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
