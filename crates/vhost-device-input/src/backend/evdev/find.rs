// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds a device of the host, and hears of those that come.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use super::node::Node;
use super::rule::Rule;

/// Where event devices are.
pub(super) const DIR: &str = "/dev/input";

/// The devices that can be opened, in the order of their numbers.
fn nodes() -> Vec<Node> {
    let number =
        |path: &PathBuf| -> Option<u32> { path.file_name()?.to_str()?.strip_prefix("event")?.parse().ok() };
    let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| number(path).is_some())
        .collect();
    paths.sort_by_key(number);
    paths.iter().filter_map(|path| Node::open(path).ok()).collect()
}

/// The first device that `fits`.
pub(super) fn first(fits: impl Fn(&Node) -> bool) -> Option<Node> {
    nodes().into_iter().find(|node| fits(node))
}

/// The device that a rule means.
///
/// # Errors
/// There is none, or it cannot be opened; says which there are.
pub(super) fn open(rule: &Rule) -> io::Result<Node> {
    if let Rule::Path(path) = rule {
        // Its own error says most, as that it may not be opened. Only what is missing is worth a list.
        return Node::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => e,
        });
    }
    first(|node| rule.fits(&node.facts)).ok_or_else(missing)
}

fn missing() -> io::Error {
    let nodes = nodes();
    let each = nodes
        .iter()
        .map(|node| format!("{} [{}]", node.facts.path.display(), node.facts.name));
    let here = match nodes.len() {
        0 => "none that can be opened".into(),
        _ => each.collect::<Vec<_>>().join(", "),
    };
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("no such device (devices here: {here})"),
    )
}

/// Hears of devices that come.
pub(super) struct Arrivals {
    inotify: OwnedFd,
    places: Vec<PathBuf>,
}

impl Arrivals {
    /// Listens where devices, and the links to them that a rule names, appear.
    pub(super) fn new(rule: &Rule) -> io::Result<Self> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        // The directory itself goes with its last device.
        let mut places = vec![PathBuf::from("/dev"), PathBuf::from(DIR)];
        if let Rule::Path(path) = rule {
            places.extend(
                path.parent()
                    .filter(|parent| *parent != Path::new(DIR))
                    .map(Into::into),
            );
        }
        let arrivals = Self {
            inotify: inotify::init(flags)?,
            places,
        };
        arrivals.listen();
        Ok(arrivals)
    }

    /// A place that is listened to already stays so; one that is missing is not there to be listened to.
    fn listen(&self) {
        // A node is made first, and who may open it is set then.
        let flags = WatchFlags::CREATE | WatchFlags::ATTRIB | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        for place in &self.places {
            if let Err(e) = inotify::add_watch(&self.inotify, place, flags) {
                log::debug!("{}: not listened to: {e}", place.display());
            }
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Whether something has come since this was last asked.
    pub(super) fn some(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        let mut some = false;
        while events.next().is_ok() {
            some = true;
        }
        if some {
            self.listen();
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;

    use vu_testkit::spawn::TempDir;

    use super::{Arrivals, open};
    use crate::backend::evdev::Rule;

    #[test]
    fn what_is_missing_is_told_with_what_there_is() {
        for rule in ["/nowhere/event0", "name=no such name", "id=fffe:fffe"] {
            let error = open(&rule.parse().unwrap()).err().unwrap().to_string();
            assert!(error.starts_with("no such device (devices here: "), "{error}");
        }
    }

    #[test]
    fn what_is_no_event_device_says_so() {
        let error = open(&Rule::Path("/dev/null".into())).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(25), "{error}");
    }

    #[test]
    fn a_link_that_appears_is_heard_of() {
        let dir = TempDir::new().unwrap();
        let path: PathBuf = dir.path().join("usb-keyboard");
        let arrivals = Arrivals::new(&Rule::Path(path.clone())).unwrap();
        while arrivals.some() {}
        File::create(&path).unwrap();
        assert!(arrivals.some());
        fs::remove_file(&path).unwrap();
    }
}
